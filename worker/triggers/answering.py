"""What becomes of a message at its end: a reply, a copy for later or a dead letter is published, and then it is acked.

Nothing is acked before the broker has what follows from it. A queue of the worker's own that has gone is declared
again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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

_TOO_LARGE = (
    "its reply is larger than the broker takes; send fewer rows at once, or raise the broker's max_message_size"
)

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
        self._publishing: list[Request] = []  # one, whichever, for each that is under way: a count without a lock
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
            to = message.reply_to or request.consumed.job.reply_queue
            if reply and to:
                self._reply(request, message, reply, to)
            else:
                self._ack(request, message)

    def _reply(self, request: Request, message: Message, reply: Reply, to: str, *, restored: bool = False) -> None:
        not_taken = partial(self._reply_not_taken, request, message, reply, to, restored)
        try:
            self._publish(request, message, letters.reply(message, reply, to, request.reply_id), not_taken)
        except DeliveryError as error:
            self.bury(request, message, error, error.detail)

    def _reply_not_taken(
        self, request: Request, message: Message, reply: Reply, to: str, restored: bool, how: Sent
    ) -> None:
        fallback = request.consumed.job.reply_queue
        if how is Sent.RETURNED and to == fallback and not restored:
            self._restore(request, lambda: self._reply(request, message, reply, to, restored=True))
        elif how is Sent.RETURNED and fallback and to != fallback:
            self._reply(request, message, reply, fallback)
        else:
            self._not_answered(request, message, how)

    def _not_answered(self, request: Request, message: Message, sent: Sent) -> None:
        if sent is Sent.TOO_LARGE:
            self.bury(request, message, too_large := DeliveryError(_TOO_LARGE), too_large.detail)
            return
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

        def not_taken(how: Sent) -> None:
            if how is Sent.RETURNED and not restored:
                self._restore(request, lambda: self.send_then_ack(request, message, outgoing, restored=True))
            else:
                self._leave(message, _unmoved(outgoing.routing_key, how))

        try:
            self._publish(request, message, outgoing, not_taken)
        except DeliveryError:
            self._publish(request, message, letters.without_senders_headers(outgoing), not_taken)

    def _restore(self, request: Request, then: Callable[[], None]) -> None:
        """Send again to a queue of the worker's own that has gone, once it is declared again."""
        if request.consumed.topology.passive:
            then()
            return
        self._publishing.append(request)

        def restored() -> None:
            try:
                then()
            finally:
                self._publishing.pop()

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

    def _publish(
        self, request: Request, message: Message, outgoing: Outgoing, not_taken: Callable[[Sent], None]
    ) -> None:
        """Send what takes a message's place, and ack that once the broker has it."""
        self._publishing.append(request)
        try:
            self._broker.publish(outgoing, partial(self._sent, request, message, not_taken))
        except DeliveryError:
            self._publishing.pop()
            raise

    def _sent(self, request: Request, message: Message, not_taken: Callable[[Sent], None], how: Sent) -> None:
        try:
            if how is Sent.CONFIRMED:
                self._ack(request, message)
            elif how is not Sent.UNKNOWN:
                not_taken(how)
        finally:
            self._publishing.pop()


def _unmoved(to: str, how: Sent) -> str:
    if how is Sent.RETURNED:
        return f"there is no queue {to}, which its message has to go to; declare it"
    if how is Sent.TOO_LARGE:
        return f"the broker takes no message as large as one for {to}; raise its max_message_size again"
    return f"the queue {to} takes no message; make room in it, raise its limit, or let this user write"
