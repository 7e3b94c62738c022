"""Which queues there have to be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

DIRECT_REPLY = "amq.rabbitmq.reply-to"

_MISMATCH = re.compile(
    r"inequivalent arg '(?P<name>[^']*)' for queue '.*' in vhost '.*': "
    r"received (?P<ours>.*) but current is (?P<theirs>.*)$"
)
_QUORUM = {"x-queue-type": "quorum"}
# The broker loses nothing on the way to another queue, either (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
_SURELY = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue. ``exact``: one that exists with other arguments will not do."""

    name: str
    arguments: Mapping[str, Any]
    exact: bool = False


class Topology(Protocol):
    """A queue to take messages from, and those that have to be there with it."""

    @property
    def queue(self) -> str:
        """The name of the one to take from."""

    @property
    def passive(self) -> bool:
        """Whether they are declared by somebody else."""

    def queues(self) -> Iterator[Queue]:
        """All of them, the one to take from last."""


@dataclass(frozen=True, slots=True)
class QueueTopology:
    """A job's queue with ``<queue>.dead``, a ``<queue>.retry.<seconds>`` for each delay, and the reply queue.

    A message in a retry queue goes back to the job's queue when its time is over. What the broker itself drops (after
    too many redeliveries, or as it has expired) goes to the dead letters. ``passive``: operations declares them all.
    """

    queue: str
    reply_queue: str | None = None
    retry_delays: tuple[int, ...] = ()
    passive: bool = False

    @property
    def dead(self) -> str:
        """The queue for what can never work."""
        return f"{self.queue}.dead"

    def retry(self, delay: int) -> str:
        """The queue to wait in for ``delay`` seconds, one of ``retry_delays``."""
        return f"{self.queue}.retry.{delay}"

    def queues(self) -> Iterator[Queue]:
        """All of them, the job's queue last: what is taken from it may need any of the others."""
        yield Queue(self.dead, _QUORUM)
        for delay in self.retry_delays:
            back = {"x-message-ttl": delay * 1000, **_led_to(self.queue)}
            yield Queue(self.retry(delay), MappingProxyType(_QUORUM | back), exact=True)
        if self.reply_queue:
            yield Queue(self.reply_queue, _QUORUM)
        yield Queue(self.queue, MappingProxyType(_QUORUM | _led_to(self.dead)))


@dataclass(frozen=True, slots=True)
class PassingQueue:
    """A queue for a little while, such as for the replies to one command: it goes ``seconds`` after its last use."""

    queue: str
    seconds: int = 300

    @property
    def passive(self) -> bool:
        """It is always declared."""
        return False

    def queues(self) -> Iterator[Queue]:
        """The one."""
        yield Queue(self.queue, MappingProxyType({"x-queue-type": "classic", "x-expires": self.seconds * 1000}))


def _led_to(queue: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, **_SURELY}


def mismatch(queue: Queue, said: str) -> str:
    """A sentence for a broker's PRECONDITION_FAILED to a declaration: what it has, and what the worker declares."""
    return f'{_both_sides(queue, said)}; delete it, or declare it yourself and set declare = "passive"'


def difference(queue: Queue, said: str) -> str:
    """The same for a queue that is taken as it is."""
    advice = 'delete it once it is empty, or set declare = "passive" if it is meant so'
    return f"{_both_sides(queue, said)}; it is taken as it is: {advice}"


def _both_sides(queue: Queue, said: str) -> str:
    found = _MISMATCH.search(said)
    if not found:
        return f"the queue {queue.name} exists, but with other arguments"
    theirs, ours = (_value(found[side]) for side in ("theirs", "ours"))
    return f"the broker's queue {queue.name} has {found['name']} {theirs}, and the worker declares {ours}"


def _value(said: str) -> str:
    """``the value '5000' of type 'signedint'`` -> ``5000``."""
    quoted = re.search(r"'([^']*)'", said)
    return (quoted[1] or "an empty one") if quoted else said
