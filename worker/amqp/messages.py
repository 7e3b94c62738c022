"""What comes from a queue and what goes to one, and what the broker said to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

ATTEMPTS = "x-longshore-attempts"
ERROR = "x-longshore-error"  # what makes it a dead letter
_MOST_ATTEMPTS = 1 << 31


class Settling(Protocol):
    """The channel that a message came on, as it is told what became of it; from any thread."""

    @property
    def is_live(self) -> bool:
        """Whether the channel is still there."""

    def settle(self, tag: int, *, requeue: bool) -> None:
        """Take the message with that tag off the queue, or put it back."""


@dataclass(slots=True)  # not frozen, which would cost a message several microseconds
class Message:
    """A message that was taken from ``queue`` and is not settled yet.

    Properties that it came without are empty. ``attempts`` is how often a worker has tried it and sent it to a retry
    queue. ``unreadable`` is why its properties could not be read (a sentence; empty if they could): those that follow
    ``headers`` are still there, and ``headers`` is empty. ``tag`` counts the messages of a channel from 1;
    ``generation`` is the channel's number, new at every connection.
    """

    queue: str
    body: bytes = field(repr=False)
    message_id: str
    correlation_id: str
    reply_to: str
    content_type: str
    content_encoding: str
    type: str
    headers: Mapping[str, Any] = field(repr=False)
    redelivered: bool
    unreadable: str
    generation: int
    tag: int
    settling: Settling = field(repr=False)

    @property
    def attempts(self) -> int:
        """How often it was tried before, by the worker's own header; 0 where that is missing or makes no sense, and for
        a dead letter that was moved back: whoever did so has mended the cause.
        """
        value = 0 if ERROR in self.headers else self.headers.get(ATTEMPTS, 0)
        counts = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_ATTEMPTS
        return int(value) if counts else 0

    @property
    def is_live(self) -> bool:
        """Whether it can still be settled: if not, the broker gives it again."""
        return self.settling.is_live

    def ack(self) -> None:
        """Take it off the queue; from any thread. Forgotten if its channel is gone: the broker has requeued it."""
        self.settling.settle(self.tag, requeue=False)

    def give_back(self) -> None:
        """Put it back into the queue, at once and for anybody; from any thread."""
        self.settling.settle(self.tag, requeue=True)


@dataclass(slots=True)  # not frozen, as above
class Outgoing:
    """A message to publish, persistent and mandatory, to an exchange (the default one leads to the queue of that name).

    It keeps its ``message_id`` however often it has to be sent. ``expiration`` is in seconds.
    """

    routing_key: str
    body: bytes = field(repr=False)
    message_id: str
    correlation_id: str = ""
    content_type: str = ""
    type: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    reply_to: str = ""
    content_encoding: str = ""
    exchange: str = ""
    expiration: float | None = None


class Sent(Enum):
    """The end of a message that was published."""

    CONFIRMED = "confirmed"  # the broker has it, on disk in all durable queues that it went to
    RETURNED = "returned"  # no queue takes it
    REFUSED = "refused"  # the broker has said no each time (a full queue, mostly)
    TOO_LARGE = "too large"  # for the broker, whatever the queue: its max_message_size
    UNKNOWN = "unknown"  # the connection was closed for good before the broker had said anything
