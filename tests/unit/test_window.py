"""The window against backends that are simulated: calls take as long as there is a queue before them."""

import heapq
import itertools
import threading

import pytest
from fake_backend import Time

from worker.backends.limits import Limits
from worker.backends.window import FIRST
from worker.errors import Unavailable
from worker.records import Meter

STOP = threading.Event()


class Simulated:
    """Works on ``places`` calls at once, for ``seconds`` each, the others queue; from ``refuses`` on it says 503."""

    def __init__(self, places, seconds=0.15, refuses=10_000):
        self.places, self.seconds, self.refuses = places, seconds, refuses
        self.time = Time()
        self.calls = []
        self.free = []
        self.turn = itertools.count()
        self.answered = {}

    def worker(self, threads=64):
        return Limits("billing", "auto", None, threads=threads, clock=self.time, sleep=self.time.sleep)

    def run(self, seconds, *workers):
        """Each worker always has something to ask; notes how many answers it got, and its window at each."""
        until, counts, windows = self.time.now + seconds, [0] * len(workers), [[] for _ in workers]
        while self.time.now < until:
            for number, limits in enumerate(workers):
                while sum(call[2] == number for call in self.calls) < limits.window:
                    self._begin(number, limits)
            self.time.now, _, number, turn, is_refused = heapq.heappop(self.calls)
            self._end(turn, is_refused)
            counts[number] += not is_refused
            windows[number].append(workers[number].window)
        return counts, windows

    def _begin(self, number, limits):
        turn = limits.turn(STOP, Meter())
        turn.__enter__()
        is_refused = len(self.calls) >= self.refuses
        ends = self.time.now + 0.001
        if not is_refused:
            self.free = [at for at in self.free if at > self.time.now]
            start = self.time.now if len(self.free) < self.places else sorted(self.free)[-self.places]
            self.free.append(ends := start + self.seconds)
        heapq.heappush(self.calls, (ends, next(self.turn), number, turn, is_refused))

    def _end(self, turn, is_refused):
        if not is_refused:
            turn.__exit__(None, None, None)
            return
        error = Unavailable("billing", "busy", 503)
        with pytest.raises(Unavailable):
            if not turn.__exit__(Unavailable, error, None):
                raise error


def mean(values):
    return sum(values) / len(values)


def test_it_uses_all_threads_where_the_backend_has_room_for_them():
    backend = Simulated(places=1000)
    limits = backend.worker(threads=64)
    backend.run(2, limits)
    assert limits.window == 64
    _, (windows,) = backend.run(60, limits)
    assert mean(windows) > 62, "measuring costs next to nothing"


@pytest.mark.parametrize("places", [12, 24, 48])
def test_it_stops_growing_where_calls_only_queue(places):
    backend = Simulated(places)
    limits = backend.worker(threads=256)
    backend.run(5, limits)
    (answers,), (windows,) = backend.run(60, limits)
    assert places <= mean(windows) <= 2.5 * places
    assert answers > 0.95 * 60 / backend.seconds * places, "what the backend can do is done"


@pytest.mark.parametrize("refuses", [6, 20, 50])
def test_it_stays_around_where_the_backend_refuses(refuses):
    backend = Simulated(places=1000, refuses=refuses)
    limits = backend.worker(threads=256)
    backend.run(5, limits)
    (answers,), (windows,) = backend.run(60, limits)
    assert refuses / 2 <= mean(windows) <= refuses
    assert answers > 0.6 * 60 / backend.seconds * refuses


def test_it_recovers_from_an_overload_and_from_slowness():
    backend = Simulated(places=1000)
    limits = backend.worker()
    backend.run(2, limits)
    backend.refuses = 2
    backend.run(2, limits)
    assert limits.window <= 2
    backend.refuses = 10_000
    backend.run(20, limits)
    assert limits.window == 64
    backend.seconds = 1.5
    _, (windows,) = backend.run(15, limits)
    assert min(windows) == FIRST
    backend.seconds = 0.15
    backend.run(30, limits)
    assert limits.window == 64


def test_questions_that_got_harder_for_good_are_not_taken_for_a_queue_for_ever():
    backend = Simulated(places=1000, seconds=0.015)
    limits = backend.worker()
    backend.run(2, limits)
    backend.seconds = 0.6
    backend.run(60, limits)
    assert limits.window > 56


def test_two_workers_come_to_about_equal_shares_whoever_was_first():
    backend = Simulated(places=1000, refuses=40)
    first, second = backend.worker(), backend.worker()
    backend.run(5, first)
    backend.run(20, first, second)
    counts, _ = backend.run(60, first, second)
    assert max(counts) < 1.5 * min(counts)
