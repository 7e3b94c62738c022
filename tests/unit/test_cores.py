"""Where row threads run: on one core, unless they could use several."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from itertools import pairwise

import pytest

from worker.cores import FIRST_TRIAL_SECONDS, WINDOW_SECONDS, Cores, Linux, Times
from worker.pool import Pool

ALL = frozenset({0, 1, 2, 3})


class Twin:
    """A machine of four cores; a test says what is used of it while time goes by."""

    def __init__(self, cores: Collection[int] = ALL) -> None:
        self.now = 0.0
        self.seconds = 0.0
        self.busy = dict.fromkeys(cores, 0.0)
        self.hidden: set[int] = set()
        self.ended: set[int] = set()
        self.where: dict[int, Collection[int]] = {}
        self.calmed: list[int] = []
        self.forbids = False
        self._cores = cores

    def cores(self) -> Collection[int]:
        return self._cores

    def place(self, thread: int, cores: Collection[int]) -> None:
        if thread in self.ended:
            raise ProcessLookupError
        self.where[thread] = set(cores)

    def calm(self, thread: int) -> None:
        if self.forbids:
            raise PermissionError
        self.calmed.append(thread)

    def used(self) -> float:
        return self.seconds

    def times(self) -> Mapping[int, Times]:
        return {core: Times(busy, self.now) for core, busy in self.busy.items() if core not in self.hidden}

    @property
    def here(self) -> Collection[int]:
        """Where this thread was put."""
        return self.where.get(threading.get_native_id(), set(self._cores))


class Watched:
    """Cores of a twin, with this thread among theirs."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.cores = Cores(twin, lambda: twin.now)
        self.cores.join()
        self.cores.look()

    def go(self, seconds: float, *, used: float, busy: Mapping[int, float] | None = None) -> list[Collection[int]]:
        """Let time go by, with so many cores used by the process and each core so busy; where this thread was."""
        places = []
        for _ in range(round(seconds / WINDOW_SECONDS)):
            self.twin.now += WINDOW_SECONDS
            self.twin.seconds += used * WINDOW_SECONDS
            for core in self.twin.busy:
                self.twin.busy[core] += (busy or {}).get(core, 0.0) * WINDOW_SECONDS
            self.cores.look()
            places.append(self.twin.here)
        return places


def test_threads_that_use_one_core_are_put_together_on_the_calmest() -> None:
    watched = Watched(Twin())
    assert watched.go(WINDOW_SECONDS, used=1.0, busy={0: 0.6, 1: 0.5, 2: 0.1, 3: 0.9}) == [{2}]


def test_threads_that_use_several_cores_stay_where_they_are() -> None:
    watched = Watched(Twin())
    assert watched.go(5.0, used=3.0) == [ALL] * 40


def test_threads_that_do_not_fill_their_core_are_left_there() -> None:
    watched = Watched(Twin())
    places = watched.go(60.0, used=0.7, busy={0: 0.8})
    assert places == [{1}] * len(places)


def test_where_the_core_is_full_it_is_tried_ever_more_seldom_whether_they_would_use_more() -> None:
    watched = Watched(Twin())
    places = watched.go(130.0, used=1.0, busy=dict.fromkeys(ALL, 0.9375))
    trials = [number * WINDOW_SECONDS for number, place in enumerate(places) if place == ALL]
    gaps = [later - sooner for sooner, later in pairwise(trials)]
    assert trials[0] == pytest.approx(FIRST_TRIAL_SECONDS)
    assert gaps == sorted(gaps)
    assert len(trials) < 10
    assert places[-1] != ALL


def test_those_that_would_use_more_are_spread_until_they_do_not() -> None:
    watched = Watched(Twin())
    watched.go(WINDOW_SECONDS, used=1.0)
    assert watched.go(FIRST_TRIAL_SECONDS + WINDOW_SECONDS, used=1.0, busy=dict.fromkeys(ALL, 1.0))[-1] == ALL
    assert watched.go(10.0, used=2.5) == [ALL] * 80
    assert watched.go(WINDOW_SECONDS, used=0.5) == [{0}]


def test_it_is_known_whether_threads_use_up_the_core_that_they_are_on() -> None:
    watched = Watched(Twin())
    full = dict.fromkeys(ALL, 1.0)
    watched.go(WINDOW_SECONDS, used=1.0)
    assert not watched.cores.is_full, "they were not together yet"
    watched.go(WINDOW_SECONDS, used=0.95)
    assert watched.cores.is_full
    watched.go(WINDOW_SECONDS, used=0.85)
    assert not watched.cores.is_full
    assert watched.go(FIRST_TRIAL_SECONDS, used=1.0, busy=full)[-1] == ALL
    assert watched.cores.is_full, "while it is tried whether they would use more"
    watched.go(WINDOW_SECONDS, used=2.5)
    assert not watched.cores.is_full, "as they do"


def test_after_a_while_without_work_no_core_is_known_to_be_full() -> None:
    watched = Watched(Twin())
    watched.go(2 * WINDOW_SECONDS, used=1.0)
    assert watched.cores.is_full
    watched.twin.now += 60.0
    watched.cores.look()
    assert not watched.cores.is_full


def test_a_core_that_another_program_fills_is_left_for_a_calmer_one() -> None:
    watched = Watched(Twin())
    assert watched.go(WINDOW_SECONDS, used=0.5, busy={1: 0.5, 2: 0.5, 3: 0.5}) == [{0}]
    places = watched.go(3.0, used=0.5, busy={0: 1.0, 1: 0.9, 2: 0.2, 3: 0.9})
    assert places[-1] == {2}


def test_threads_that_had_no_room_for_more_stay_where_they_are() -> None:
    watched = Watched(Twin())
    assert watched.go(5.0, used=0.5, busy=dict.fromkeys(ALL, 0.97)) == [ALL] * 40


def test_where_the_machine_does_not_tell_how_busy_it_is_threads_stay_where_they_are() -> None:
    twin = Twin()
    twin.hidden = {0, 1, 2, 3}
    assert Watched(twin).go(5.0, used=0.5) == [ALL] * 40


def test_a_time_without_work_says_nothing() -> None:
    watched = Watched(Twin())
    watched.twin.now += 3600.0
    watched.cores.look()
    assert watched.twin.here == ALL


def test_a_thread_that_comes_later_is_put_where_the_others_are() -> None:
    watched = Watched(Twin())
    watched.go(WINDOW_SECONDS, used=1.0)
    later = threading.Thread(target=watched.cores.join)
    later.start()
    later.join()
    assert list(watched.twin.where.values()) == [{0}, {0}]


def test_a_thread_that_looks_after_others_for_longer_is_one_of_them_until_it_leaves() -> None:
    watched = Watched(Twin())
    watched.go(WINDOW_SECONDS, used=1.0)

    def look_after() -> None:
        for _ in range(2):
            places.append(watched.twin.here)
            watched.go(WINDOW_SECONDS, used=1.0)
        places.append(watched.twin.here)
        watched.cores.leave()
        places.append(watched.twin.here)

    places: list[Collection[int]] = []
    thread = threading.Thread(target=look_after)
    thread.start()
    thread.join()
    assert places == [ALL, {0}, {0}, ALL]


def test_a_thread_that_has_ended_is_forgotten() -> None:
    watched = Watched(Twin())
    thread = threading.Thread(target=watched.cores.join)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    watched.twin.ended = {thread.native_id}
    watched.go(WINDOW_SECONDS, used=1.0)
    watched.twin.ended = set()
    assert ALL in watched.go(5.0, used=1.0, busy={0: 1.0})
    assert watched.twin.where.keys() == {threading.get_native_id()}


@pytest.mark.parametrize("cores", [{3}, ()])
def test_without_cores_to_choose_from_nothing_is_placed(cores: Collection[int]) -> None:
    watched = Watched(Twin(cores))
    watched.go(5.0, used=1.0)
    assert watched.twin.where == {}


def test_the_threads_of_a_delivery_are_placed_while_they_work() -> None:
    twin = Twin()

    def work(_: int) -> None:
        twin.now += WINDOW_SECONDS / 10

    with Pool(3, Cores(twin, lambda: twin.now)) as pool:
        mine = [twin.here for _ in pool.run(work, ([number] for number in range(1000)))]
        threads = dict(twin.where)
    assert (mine[0], mine[-1]) == (ALL, {0})
    assert threads.pop(threading.get_native_id()) == ALL  # given back at the end
    assert set(map(tuple, threads.values())) == {(0,)}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not place threads")
@pytest.mark.parametrize("forbids", [False, True])
def test_threads_that_join_wait_when_they_wake_unless_that_is_forbidden(forbids: bool) -> None:
    twin = Twin()
    twin.forbids = forbids
    Watched(twin)
    assert twin.calmed == ([] if forbids else [threading.get_native_id()])


def test_the_kernel_is_told_and_tells() -> None:
    machine = Linux()
    mine = machine.cores()
    core, before = min(mine), machine.times()
    try:
        machine.place(threading.get_native_id(), {core})
        assert os.sched_getaffinity(0) == {core}
        used = machine.used()
        while machine.used() - used < 0.1:
            pass
    finally:
        machine.place(threading.get_native_id(), mine)
    after = machine.times()
    assert after[core].busy > before[core].busy
    assert all(times.busy <= times.total for times in after.values())


def test_a_calm_thread_is_one_for_the_kernel() -> None:
    policies = []

    def be_calm() -> None:
        Linux().calm(threading.get_native_id())
        policies.append(os.sched_getscheduler(0))

    calm = threading.Thread(target=be_calm)
    calm.start()
    calm.join()
    assert policies == [os.SCHED_BATCH]
