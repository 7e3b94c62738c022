import threading
from contextlib import nullcontext
from queue import SimpleQueue

import pytest
from deliveries import delivery

from worker import crew as crew_module
from worker.crew import Crew
from worker.errors import Paused
from worker.stopping import Stop

SECONDS = 10  # after which a test that hangs fails


class RecordingRunner:
    """Runs deliveries by a function of the test's."""

    def __init__(self, run=lambda made: None):
        self.run = run


class Ledger:
    """Tells of each heartbeat; the first ``away`` of them fail. All deliveries in ``lost`` are somebody else's."""

    def __init__(self, *, away=0, lost=()):
        self.heartbeats = SimpleQueue()
        self._away, self._lost = away, lost

    def in_hand(self, delivery):
        return nullcontext()

    def heartbeat(self, deliveries):
        if self._away:
            self._away -= 1
            raise Paused("the ledger cannot be used: it is locked")
        self.heartbeats.put([made.id for made in deliveries])
        return [made for made in deliveries if made.id in self._lost]


@pytest.fixture
def stop():
    return Stop()


@pytest.fixture
def hire(stop):
    crews = []

    def hire(run=lambda made: None, *, size=2, ledger=None):
        crews.append(Crew(RecordingRunner(run), ledger or Ledger(), size=size, stop=stop))
        return crews[-1]

    yield hire
    for crew in crews:
        crew.close()


def test_every_delivery_is_run(hire):
    ran = []
    crew = hire(lambda made: ran.append(made.id))
    for number in range(20):
        crew.submit(lambda number=number: delivery(id=str(number)))
    crew.join()
    assert sorted(ran, key=int) == [str(number) for number in range(20)]


def test_no_more_deliveries_are_run_at_once_than_there_is_room_for(hire):
    meeting, inside, most = threading.Barrier(3), [], []

    def run(made):
        inside.append(made)
        most.append(len(inside))
        meeting.wait(SECONDS)
        inside.remove(made)

    crew = hire(run, size=3)
    for _ in range(9):
        crew.submit(delivery)
    crew.join()
    assert max(most) == 3


def test_a_delivery_that_has_nothing_left_to_do_is_not_run(hire):
    ran = []
    crew = hire(ran.append)
    crew.submit(lambda: None)
    crew.join()
    assert ran == []


@pytest.mark.parametrize("where", ["opening", "running"])
def test_a_bug_of_the_workers_own_is_logged_and_makes_room_again(hire, where, capture_log):
    def fail(*_args):
        raise ZeroDivisionError("Ann Smith")

    crew = hire(fail, size=1)
    for _ in range(3):
        crew.submit(fail if where == "opening" else delivery)
    crew.join()
    assert [event["event"] for event in capture_log] == ["the worker has a bug"] * 3
    assert "Ann Smith" not in str(capture_log)


def test_a_stopping_worker_waits_for_no_room(hire, stop):
    release = threading.Event()
    crew = hire(lambda made: release.wait(SECONDS), size=1)
    crew.submit(delivery)
    stop.set()
    crew.submit(delivery)
    release.set()
    crew.join()


def test_once_the_stop_is_over_nothing_is_waited_for(hire, stop):
    begun, release = threading.Event(), threading.Event()
    crew = hire(lambda made: begun.set() or release.wait(SECONDS), size=1)
    crew.submit(delivery)
    begun.wait(SECONDS)
    stop.set()
    threading.Timer(0.01, stop.over.set).start()
    crew.join()
    crew.close()
    assert not release.is_set()
    release.set()


def test_the_ledger_hears_of_what_is_running_after_it_was_away_and_that_is_said_once(hire, monkeypatch, capture_log):
    monkeypatch.setattr(crew_module, "HEARTBEAT_SECONDS", 0.001)
    release, ledger = threading.Event(), Ledger(away=3)
    crew = hire(lambda made: release.wait(SECONDS), ledger=ledger)
    crew.submit(delivery)
    while ledger.heartbeats.get(timeout=SECONDS) != ["3f9a1c2b"]:
        pass
    release.set()
    crew.join()
    while ledger.heartbeats.get(timeout=SECONDS):
        pass
    assert [event["event"] for event in capture_log] == ["no heartbeat"]


def test_a_delivery_is_told_that_another_worker_has_taken_it(hire, monkeypatch):
    monkeypatch.setattr(crew_module, "HEARTBEAT_SECONDS", 0.001)
    told = []

    def run(made):
        waits = threading.Event()
        made.hurry = waits.set
        told.append((waits.wait(SECONDS), made.lost))

    crew = hire(run, ledger=Ledger(lost=[delivery().id]))
    crew.submit(delivery)
    crew.join()
    assert told == [(True, True)]


def test_room_is_what_is_free_and_is_waited_for_until_the_worker_stops(hire, stop):
    release = threading.Event()
    crew = hire(lambda made: release.wait(SECONDS), size=1)
    assert crew.room() == 1
    crew.submit(delivery)
    stop.set()
    assert crew.room() == 0
    release.set()
