"""What becomes of a message at its end: a reply, a copy for later or a dead letter is published, and then it is acked.

Nothing is acked before the broker has what follows from it. A queue of the worker's own that has gone is declared
again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from worker import log
from worker.amqp import Broker, Message, Outgoing, Sent
from worker.errors import DeliveryError
from worker.records import Reply
from worker.triggers import letters
from worker.triggers.desk import TROUBLE_SECONDS
from worker.triggers.requests import Request

UNROUTABLE_TIMES = 3  # how often a reply that nobody takes is tried
UNMOVED_SECONDS = TROUBLE_SECONDS + 2.0  # for how long it counts that a message could not be moved: it comes again

RestoreQueues = Callable[[str, Callable[[], None]], None]
"""Declares all that belongs to a queue again, and then calls."""


class Answering:
    """Publishes and acks; called from any thread.

    ``acked`` is told of messages without an id, ``give_back_later`` gets those that could not be moved.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        restore_queues: RestoreQueues,
        acked: Callable[[Request, Message], None],
        give_back_later: Callable[[list[Message]], None],
        work: Path,
        clock: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._restore_queues = restore_queues
        self._acked = acked
        self._give_back_later = give_back_later
        self._work = work
        self._clock = clock
        self._trouble = ("", clock())
        self._publishing = _Count()
        self._log = log.get_logger()

    @property
    def trouble(self) -> str:
        """Why a message could not be moved a moment ago, and what to do; empty if all could."""
        why, since = self._trouble
        return why if self._clock() - since < UNMOVED_SECONDS else ""

    @property
    def idle(self) -> bool:
        """Whether the broker has told what became of all that was published."""
        return not self._publishing

    def answer(self, request: Request, reply: Reply | None) -> None:
        """Send what a request was done with, to whoever wants it."""
        if request.has_folder:
            request.clear(self._work)
        for message in request.messages:
            targets = [to for to in dict.fromkeys((message.reply_to, request.consumed.job.reply_queue)) if to]
            if reply and targets:
                self._reply(request, message, reply, targets)
            else:
                self._ack(request, message)

    def _reply(
        self, request: Request, message: Message, reply: Reply, targets: list[str], *, restored: bool = False
    ) -> None:
        def answered(sent: Sent) -> None:
            if sent is Sent.CONFIRMED:
                self._ack(request, message)
            elif sent is Sent.RETURNED and not restored and targets[0] == request.consumed.topology.reply_queue:
                self._restore(request, lambda: self._reply(request, message, reply, targets, restored=True))
            elif sent is Sent.RETURNED and targets[1:]:
                self._reply(request, message, reply, targets[1:])
            elif sent is not Sent.UNKNOWN:
                self._not_answered(request, message, sent)

        try:
            self._publish(letters.reply(message, reply, targets[0], request.reply_id), answered)
        except DeliveryError as error:
            self.bury(request, message, error, error.detail)

    def _not_answered(self, request: Request, message: Message, sent: Sent) -> None:
        times = letters.header(message, letters.UNROUTABLE) + 1
        if sent is Sent.RETURNED and times >= UNROUTABLE_TIMES:
            error = letters.Unroutable("no queue takes its reply; make the queue that it asks for, or set reply_queue")
            self.bury(request, message, error, error.detail)
            return
        self._log.warning("reply not taken", queue=message.queue, delivery=request.delivery, reason=sent.value)
        counted = times if sent is Sent.RETURNED else times - 1  # a full queue is an outage: no reason to give up
        self.send_then_ack(request, message, request.consumed.again.unroutable(message, request.key, max(counted, 1)))

    def bury_all(self, request: Request, error: Exception, detail: str) -> None:
        """Make a dead letter of each of its messages."""
        if request.has_folder:
            request.clear(self._work)
        for message in request.messages:
            self.bury(request, message, error, detail)

    def bury(self, request: Request, message: Message, error: Exception, detail: str) -> None:
        """Make a dead letter of a message."""
        facts = {"job": request.consumed.job.name, "delivery": request.delivery}
        self._log.warning("dead letter", queue=message.queue, error=type(error).__name__, reason=detail, **facts)
        self.send_then_ack(request, message, letters.dead(message, request.key, error, detail, **facts))

    def send_then_ack(self, request: Request, message: Message, outgoing: Outgoing, *, restored: bool = False) -> None:
        """Send what takes a message's place, a copy for later or a dead letter."""

        def sent(how: Sent) -> None:
            if how is Sent.CONFIRMED:
                self._ack(request, message)
            elif how is Sent.RETURNED and not restored:
                self._restore(request, lambda: self.send_then_ack(request, message, outgoing, restored=True))
            elif how is not Sent.UNKNOWN:
                self._leave(message, _unmoved(outgoing.routing_key, how))

        try:
            self._publish(outgoing, sent)
        except DeliveryError:
            self._publish(letters.without_senders_headers(outgoing), sent)

    def _restore(self, request: Request, then: Callable[[], None]) -> None:
        """Send again to a queue of the worker's own that has gone, once it is declared again."""
        if request.consumed.topology.passive:
            then()
            return
        self._publishing.up()

        def restored() -> None:
            try:
                then()
            finally:
                self._publishing.down()

        self._restore_queues(request.message.queue, restored)

    def _leave(self, message: Message, why: str) -> None:
        """Leave a message in its queue for a while."""
        self._log.error("message not moved", queue=message.queue, reason=why)
        self._trouble = (f"{message.queue}: {why}", self._clock())
        self._give_back_later([message])

    def _ack(self, request: Request, message: Message) -> None:
        if not message.message_id:
            self._acked(request, message)
        message.ack()

    def _publish(self, outgoing: Outgoing, done: Callable[[Sent], None]) -> None:
        self._publishing.up()

        def counted(sent: Sent) -> None:
            try:
                done(sent)
            finally:
                self._publishing.down()

        try:
            self._broker.publish(outgoing, counted)
        except DeliveryError:
            self._publishing.down()
            raise


def _unmoved(to: str, how: Sent) -> str:
    if how is Sent.RETURNED:
        return f"there is no queue {to}, which its message has to go to; declare it"
    return f"the queue {to} takes no message; make room in it, or raise its limit"


class _Count:
    """How many are under way; thread-safe."""

    def __init__(self) -> None:
        self._number = 0
        self._lock = threading.Lock()

    def up(self) -> None:
        with self._lock:
            self._number += 1

    def down(self) -> None:
        with self._lock:
            self._number -= 1

    def __bool__(self) -> bool:
        return self._number > 0
