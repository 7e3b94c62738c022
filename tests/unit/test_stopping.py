import multiprocessing
import signal
import sys
import threading
import time

import pytest

from worker.stopping import Grace, Stop, stopped_by_signals

SECONDS = 10  # after which a test that hangs fails


@pytest.fixture
def stop():
    before = sys.getswitchinterval()
    yield Stop()
    sys.setswitchinterval(before)


def test_a_part_of_a_stop_is_set_with_it_or_alone(stop):
    first, second = stop.part(), stop.part()
    first.set()
    assert (second.is_set(), stop.is_set()) == (False, False)
    stop.set()
    assert (second.is_set(), stop.part().is_set()) == (True, True)


def test_what_does_not_end_is_cut_off_then_given_up_and_then_not_waited_for(stop, capture_log):
    steps = []
    Grace(
        stop,
        0,
        cut_off=lambda: steps.append(("cut off", stop.late.is_set(), stop.over.is_set())),
        give_up=lambda: steps.append(("given up", stop.over.is_set())),
        last=0.01,
    )
    assert steps == []
    stop.set()
    assert stop.over.wait(SECONDS)
    assert steps == [("cut off", True, False), ("given up", False)]
    assert [event["event"] for event in capture_log] == ["work under way is cut off, for the next start"]


def test_what_ends_in_time_is_not_cut_off(stop):
    cut_off = threading.Event()
    grace = Grace(stop, 0.05, cut_off=cut_off.set, give_up=cut_off.set)
    stop.set()
    grace.close()
    assert not cut_off.wait(0.2)
    assert not stop.late.is_set()


def test_a_process_that_a_job_has_forked_ends_at_once_when_it_is_told_to(stop):
    """As multiprocessing does it with the processes of a pool, and waits for them."""
    with stopped_by_signals(stop):
        ours, its = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=lambda: (its.send(""), time.sleep(2)))
        child.start()
        assert ours.poll(SECONDS)
        child.terminate()
        child.join(SECONDS)
    assert child.exitcode == -signal.SIGTERM
    assert not stop.is_set()
