import threading
import time

import pytest
from fake_backend import Time

from worker.backends.limits import Limits
from worker.errors import Interrupted, Refused, Unavailable
from worker.records import Meter

STOP = threading.Event()
SECONDS = 10  # after which a test that hangs fails


def limits(concurrency="auto", rate=None, threads=64):
    twin = Time()
    return Limits("billing", concurrency, rate, threads=threads, clock=twin, sleep=twin.sleep), twin


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def run(limit, error=None):
    if error is None:
        with limit.turn(STOP, Meter()):
            return
    with pytest.raises(type(error)), limit.turn(STOP, Meter()):
        raise error


def test_auto_grows_while_the_backend_keeps_up_and_not_beyond_the_threads():
    limit, _ = limits(threads=16)
    assert limit.window == 8
    for _ in range(20):
        run(limit)
    assert limit.window == 16


@pytest.mark.parametrize("status", [429, 503, None])
def test_auto_halves_when_the_backend_is_overloaded(status):
    limit, time = limits()
    time.now = 1
    run(limit, Unavailable("billing", "busy", status))
    assert limit.window == 4


@pytest.mark.parametrize("error", [Refused("billing", "no", 404), Unavailable("billing", "bug", 500)])
def test_an_error_that_is_no_sign_of_load_leaves_the_window(error):
    limit, _ = limits()
    run(limit, error)
    assert limit.window == 8


def test_after_a_cut_the_window_grows_by_one_a_round():
    limit, _ = limits()
    run(limit, Unavailable("billing", "busy", 503))
    for _ in range(5):
        run(limit)
    assert limit.window == 5


def test_requests_that_were_under_way_together_cut_the_window_once():
    limit, time = limits()
    busy = Unavailable("billing", "busy", 503)
    with pytest.raises(Unavailable), limit.turn(STOP, Meter()):
        time.now += 1
        with pytest.raises(Unavailable), limit.turn(STOP, Meter()):
            time.now += 1
            raise busy
        raise busy
    assert limit.window == 4


def test_a_fixed_concurrency_neither_grows_nor_shrinks():
    limit, _ = limits(concurrency=3)
    run(limit)
    run(limit, Unavailable("billing", "busy", 503))
    assert limit.window == 3


def test_a_full_window_waits_until_stopped():
    limit, _ = limits(concurrency=1)
    stop = threading.Event()
    stop.set()
    with limit.turn(STOP, Meter()), pytest.raises(Interrupted), limit.turn(stop, Meter()):
        pass


def test_a_call_that_waits_for_others_to_end_is_held_up_until_it_may_begin():
    limit, _ = limits(concurrency=1)
    meter, begun, end = Meter(), threading.Event(), threading.Event()

    def call():
        with limit.turn(STOP, meter):
            begun.set()
            end.wait(SECONDS)

    with limit.turn(STOP, meter):
        assert not meter.held_up
        waiting = threading.Thread(target=call)
        waiting.start()
        wait_for(lambda: len(meter.held_up) == 1)
    assert begun.wait(SECONDS)
    assert not meter.held_up
    end.set()
    waiting.join()


def test_a_rate_spaces_requests_evenly():
    limit, time = limits(rate=4)
    for _ in range(3):
        run(limit)
    assert time.slept == [0.25, 0.25]


def test_a_pause_asked_of_one_thread_is_kept_by_all():
    limit, time = limits()
    run(limit, Unavailable("billing", "busy", 429, retry_after=30))
    run(limit)
    assert time.slept == [30]


def test_a_pause_is_kept_by_those_that_wait_for_their_start_too():
    limit, time = limits(rate=2)
    starts = []

    def busy_meanwhile(stop, seconds):
        time.sleep(stop, seconds)
        if not starts:  # another thread is answered
            limit.hold(6)
            starts.append(None)
        return False

    run(limit)
    limit._sleep = busy_meanwhile
    run(limit)
    assert time.slept == [0.5, 6]
    run(limit)
    assert time.slept == [0.5, 6, 0.5]


def test_nobody_waits_for_a_pause_of_more_than_half_a_minute():
    limit, time = limits()
    run(limit, Unavailable("billing", "busy", 503, retry_after=900))
    with pytest.raises(Unavailable) as caught, limit.turn(STOP, Meter()):
        pass
    assert caught.value.retry_after == 900
    assert time.slept == []
