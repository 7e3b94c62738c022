"""Makes sure that queues are there, as they have to be."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from worker.amqp.losses import Declined
from worker.amqp.steps import Step
from worker.amqp.topology import Queue, Topology, difference, mismatch
from worker.amqp.wire import Channel, Wire
from worker.errors import ConfigError, Problem

NOT_FOUND = 404
MISMATCH = 406


@dataclass(frozen=True, slots=True)
class Seen:
    """The names of queues that are missing, and a sentence for each that is unlike what the worker would declare."""

    missing: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()


class _Channels:
    """A channel to ask on; the broker closes it with every no."""

    def __init__(self, wire: Wire, lost: Callable[[Exception], None]) -> None:
        self._wire = wire
        self._lost = lost
        self._channel: Channel | None = None

    def declare(self, queue: Queue, *, passive: bool) -> Generator[Step, Any, Declined | None]:
        """The broker's no; None: it is there."""
        if not self._channel or not self._channel.is_open:
            self._channel = yield self._wire.channel(self._lost)
        assert self._channel  # noqa: S101 - a step gives what it is for, or raises
        try:
            yield self._channel.declare(queue, passive=passive)
        except Declined as declined:
            return declined
        return None

    def close(self) -> None:
        if self._channel and self._channel.is_open:
            self._channel.close()


def declare(wire: Wire, topology: Topology) -> Generator[Step, Any, Seen]:
    """Declare what is missing, and take what exists as it is; raises ``ConfigError`` where that will not do."""
    return (yield from _ensure(wire, topology, only_look=False))


def look(wire: Wire, topology: Topology) -> Generator[Step, Any, Seen]:
    """See which queues are there; raises ``ConfigError`` for those that will not do. Declares nothing."""
    return (yield from _ensure(wire, topology, only_look=True))


def _ensure(wire: Wire, topology: Topology, *, only_look: bool) -> Generator[Step, Any, Seen]:
    channels = _Channels(wire, lambda _: None)
    missing, unlike, needed = [], [], []
    for queue in topology.queues():
        no = yield from channels.declare(queue, passive=True)
        if no and no.code != NOT_FOUND:
            raise _wrong(queue.name, f"the broker says: {no.said}")
        if no and topology.passive and not (only_look and queue.name == topology.queue):  # which is waited for
            needed.append(queue.name)
        elif no and only_look:
            missing.append(queue.name)
        elif no:
            yield from _declare(channels, queue)
        elif not topology.passive and (what := (yield from _compare(channels, queue))):
            unlike.append(what)
    channels.close()
    if needed:
        raise _not_there(needed)
    return Seen(tuple(missing), tuple(unlike))


def _declare(channels: _Channels, queue: Queue) -> Generator[Step, Any, None]:
    no = yield from channels.declare(queue, passive=False)
    if no and no.code == MISMATCH and queue.exact:
        raise _wrong(queue.name, mismatch(queue, no.said))
    if no and no.code != MISMATCH:  # else somebody else was faster, and it exists as it is
        raise _wrong(queue.name, f"the broker says: {no.said}")


def _compare(channels: _Channels, queue: Queue) -> Generator[Step, Any, str]:
    """How a queue that exists is unlike what would be declared, which leaves it as it is."""
    if queue.exact:
        yield from _declare(channels, queue)
        return ""
    no = yield from channels.declare(queue, passive=False)  # what else is not allowed to this user is no matter
    return difference(queue, no.said) if no and no.code == MISMATCH else ""


def _not_there(queues: Sequence[str]) -> ConfigError:
    are, them = ("queue is", "it") if len(queues) == 1 else ("queues are", "them")
    return _wrong(", ".join(queues), f'the {are} not there; declare {them}, or leave declare = "passive" out')


def _wrong(queue: str, what: str) -> ConfigError:
    return ConfigError([Problem("broker", queue, what)])
