"""Takes messages from a queue: a channel that is opened anew as often as it has to be."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from worker import log
from worker.amqp import declaring
from worker.amqp.acks import Acks
from worker.amqp.backoff import Backoff
from worker.amqp.incoming import Arrived
from worker.amqp.link import Link, said
from worker.amqp.loop import Bell, Loop, guarded
from worker.amqp.losses import Lost
from worker.amqp.messages import Message
from worker.amqp.steps import Steps, follow
from worker.amqp.topology import Topology
from worker.amqp.wire import Channel, Wire
from worker.errors import ConfigError

Receive = Callable[[list[Message]], None]
"""Takes what has arrived, on the loop's thread: it must not wait."""


class Intake:
    """One generation of a consumption: a channel, what came on it, and what became of that."""

    def __init__(self, loop: Loop, channel: Channel, topology: Topology, generation: int, receive: Receive) -> None:
        self._channel = channel
        self._queue = topology.queue
        self._generation = generation
        self._receive = receive
        self._arrived: list[Message] = []
        self._done: deque[int] = deque()  # tags, as below
        self._given_back: deque[int] = deque()
        self._acks = Acks()
        self._delivery = Bell(loop, self.deliver)
        self._settlement = Bell(loop, self._settle)

    def arrive(self, arrived: Arrived, unreadable: str = "") -> None:
        """Keep a message until all that came with it is there."""
        if not self._arrived:
            self._delivery.ring()
        tag, redelivered, texts, headers, body = arrived
        self._arrived.append(
            Message(self._queue, body, *texts, headers, redelivered, unreadable, self._generation, tag, self)
        )

    def deliver(self) -> None:
        """Hand over what has arrived."""
        arrived, self._arrived = self._arrived, []
        if not arrived or not self._channel.is_open:  # in which case they come again, on another one
            return
        try:
            self._receive(arrived)
        except Exception:  # noqa: BLE001 - a bug must not cost the connection
            log.get_logger().exception("messages could not be taken")
            self._channel.close()  # which has the broker give them again

    @property
    def is_live(self) -> bool:
        """Whether the channel is still there; from any thread."""
        return self._channel.is_open

    def settle(self, tag: int, *, requeue: bool) -> None:
        """From any thread; without effect once the channel is gone."""
        (self._given_back if requeue else self._done).append(tag)
        self._settlement.ring()

    def _settle(self) -> None:
        done, given_back = _emptied(self._done), _emptied(self._given_back)
        if not self._channel.is_open:
            return
        with self._channel.gathered(), suppress(Lost):  # in which case the messages come again
            for tag, multiple in self._acks.settle(done):
                self._channel.ack(tag, multiple=multiple)
            for tag in self._acks.put_back(given_back):
                self._channel.requeue(tag)


def _emptied(tags: deque[int]) -> list[int]:
    return [tags.popleft() for _ in range(len(tags))]


class Consumption:
    """A queue that is consumed, for ever: also when it is missing, deleted, or its broker down."""

    def __init__(
        self, loop: Loop, link: Link, topology: Topology, prefetch: int, receive: Receive, random: Callable[[], float]
    ) -> None:
        self.topology = topology
        self._loop = loop
        self._link = link
        self._prefetch = prefetch
        self._receive = receive
        self._backoff = Backoff(random)
        self._generation = 0
        self._channel: Channel | None = None
        self._intake: Intake | None = None
        self._cancelled = False
        self._idle = threading.Event()
        self._log = log.get_logger().bind(queue=topology.queue)
        self._unlike: tuple[str, ...] = ()
        self._restored: list[Callable[[], None]] = []  # who waits for the queues to be declared again
        self.begun = threading.Event()  # set while it consumes
        self.reason = "not connected yet"  # why it does not
        self.refused = False  # whether that is what the broker says, and not that there is none

    def up(self, wire: Wire) -> None:
        """There is a connection: declare and consume."""
        if not self._cancelled:
            self._generation += 1
            generation = self._generation
            follow(self._begin(wire), lambda _: None, lambda error: self._failed(error, generation))

    def _begin(self, wire: Wire) -> Steps:
        generation = self._generation
        self._tell((yield from declaring.declare(wire, self.topology)).unlike)
        channel = yield wire.channel(lambda error: self._failed(error, generation))
        intake = Intake(self._loop, channel, self.topology, generation, self._receive)
        yield channel.prefetch(self._prefetch)
        if self._cancelled:
            channel.close()
            return
        self._channel, self._intake = channel, intake
        yield channel.consume(self.topology.queue, intake.arrive, lambda: self._stopped_by_broker(generation))
        self._backoff.reset()
        self.reason = ""
        self.begun.set()
        self._log.info("queue consumed", prefetch=self._prefetch)
        if self._cancelled:
            self._stop()

    def _tell(self, unlike: tuple[str, ...]) -> None:
        for what in unlike:
            if what not in self._unlike:
                self._log.warning("queue is another one", reason=what)
        self._unlike = unlike

    def _stopped_by_broker(self, generation: int) -> None:
        """The queue was deleted, or its node is gone: what came from it is lost to this channel."""
        channel = self._channel
        self._failed(Lost("the broker gives no more of it: it was deleted, or its node is gone"), generation)
        if channel and channel.is_open:
            channel.close()

    def _failed(self, error: Exception, generation: int) -> None:
        if generation != self._generation:
            return
        self._generation += 1
        self._channel = self._intake = None
        self.begun.clear()
        reason, self.refused = said(error), isinstance(error, ConfigError)
        if self.reason != reason and not self._link.closing:
            self.reason = reason
            self._log.warning("queue not consumed", reason=reason)
        if self._cancelled:
            self._idle.set()
        elif self._link.wire:
            generation = self._generation
            self._loop.later(self._backoff.wait(), lambda: self._again(generation))

    def _again(self, generation: int) -> None:
        if self._link.wire and generation == self._generation:
            self.up(self._link.wire)

    def down(self, error: Exception) -> None:
        """The connection is gone."""
        self._failed(error, self._generation)

    def unblocked(self) -> None:
        """Blocking is for those who publish."""

    def restore(self, done: Callable[[], None]) -> None:
        """Declare its queues again, as one has gone; ``done`` is told, on the loop's thread, however that ends."""
        self._loop.wake(lambda: self._restore(done))

    def _restore(self, done: Callable[[], None]) -> None:
        self._restored.append(done)
        if len(self._restored) > 1:  # it is being done
            return
        if self._link.wire:
            follow(declaring.declare(self._link.wire, self.topology), lambda _: self._is_restored(), self._not_restored)
        else:
            self._is_restored()

    def _not_restored(self, error: Exception) -> None:
        self._log.warning("queues not declared again", reason=said(error))
        self._is_restored()

    def _is_restored(self) -> None:
        waiting, self._restored = self._restored, []
        for done in waiting:
            guarded(done)()

    def cancel(self, timeout: float = 10) -> None:
        """Take no more; returns when nothing more will come. Messages may still be settled. Not from the loop."""
        self._loop.wake(self._cancel)
        self._idle.wait(timeout)

    @property
    def is_idle(self) -> bool:
        """Whether nothing more will come, after ``cancel``."""
        return self._idle.is_set()

    def _cancel(self) -> None:
        self._cancelled = True
        if not self._channel:
            self._idle.set()
        elif not self.reason:  # else it has just asked to consume, and stops when that is answered
            self._stop()

    def _stop(self) -> None:
        channel, intake = self._channel, self._intake
        if channel and intake:
            follow(self._end(channel, intake), lambda _: self._idle.set(), lambda _: self._idle.set())

    @staticmethod
    def _end(channel: Channel, intake: Intake) -> Steps:
        yield channel.cancel()
        intake.deliver()
