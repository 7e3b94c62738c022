"""Makes sure that queues are there, as they have to be."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from worker.amqp.losses import Declined
from worker.amqp.steps import Step
from worker.amqp.topology import Queue, Topology, mismatch
from worker.amqp.wire import Channel, Wire
from worker.errors import ConfigError, Problem

NOT_FOUND = 404
MISMATCH = 406


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


def declare(wire: Wire, topology: Topology) -> Generator[Step, Any, None]:
    """Declare what is missing, and take what exists as it is; raises ``ConfigError`` where that will not do."""
    yield from _ensure(wire, topology, only_look=False)


def look(wire: Wire, topology: Topology) -> Generator[Step, Any, tuple[str, ...]]:
    """The queues that are missing; raises ``ConfigError`` for those that will not do. Declares nothing."""
    missing = yield from _ensure(wire, topology, only_look=True)
    return missing


def _ensure(wire: Wire, topology: Topology, *, only_look: bool) -> Generator[Step, Any, tuple[str, ...]]:
    channels = _Channels(wire, lambda _: None)
    missing = []
    for queue in topology.queues():
        no = yield from channels.declare(queue, passive=True)
        if no and no.code != NOT_FOUND:
            raise _wrong(queue, f"the broker says: {no.said}")
        if no and topology.passive and not (only_look and queue.name == topology.queue):  # which is waited for
            raise _wrong(queue, 'the queue is not there; declare it, or leave declare = "passive" out')
        if no and only_look:
            missing.append(queue.name)
        elif no or (queue.exact and not topology.passive):
            yield from _declare(channels, queue)
    channels.close()
    return tuple(missing)


def _declare(channels: _Channels, queue: Queue) -> Generator[Step, Any, None]:
    no = yield from channels.declare(queue, passive=False)
    if no and no.code == MISMATCH and queue.exact:
        raise _wrong(queue, mismatch(queue, no.said))
    if no and no.code != MISMATCH:  # else somebody else was faster, and it exists as it is
        raise _wrong(queue, f"the broker says: {no.said}")


def _wrong(queue: Queue, what: str) -> ConfigError:
    return ConfigError([Problem("broker", queue.name, what)])
