"""Messages become deliveries: taken from a job's queue, claimed in the ledger, run, answered, and only then acked.

The order at the end is always the same: the outcome is durable in the ledger, then what follows from it (a reply, a
copy for later, a dead letter) is published and confirmed, then the message is acked. Whatever happens in between, the
broker gives the message again, and the ledger knows what there is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import Any, Protocol

from worker import exact_json, log
from worker.amqp import Broker, Consumption, Message
from worker.cores import Cores
from worker.errors import DeliveryError, LeftAlone, LostLease, Paused, Stopping, is_unexpected, sentence
from worker.ledger import Messages, Standing
from worker.records import Delivery, Reply
from worker.sockets import Opening
from worker.stopping import Stop
from worker.triggers import letters
from worker.triggers.answering import Answering
from worker.triggers.desk import Desk
from worker.triggers.nameless import Nameless
from worker.triggers.requests import DEATHS, Consumed, Request

GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.05
QUIET_SECONDS = 1.0  # without a message, after which the queues are taken for empty


class Hands(Protocol):
    """Who runs openings; both return at once. ``rested`` is called by a thread that has run what there was for it."""

    rested: Callable[[], None]

    def small(self, queue: str, openings: Sequence[Opening]) -> None:
        """Each is one row."""

    def large(self, opening: Opening) -> None:
        """Many rows, perhaps."""

    def prompt(self, queue: str) -> bool:
        """Whether its small ones are over sooner than a call would be."""


class Queue:
    """All queues of a worker's jobs. ``gone`` says whether an owner lives no more; what is under way is in ``work``.

    Once ``stop`` is set, nothing is begun, also before ``stop()`` is called; once it is over, nothing is waited for.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Messages,
        consumed: Iterable[Consumed],
        hands: Hands,
        cores: Cores,
        gone: Callable[[str], bool],
        *,
        work: Path,
        lease: float,
        stop: Stop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._over = stop.over
        self._consumed = {each.topology.queue: each for each in consumed}
        self._hands = hands
        self._work = work
        self._clock = clock
        self._desk = Desk(ledger, self, cores, gone, stop, lease=lease, clock=clock)
        self._nameless = Nameless(lambda queue, sha256: ledger.left_behind(queue, sha256, gone))
        self._consumptions: dict[str, Consumption] = {}
        self._answering = Answering(
            broker,
            restore_queues=lambda queue, then: self._consumptions[queue].restore(then),
            acked=self._nameless.acked,
            give_back_later=self._desk.give_back_later,
            work=work,
            clock=clock,
        )
        self._last_arrival = clock()
        self._log = log.get_logger()

    def start(self) -> None:
        """Begin to take messages; the broker need not be there yet."""
        self._hands.rested = self._desk.wake
        self._desk.start()
        self._last_arrival = self._clock()
        self._consumptions = {
            queue: self._broker.consume(each.topology, prefetch=each.prefetch, receive=self._receive)
            for queue, each in self._consumed.items()
        }

    def _receive(self, messages: list[Message]) -> None:
        self._last_arrival = self._clock()
        self._desk.put(messages)

    @property
    def trouble(self) -> str:
        """Why a queue is not consumed, or not emptied, and what to do; empty if all are."""
        state = self._broker.state
        if not state.up:
            return f"there is no connection to the broker ({state.reason}); {state.advice}"
        return self.neglected

    @property
    def neglected(self) -> str:
        """The same where there is a connection."""
        reasons = (f"{queue}: {each.reason}" for queue, each in self._consumptions.items() if each.reason)
        return next(reasons, self._answering.trouble)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way and nothing has come for a while."""
        since = self._clock() - self._last_arrival
        return self._desk.idle and self._answering.idle and since >= QUIET_SECONDS and not self.trouble

    def stop(self) -> None:
        """Take no more, finish what was begun, and give back the rest.

        The ledger and the broker get ``GRACE_SECONDS`` to take the last ends; what is not acked by then comes again.
        """
        for consumption in self._consumptions.values():
            consumption.cancel(timeout=0)
        self._wait_until(lambda: all(each.is_idle for each in self._consumptions.values()), GRACE_SECONDS)
        self._desk.drain()
        self._wait_until(lambda: not self._desk.at_work, inf)
        self._wait_until(lambda: self._desk.settled and self._answering.idle, GRACE_SECONDS)
        for message in self._desk.close():
            message.give_back()

    def _wait_until(self, reached: Callable[[], bool], seconds: float) -> None:
        until = self._clock() + seconds
        while not reached() and self._clock() < until and not self._over.is_set():
            time.sleep(LOOK_SECONDS)

    def meet(self, message: Message) -> Request | None:
        """A message as a request; None if that was its end."""
        consumed = self._consumed[message.queue]
        request = Request.of(consumed, message)
        if fault := request.fault():
            self._answering.bury(request, message, fault, fault.detail)
            return None
        if not message.message_id:
            try:
                request.key = self._nameless.key(request)
            except Paused:
                self._desk.give_back_later([message])
                return None
        if consumed.again.is_early(message):
            self._answering.send_then_ack(request, message, consumed.again.turn(message, request.key))
            return None
        return request

    def room(self, queue: str) -> int:
        """How many requests may be handed out: of those that are over at once, all that come."""
        consumed = self._consumed[queue]
        return max(consumed.prefetch, consumed.at_once) if self.prompt(queue) else consumed.at_once

    def prompt(self, queue: str) -> bool:
        """Whether a queue's requests are over sooner than a call would be."""
        return self._hands.prompt(queue)

    def run(self, requests: list[Request]) -> None:
        """Run these, but for one that has killed its workers."""
        most = self._most_deaths
        small: dict[str, list[Opening]] = {}
        for request in requests:
            opening = partial(self._open, request)
            if request.deaths and request.deaths >= most(request):
                killed = DeliveryError(f"the worker died {request.deaths} times while it ran this; correct the job")
                self._fail(request, None, killed)
            elif self._is_small(request):
                small.setdefault(request.message.queue, []).append(opening)
            else:
                self._hands.large(opening)
        for queue, openings in small.items():
            self._hands.small(queue, openings)

    @staticmethod
    def _most_deaths(request: Request) -> int:
        return max(request.consumed.job.max_attempts or DEATHS, 2)  # the first is one of all that ran: none was alone

    @staticmethod
    def _is_small(request: Request) -> bool:
        try:
            return request.is_small
        except DeliveryError:  # it will say so when it is opened
            return False

    def _open(self, request: Request) -> Delivery | None:
        if not self._desk.begin(request):
            return None
        try:
            return request.open(self._work, partial(self._settle, request), partial(self._desk.secure, request))
        except Exception as error:  # noqa: BLE001 - settle decides
            self._settle(request, error)
            return None

    def _settle(self, request: Request, error: Exception | None) -> None:
        # Else the two would refer to each other, and wait for the garbage collector.
        delivery, request.opened = request.opened, None
        if not (delivery and delivery.meter.used):
            self._desk.spare(request)
        if error is None:
            self._finish(request, delivery)
            return
        with log.bound(job=request.consumed.job.name, queue=request.message.queue):
            if isinstance(error, Stopping | LostLease):
                note = request.note(delivery, "waiting")
                self._desk.end(request, note, partial(_give_back, request))
            elif isinstance(error, DeliveryError) or self._is_enough(request, error):
                self._fail(request, delivery, error)
            else:
                self._try_again(request, delivery, error)

    @staticmethod
    def _is_enough(request: Request, error: Exception) -> bool:
        most = request.consumed.job.max_attempts
        tried = not isinstance(error, LeftAlone)
        return most is not None and tried and request.message.attempts + 1 >= most

    def _finish(self, request: Request, delivery: Delivery | None) -> None:
        reply = delivery.reply if delivery else None
        note = request.note(delivery, "done", _packed(reply) if reply else b"")
        self._desk.end(request, note, partial(self._answering.answer, request, reply))

    def _fail(self, request: Request, delivery: Delivery | None, error: Exception) -> None:
        detail = sentence(error)
        self._tell(self._log.error, "message failed", request, error)
        note = request.note(delivery, "failed", error=type(error).__name__, detail=detail)
        self._desk.end(request, note, partial(self._answering.bury_all, request, error, detail))

    def _try_again(self, request: Request, delivery: Delivery | None, error: Exception) -> None:
        detail = sentence(error)
        self._tell(self._log.warning, "message waits", request, error)
        note = request.note(delivery, "waiting", error=type(error).__name__, detail=detail)

        def send() -> None:
            for message in request.messages:
                self._answering.send_then_ack(
                    request, message, request.consumed.again.after(message, request.key, error)
                )

        self._desk.end(request, note, send)

    @staticmethod
    def _tell(say: Callable[..., object], event: str, request: Request, error: Exception) -> None:
        facts = {"error": type(error).__name__, "reason": sentence(error), "delivery": request.delivery}
        where = {"where": log.location(error)} if is_unexpected(error) else {}
        say(event, **facts, **where)

    def gathered(self) -> AbstractContextManager[None]:
        """Send what is answered in the ``with`` at its end."""
        return self._broker.gathered()

    def judge(self, request: Request, standing: Standing) -> None:
        """Answer what is not to be run: it was done or failed, or is a conflict."""
        request.has_folder = not self._is_small(request)
        if standing.verdict == "done":
            self._answering.answer(request, _unpacked(standing.reply) if standing.reply else None)
        elif standing.verdict == "failed":
            error = type(standing.error, (DeliveryError,), {})()  # its name is what the dead letter tells
            self._answering.bury_all(request, error, standing.detail)
        else:
            for message in request.messages:
                self.clash(message)

    def clash(self, message: Message) -> None:
        """Answer a message with the id of another one, and another body."""
        error = letters.Conflict("its message_id came before, with another body; give each request an id of its own")
        self._answering.bury(Request.of(self._consumed[message.queue], message), message, error, error.detail)

    def nudge(self) -> None:
        """See that none waits behind another for long."""
        for queue in self._consumed:
            self._hands.small(queue, [])


def _give_back(request: Request) -> None:
    for message in request.messages:
        message.give_back()


def _packed(reply: Reply) -> bytes:
    """As the ledger keeps it: what is known of it in a line, then the body."""
    return _head(reply.type, reply.content_type, tuple(reply.headers.items())) + reply.body


@lru_cache(maxsize=64)
def _head(kind: str, content_type: str, headers: tuple[tuple[str, Any], ...]) -> bytes:
    return exact_json.dumps([kind, content_type, dict(headers)]) + b"\n"


def _unpacked(data: bytes) -> Reply:
    head, _, body = data.partition(b"\n")
    kind, content_type, headers = exact_json.loads(head)
    return Reply(kind, content_type, body, headers)
