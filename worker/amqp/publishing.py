"""Publishes with confirms, many at once; what the broker has not confirmed is sent again, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count

from worker import log
from worker.amqp.backoff import Backoff
from worker.amqp.codec import encoded
from worker.amqp.link import Link
from worker.amqp.loop import Bell, Loop
from worker.amqp.losses import Declined, Lost
from worker.amqp.messages import Outgoing, Sent
from worker.amqp.steps import Steps, follow
from worker.amqp.topology import Queue
from worker.amqp.wire import Channel, Wire

MOST_MESSAGES = 2_000
MOST_BYTES = 32 << 20
LONGEST_HOLD_SECONDS = 5.0
NOT_FOUND, CONNECTION_FORCED, INTERNAL_ERROR = 404, 320, 541
_TOO_LARGE = "PRECONDITION_FAILED - message size"

Done = Callable[[Sent], None]
"""Told once what became of a message, on the loop's thread: it must not wait."""


@dataclass(slots=True, eq=False)
class _Item:
    outgoing: Outgoing
    content: bytes  # its properties, encoded
    done: Done
    tries: int
    number: int  # where it stands among all
    returned: bool = False


class Publisher:
    """A channel in confirm mode, opened anew as often as it has to be.

    Not more than so many messages and bytes are on their way at once, and none to a broker that has blocked us; the
    rest waits here. Where the broker closes the channel for one of them, they go one by one until it is known which.

    ``direct``: for direct replies, which are sent one by one as well.
    """

    def __init__(self, loop: Loop, link: Link, random: Callable[[], float], *, direct: bool = False) -> None:
        self._direct = direct
        self._loop = loop
        self._link = link
        self._random = random
        self._backoff = Backoff(random)
        self._hold = Backoff(random, LONGEST_HOLD_SECONDS)
        self._waiting: deque[_Item] = deque()
        self._held: list[_Item] = []  # refused, and sent again in a while
        self._sent: dict[int, _Item] = {}
        self._bell = Bell(loop, self._send)
        self._channel: Channel | None = None
        self._numbers = count()
        self._when_idle: Callable[[], None] | None = None
        self._suspects = 0  # the broker has closed the channel for one of so many: one by one
        self._gone = self._opening = self._gathering = self._stale = False
        self._begin_channel()

    def _begin_channel(self) -> None:
        self._last = self._bytes = 0
        self._lowest = 1

    def publish(self, outgoing: Outgoing, done: Done, tries: int) -> None:
        """From any thread; raises ``DeliveryError`` for what cannot be sent."""
        self._waiting.append(_Item(outgoing, encoded(outgoing), done, tries, next(self._numbers)))
        if self._gone:
            self.give_up()
        elif not self._gathering:
            self._bell.ring()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Send what is published in the ``with`` at its end; for one thread at a time.

        Woken by the first of many, the loop would take Python's lock from the thread that has the others.
        """
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            if self._waiting:
                self._bell.ring()

    @property
    def outstanding(self) -> int:
        """How many messages the broker has not answered yet."""
        return len(self._waiting) + len(self._held) + len(self._sent)

    def up(self, wire: Wire) -> None:
        """There is a connection."""
        if not self._opening:
            self._opening = True
            follow(self._begin(wire), lambda _: self._send(), self._failed)

    def _begin(self, wire: Wire) -> Steps:
        channel = yield wire.channel(self._failed)
        yield channel.confirm(self._confirmed, self._returned)
        self._begin_channel()
        self._channel, self._opening, self._stale = channel, False, False

    def _failed(self, error: Exception) -> None:
        """The channel is gone; what was on its way goes back to the front, in order."""
        was_sent, self._sent, self._channel = list(self._sent.values()), {}, None
        self._opening = False
        if isinstance(error, Declined) and error.code != CONNECTION_FORCED and was_sent:
            # Without the rest of what it says, which may be an address that the asker gave.
            reason = f"{error.code} {error.said.partition(' ')[0]}"
            log.get_logger().warning("message not taken", reason=reason, suspects=len(was_sent))
            self._suspects = len(was_sent)
            if self._suspects == 1:
                item = was_sent.pop()
                self._suspects = 0
                self._backoff.reset()  # it was the message, not the broker
                self._settle(item, _end(error))
        for item in was_sent:
            item.returned = False
        self._waiting.extendleft(reversed(was_sent))
        if self._link.wire:
            self._loop.later(self._backoff.wait(), self._again)

    def _again(self) -> None:
        if self._link.wire and not self._channel:
            self.up(self._link.wire)

    def down(self, error: Exception) -> None:
        """The connection is gone; the channel, if there was one, has said so already."""

    def unblocked(self) -> None:
        """The broker takes messages again."""
        self._send()

    def _send(self) -> None:
        if self._waiting and self._channel:
            with self._channel.gathered(), suppress(Lost):  # of which the channel tells: all is sent again then
                self._send_to(self._channel)

    def _send_to(self, channel: Channel) -> None:
        most = self._most
        while self._waiting and len(self._sent) < most and self._bytes < MOST_BYTES:
            item = self._waiting.popleft()
            self._last += 1
            self._sent[self._last] = item
            self._bytes += len(item.outgoing.body)
            if self._direct:
                follow(self._send_directly(channel, item), lambda _: None, self._failed)
            else:
                channel.publish(item.outgoing, item.content, mandatory=True)

    @staticmethod
    def _send_directly(channel: Channel, item: _Item) -> Steps:
        """A direct reply counts as routed nowhere (https://www.rabbitmq.com/docs/direct-reply-to): ask who is there."""
        yield channel.declare(Queue(item.outgoing.routing_key, {}), passive=True)
        channel.publish(item.outgoing, item.content, mandatory=False)

    @property
    def _most(self) -> int:
        """How many messages may be on their way."""
        if self._link.state.blocked:
            return 0
        return 1 if self._suspects or self._direct else MOST_MESSAGES

    def _confirmed(self, number: int, multiple: bool, taken: bool) -> None:
        self._backoff.reset()
        first = self._lowest if multiple else number
        if multiple:
            self._lowest = number + 1
        if taken:
            self._hold.reset()
        for each in range(first, number + 1):
            if item := self._sent.pop(each, None):
                self._bytes -= len(item.outgoing.body)
                self._suspects -= self._suspects > 0
                if taken:
                    self._settle(item, Sent.RETURNED if item.returned else Sent.CONFIRMED)
                else:
                    self._refused(item)
        if self._stale and not self._sent and self._channel:
            self._channel.close()
        elif self._waiting and not self._gathering:
            self._bell.ring()

    def _refused(self, item: _Item) -> None:
        item.tries -= 1
        if item.tries <= 0:
            # RabbitMQ 3.10 says no to this channel for ever where the limit of a full quorum queue was taken away.
            self._stale = True
            self._settle(item, Sent.REFUSED)
            return
        if not self._held:
            self._loop.later(self._hold.wait(), self._release)
        self._held.append(item)

    def _release(self) -> None:
        held, self._held = self._held, []
        self._waiting.extendleft(sorted(held, key=lambda item: item.number, reverse=True))
        self._send()

    def _returned(self, exchange: str, routing_key: str, message_id: str) -> None:
        for item in self._sent.values():
            outgoing = item.outgoing
            if (
                outgoing.message_id == message_id
                and not item.returned
                and outgoing.routing_key == routing_key
                and outgoing.exchange == exchange
            ):
                item.returned = True
                return

    def _settle(self, item: _Item, sent: Sent) -> None:
        try:
            item.done(sent)
        except Exception:  # noqa: BLE001 - a bug must not cost the connection
            log.get_logger().exception("the end of a message could not be taken")
        if self._when_idle and not self.outstanding:
            self._when_idle()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call it when the broker has answered all messages."""
        self._when_idle = callback
        if not self.outstanding:
            callback()

    def give_up(self) -> None:
        """Nothing will be answered any more; from any thread once the loop has ended."""
        self._gone = True
        self._when_idle = None
        self._waiting.extendleft(reversed([*self._sent.values(), *self._held]))
        self._sent, self._held = {}, []
        with suppress(IndexError):  # the end; or somebody who hands one over just now has been here, too
            while True:
                self._settle(self._waiting.popleft(), Sent.UNKNOWN)


def _end(error: Declined) -> Sent:
    """Of the message that the broker has closed the channel for."""
    if error.code in (NOT_FOUND, INTERNAL_ERROR):
        return Sent.RETURNED
    return Sent.TOO_LARGE if _TOO_LARGE in error.said else Sent.REFUSED
