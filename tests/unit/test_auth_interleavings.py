"""A fleet under any interleaving of calls, expiries, refusals, deaths and a store that is down: what never happens.

Processes run in threads of their own, but only one at a time: each stops where it would wait, that is before the token
endpoint answers and before it has slept, and goes on when the script says so.
"""

import threading
from contextlib import suppress
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from token_server import ORIGIN, Fleet, answer

from worker.auth import MemoryTokenStore
from worker.errors import BackendError, Paused
from worker.records import Meter

PROCESSES = 3
LEASE = 15  # the usual timeout and five seconds
LIFETIME = 300
EARLIEST_REFRESH = 0.75 * LIFETIME
REFRESHING = "token refresh"


class Killed(BaseException):
    """The process is gone, and with it all that it had in memory."""


class MoodyStore:
    """A store that is there, or not."""

    def __init__(self, store):
        self._store = store
        self.down = False

    def __getattr__(self, name):
        if self.down:
            raise Paused("the ledger cannot be used")
        return getattr(self._store, name)


class Baton:
    """Lets threads go on one at a time."""

    def __init__(self):
        self._changed = threading.Condition()
        self._orders = {}  # paused threads, and what they are to do when they go on

    def pause(self):
        """Wait for an order; called by the threads."""
        me = threading.current_thread()
        with self._changed:
            self._orders[me] = None
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._orders[me], 10)
            return self._orders.pop(me)

    def order(self, which, order):
        """Let one paused thread go on, until it pauses again or ends."""
        with self._changed:
            thread = list(self._orders)[which % len(self._orders)]
            self._orders[thread] = order
            self._changed.notify_all()
        self.settle()

    def settle(self):
        """Return when everybody is paused or gone."""
        for thread in threading.enumerate():
            while thread.name in ("process", REFRESHING) and thread.is_alive():
                with self._changed:
                    if thread in self._orders and not self._orders[thread]:
                        break
                    self._changed.wait(0.001)

    @property
    def paused(self):
        return len(self._orders)


class World:
    """The fleet, and what may happen to it."""

    def __init__(self):
        self.fleet = Fleet()
        self.store = MoodyStore(self.fleet.store)
        self.baton = Baton()
        self.errors, self.ends, self.most_asking = [], {}, 0
        self.asking = {}  # the requests under way: by which process, and since when
        self.processes = [self._process(number) for number in range(PROCESSES)]
        self.tickets = [None] * PROCESSES
        self.busy = [None] * PROCESSES

    def play(self, script):
        for action, value in script:
            getattr(self, action)(value)
        while self.baton.paused:
            self.baton.order(0, "go on")
        assert not self.errors
        return self

    def call(self, number, *, refuse=False):
        asking = any(
            number == each for each, _ in self.asking.values()
        )  # a call would join that flight, and stop where no script can see it
        if asking or (self.busy[number] and self.busy[number].is_alive()):
            return
        self.busy[number] = threading.Thread(target=self._call, args=(number, refuse), name="process", daemon=True)
        self.busy[number].start()
        self.baton.settle()

    def refuse(self, number):
        self.call(number, refuse=True)

    def wait(self, seconds):
        """Time passes, but not so much that an answer comes later than any timeout lets it."""
        longest = LEASE - 1 if self.asking else seconds
        self.fleet.clock.now += min(seconds, longest - self._asked_for())

    def dawdle(self, seconds):
        """Time passes, and leases may run out over it."""
        self.fleet.clock.now += min(seconds, 4 * LEASE) if self.asking else seconds

    def go(self, which):
        if self.baton.paused:
            self.baton.order(which, "go on")

    def fail(self, which):
        if self.baton.paused:
            self.baton.order(which, "fail")

    def die(self, which):
        if self.baton.paused:
            self.baton.order(which, "die")

    def break_store(self, down):
        self.store.down = down

    def _asked_for(self):
        return max((self.fleet.clock.now - sent for _, sent in self.asking.values()), default=0.0)

    def _process(self, number):
        return self.fleet.worker(store=self.store, sleep=self._sleep, send=partial(self._serve, number))

    def _call(self, number, refuse):
        worker = self.processes[number]
        try:
            with suppress(BackendError):
                if refuse and self.tickets[number]:
                    worker.refused(self.tickets[number])
                self.tickets[number] = worker.ticket(Meter(), ORIGIN)
                assert self.fleet.clock.now < self.ends[self.tickets[number].token.access_token], "it has expired"
        except Killed:
            self.processes[number], self.tickets[number] = self._process(number), None
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            self.errors.append(error)

    def _serve(self, number, request):
        sent, me = self.fleet.clock.now, object()
        self.asking[me] = number, sent
        self.most_asking = max(self.most_asking, len(self.asking))
        try:
            order = self.baton.pause()
        finally:
            del self.asking[me]
        if order == "die" and threading.current_thread().name != REFRESHING:
            raise Killed
        if order == "fail":
            return answer(503)
        granted = self.fleet.server(request)
        self.ends[granted.body.decode().split('"')[3]] = sent + LIFETIME
        return granted

    def _sleep(self, seconds):
        if self.baton.pause() == "die":
            raise Killed
        self.fleet.clock.now += seconds


def scripts(*actions):
    return st.lists(st.one_of(*actions), min_size=4, max_size=30)


def action(name, values):
    return st.tuples(st.just(name), values)


CALL, REFUSE = action("call", st.integers(0, PROCESSES - 1)), action("refuse", st.integers(0, PROCESSES - 1))
GO, FAIL, DIE = (action(name, st.integers(0, 5)) for name in ("go", "fail", "die"))
TIMES = st.sampled_from([0.1, 1.0, 5.0, 30.0, 100.0, 241.0, 300.0, 3600.0])
WAIT, DAWDLE, STORE = action("wait", TIMES), action("dawdle", TIMES), action("break_store", st.booleans())


@given(scripts(CALL, CALL, REFUSE, GO, GO, FAIL, DIE, WAIT, DAWDLE, STORE))
@settings(max_examples=150, deadline=None)
def test_no_expired_token_is_handed_out_and_a_call_ends_in_a_token_or_in_a_decision(script):
    World().play(script)


@given(scripts(CALL, CALL, REFUSE, GO, GO, FAIL, WAIT))
@settings(max_examples=150, deadline=None)
def test_while_nobody_dies_and_answers_come_within_the_lease_one_asks_at_a_time(script):
    assert World().play(script).most_asking <= 1


@given(scripts(CALL, CALL, GO, GO, WAIT))
@settings(max_examples=150, deadline=None)
def test_the_fleet_asks_no_more_often_than_tokens_age(script):
    world = World().play(script)
    elapsed = world.fleet.clock.now - 1000
    assert len(world.fleet.server.requests) <= 1 + elapsed / EARLIEST_REFRESH


def test_a_clock_of_the_store_that_is_put_forward_an_hour_costs_one_request():
    fleet = Fleet()
    now = [0.0]
    fleet.store = MemoryTokenStore(lambda: now[0])
    tokens = {fleet.worker().token(Meter()).access_token}
    now[0] += 3600
    tokens |= {fleet.worker().token(Meter()).access_token for _ in range(3)}
    assert len(tokens) == len(fleet.server.requests) == 2


def test_a_clock_of_the_store_that_is_put_back_an_hour_makes_no_token_older_than_it_may_get():
    fleet = Fleet()
    now = [10_000.0]
    fleet.store = MemoryTokenStore(lambda: now[0])
    fleet.worker().token(Meter())
    now[0] -= 3600
    assert fleet.worker().token(Meter()).left(fleet.clock()) == 300


def test_a_clock_of_the_store_that_is_put_back_an_hour_ends_a_lease_and_a_backoff():
    fleet = Fleet()
    now = [10_000.0]
    fleet.store = MemoryTokenStore(lambda: now[0])
    fleet.store.lead(fleet.key(), "dead", LEASE)
    now[0] -= 3600
    began = fleet.clock()
    fleet.worker().token(Meter())
    version = fleet.store.lead(fleet.key(), "other", LEASE)
    fleet.store.fail(fleet.key(), version, "Unavailable since then: no answer", 30)
    fleet.store.forget(fleet.key(), version + 1)
    now[0] -= 3600
    fleet.worker().token(Meter())
    assert fleet.clock() == began
    assert len(fleet.server.requests) == 2
