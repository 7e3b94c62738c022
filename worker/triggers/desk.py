"""The one thread that talks to the ledger about messages: all that comes up during a talk goes into the next one.

A message that was under way when a worker died is run with nothing else beside it, so that if it is what killed that
one, it does not take others with it; each death is counted before it can happen again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable

from worker import log
from worker.amqp import Message
from worker.cores import Cores
from worker.errors import Paused
from worker.ledger import PRUNED, Messages, Note, Standing
from worker.triggers.begun import Begun
from worker.triggers.every import Every
from worker.triggers.office import Office
from worker.triggers.requests import Request

AT_ONCE = 500  # claims in one transaction: the others' first outcomes should not wait for too many
LOOK_SECONDS = 1.0  # how often the ledger is asked about what another worker is at
NUDGE_SECONDS = 0.02
PRUNE_SECONDS = 60.0
TROUBLE_SECONDS = 5.0  # before a message goes back that nothing could be done with


Ended = tuple[Request, Note, Callable[[], None]]
"""A request whose run is over, what is to be written down of it, and what follows once that is durable."""

Judged = tuple[Request, Standing]
"""A request that is not to be run, and why."""


class Desk:
    """Takes messages as they come and ends as they are reached; ``gone`` says whether an owner lives no more.

    Nothing is begun once ``stop`` is set. Its thread is placed with those that run the messages, by ``cores``.
    """

    def __init__(
        self,
        ledger: Messages,
        office: Office,
        cores: Cores,
        gone: Callable[[str], bool],
        stop: threading.Event,
        *,
        lease: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._gone = gone
        self._office = office
        self._cores = cores
        self._stop = stop
        self._clock = clock
        self._arrived: deque[Message] = deque()
        self._ended: deque[Ended] = deque()
        self._requests: dict[tuple[str, str], Request] = {}
        self._unclaimed: deque[Request] = deque()
        self._elsewhere: deque[tuple[float, Request]] = deque()
        self._suspects: deque[Request] = deque()
        self._alone: Request | None = None
        self._claimed: defaultdict[str, deque[Request]] = defaultdict(deque)
        self._begun = Begun()
        self._out: Counter[str] = Counter()
        self._running = 0  # all that are out
        self._returned: deque[Request] = deque()
        self._timers: deque[tuple[float, Callable[[], None]]] = deque()
        self._woken = threading.Event()
        self._heartbeats = Every(lease / 3, clock)
        self._prunings = Every(PRUNE_SECONDS, clock)
        self._nudges = Every(NUDGE_SECONDS, clock)
        self._prunable = False  # whether there was more to forget than at once
        self._heard = True
        self._over = self._draining = False
        self._log = log.get_logger()
        self._thread = threading.Thread(target=self._work, name="messages", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, messages: list[Message]) -> None:
        """Take messages; from any thread. Those that there is no room for wait for the talk that makes some."""
        self._arrived.extend(messages)
        if self._has_room(messages):
            self._woken.set()

    def _has_room(self, messages: Iterable[Message]) -> bool:
        """Whether any of them could be handed out now."""
        return any(self._office.room(queue) > self._out[queue] for queue in {message.queue for message in messages})

    def begin(self, request: Request) -> bool:
        """Whether a request that was handed out may begin now; if not, it is the desk's again. From any thread."""
        if not self._begins_nothing and self._begun.begin(request):
            return True
        self._returned.append(request)
        self._woken.set()
        return False

    def end(self, request: Request, note: Note, then: Callable[[], None]) -> None:
        """Write down the end of a run, and go on with ``then`` once it is durable; from any thread.

        That is at the next talk, which ``wake`` brings about: ends that come together are written down together.
        """
        self._ended.append((request, note, then))

    def secure(self, request: Request) -> None:
        """Have a claim last beyond a power cut, before a run makes a call; from any thread. Raises ``Paused``."""
        self._ledger.sync(request.written)

    def spare(self, request: Request) -> None:
        """A request has ended without a call: that a crash takes its end back costs nothing. From any thread."""
        self._begun.forget(request)

    def wake(self) -> None:
        """Talk now, if there is anything to talk about; from any thread."""
        self._woken.set()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a while; from any thread."""
        self._timers.append((self._clock() + seconds, act))
        self._woken.set()

    def give_back_later(self, messages: Iterable[Message]) -> None:
        """Let the broker give these again in a while; from any thread."""
        for message in messages:
            self.later(TROUBLE_SECONDS, message.give_back)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not (self._arrived or self._ended or self._requests or self._timers)

    @property
    def at_work(self) -> bool:
        """Whether something is running."""
        return self._running > len(self._ended)

    @property
    def settled(self) -> bool:
        """Whether the ledger knows the end of all that was begun."""
        return not (self._running or self._ended)

    def drain(self) -> None:
        """Begin nothing more."""
        self._draining = True

    @property
    def _begins_nothing(self) -> bool:
        """Of a worker that stops, each message would only come to its end, go back, and come again at once."""
        return self._draining or self._stop.is_set()

    def close(self) -> list[Message]:
        """End; returns the messages that nothing has become of: not begun, not ended, or the ledger was away.

        Others may take them at once: nobody died of them.
        """
        self._over = True
        self._woken.set()
        self._thread.join()
        self._turn_safely()  # says the rest
        try:
            self._ledger.release()
        except Paused as trouble:  # nothing is lost: the leases end by themselves
            self._log.warning("messages not let go of", reason=trouble.detail)
        left = [message for request in self._requests.values() for message in request.messages]
        return [*left, *self._arrived]

    def _work(self) -> None:
        self._cores.join()
        while not self._over:
            self._woken.wait(NUDGE_SECONDS if self._running else LOOK_SECONDS / 4)
            self._woken.clear()
            if self._running:
                self._cores.look()
            self._turn_safely()

    def _turn_safely(self) -> None:
        try:
            self.turn()
        except Exception as bug:  # noqa: BLE001 - the thread must live; the broker gives the messages again
            self._tell(bug)
            time.sleep(LOOK_SECONDS)

    def turn(self) -> None:
        """Talk with the ledger about all that came up, and act on what it says."""
        self._ring()
        while self._arrived:
            message = self._arrived.popleft()
            try:
                self._meet(message)
            except Exception as bug:  # noqa: BLE001 - as below
                self._bungled([message], bug)
        self._take_back()
        try:
            self._talk()
            self._hand_out()
            self._keep()
        except Paused as trouble:
            if self._heard:
                self._log.warning("messages wait for the ledger", reason=trouble.detail)
            self._heard = False
            time.sleep(LOOK_SECONDS)
        else:
            self._heard = True
        if self._nudges.due():
            self._office.nudge()

    def _talk(self) -> None:
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        wanted = ended or not self._running or self._has_room(request.message for request in self._unclaimed)
        claims = self._next_claims() if wanted else []
        if not (claims or ended):
            return
        alone, notes = self._alone is not None, [note for _, note, _ in ended]
        try:
            standings, late = self._ledger.record([request.claim(alone=alone) for request in claims], notes, self._gone)
        except Exception:  # whatever it is, the ledger knows nothing of these
            self._put_back(claims, ended)
            raise
        is_free = not any(self._claimed.values())  # else those that wait do so for an end
        judged = self._hear(claims, standings)
        if is_free:
            self._hand_out(self._office.prompt)  # before the disk has it: they would wait only if they made a call
        if ended or judged or any(self._claimed.values()):
            self._act_once_durable(ended, late, judged)
        if self._suspects:  # they may have waited for what has ended
            self._woken.set()

    def _hear(self, claims: list[Request], standings: list[Standing]) -> list[Judged]:
        """Sort out what may be run; returns what has to be answered without."""
        judged: list[Judged] = []
        written = self._ledger.written
        for request, standing in zip(claims, standings, strict=True):
            request.written = written
            request.delivery, request.attempts, request.deaths = standing.delivery, standing.attempts, standing.deaths
            if standing.verdict == "ours":
                self._claimed[request.message.queue].append(request)
                continue
            if request is self._alone:
                self._alone = None
            if standing.verdict == "suspect":
                self._suspects.append(request)
            elif standing.verdict == "busy":
                self._elsewhere.append((self._clock() + LOOK_SECONDS, request))
            else:
                judged.append((request, standing))
        return judged

    def _act_once_durable(self, ended: list[Ended], late: list[Note], judged: list[Judged]) -> None:
        try:
            self._ledger.sync(self._ledger.written)
        except Exception:  # all of it can be told again
            self._put_back([request for request, _ in judged], ended)
            raise
        with self._office.gathered():
            for request, note, then in ended:
                self._leave(request)
                if note in late:
                    self._begin_anew(request)
                    continue
                try:
                    then()
                except Exception as bug:  # noqa: BLE001 - as below
                    self._bungled(request.messages, bug)
            for request, standing in judged:
                self._leave(request)
                self._safely(request.messages, self._office.judge, request, standing)

    def _begin_anew(self, request: Request) -> None:
        """Another worker had taken it over."""
        self._log.warning("message lost", queue=request.message.queue, delivery=request.delivery)
        self._arrived.extend(request.messages)
        self._woken.set()

    def _hand_out(self, may: Callable[[str], bool] = lambda _: True) -> None:
        """Hand out what may soon begin, of the queues that ``may``: were it as soon as a thread is free, a slow ledger
        would let ends pile up that a crash takes back, and with them calls that are made again.
        """
        if self._begins_nothing:
            return
        ready: list[Request] = []
        for queue in filter(may, self._claimed):
            waiting = self._claimed[queue]
            room = self._office.room(queue) - self._out[queue]
            some = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            self._out[queue] += len(some)
            ready += some
        for request in ready:
            request.running = True
        self._running += len(ready)
        if ready:
            self._office.run(ready)

    def _take_back(self) -> None:
        for _ in range(len(self._returned)):
            request = self._returned.popleft()
            self._is_in(request)
            self._claimed[request.message.queue].append(request)

    def _is_in(self, request: Request) -> None:
        self._out[request.message.queue] -= request.running
        self._running -= request.running
        request.running = False

    def _leave(self, request: Request) -> None:
        self._requests.pop(request.place, None)
        self._is_in(request)
        self._begun.forget(request)
        if request is self._alone:
            self._alone = None

    def _meet(self, message: Message) -> None:
        request = self._office.meet(message)
        if request is None:
            return
        known = self._requests.setdefault(request.place, request)
        if known is request:
            self._unclaimed.append(request)
        elif known.sha256 != request.sha256:
            self._office.clash(message)
        else:
            known.join(message)

    def _next_claims(self) -> list[Request]:
        now = self._clock()
        while self._elsewhere and self._elsewhere[0][0] <= now:
            self._unclaimed.append(self._elsewhere.popleft()[1])
        if self._alone or self._begins_nothing:
            return []
        if self._suspects:
            if self._running or any(self._claimed.values()):
                return []
            self._alone = self._suspects.popleft()
            return [self._alone]
        return [self._unclaimed.popleft() for _ in range(min(len(self._unclaimed), AT_ONCE))]

    def _put_back(self, claims: list[Request], ended: list[Ended]) -> None:
        self._ended.extendleft(reversed(ended))
        if self._alone in claims:
            self._suspects.extendleft(claims)
            self._alone = None
        else:
            self._unclaimed.extendleft(reversed(claims))

    def _safely(self, messages: list[Message], act: Callable[..., None], *values: object) -> None:
        """Do what concerns these messages alone."""
        try:
            act(*values)
        except Exception as bug:  # noqa: BLE001 - as below
            self._bungled(messages, bug)

    def _bungled(self, messages: list[Message], bug: Exception) -> None:
        """A bug in what concerns these messages alone must not cost others what is to be done for them."""
        self._tell(bug)
        self.give_back_later(messages)

    def _tell(self, bug: Exception) -> None:
        self._log.error("the worker has a bug", error=type(bug).__name__, where=log.location(bug))

    def _keep(self) -> None:
        if self._running and self._heartbeats.due():
            self._ledger.heartbeat()
        if self._prunings.due() or self._prunable:
            self._prunable = self._ledger.prune() >= PRUNED

    def _ring(self) -> None:
        now = self._clock()
        for _ in range(len(self._timers)):
            at, act = self._timers.popleft()
            if at <= now:
                self._safely([], act)
            else:
                self._timers.append((at, act))
