"""What one worker's limits learn of a pause that a backend asked another one for."""

import threading

import pytest
from fake_backend import answer, opened

from worker.errors import Paused, Unavailable
from worker.fleet import Fleet
from worker.records import BROKER, Pause


class Pauses:
    """The ledger's pauses in memory, on one clock with the backends."""

    def __init__(self):
        self.told = []
        self.known = []
        self.is_away = False

    def tell(self, pause):
        self.current()
        self.told.append(pause)

    def current(self):
        if self.is_away:
            raise Paused("the ledger cannot be used")
        return self.known


@pytest.fixture
def pauses():
    return Pauses()


def fleet(pauses, billing):
    return Fleet(pauses, {"billing": billing.backend}, "one")


def fail(billing, times=1):
    for _ in range(times):
        with pytest.raises(Unavailable):
            billing.at().get("/plans")
        billing.time.now += 1


def test_a_pause_that_a_backend_asks_for_is_told_once(pauses):
    billing = opened([answer(status=503, Retry_After="60")], retries=0)
    one = fleet(pauses, billing)
    one.beat()
    fail(billing)
    one.beat()
    one.beat()
    assert pauses.told == [Pause("billing", 59.0, is_down=False, reason="asked for a pause")]


def test_a_pause_that_another_worker_was_asked_for_is_kept_and_not_told_on(pauses):
    billing = opened([answer({})])
    pauses.known = [Pause("billing", 20, False, "asked for a pause", "other"), Pause("unknown", 9, False, "", "other")]
    one = fleet(pauses, billing)
    one.beat()
    pauses.known = [Pause("billing", 20.4, False, "asked for a pause", "other")]
    one.beat()
    billing.at().get("/plans")
    assert billing.time.slept == [20]
    assert pauses.told == []


def test_another_workers_open_circuit_and_an_echo_of_ones_own_pause_change_nothing(pauses):
    billing = opened([answer({})])
    pauses.known = [Pause("billing", 60, True, "answered 503", "other"), Pause("billing", 60, False, "", "one")]
    fleet(pauses, billing).beat()
    billing.at().get("/plans")
    assert billing.time.slept == []


def test_a_circuit_is_told_when_it_opens_and_when_it_closes(pauses):
    billing = opened([*[answer(status=503)] * 10, answer({})], retries=0)
    one = fleet(pauses, billing)
    fail(billing, 10)
    one.beat()
    billing.time.now += 60
    billing.at().get("/plans")
    one.beat()
    assert pauses.told == [
        Pause("billing", 4.0, is_down=True, reason="answered 503"),
        Pause("billing", 0.0, is_down=False, reason="asked for a pause"),
    ]


def test_a_ledger_that_is_away_stops_nobody(pauses):
    billing = opened([answer(status=503, Retry_After="1"), answer({})], retries=0)
    pauses.is_away = True
    fail(billing)
    fleet(pauses, billing).beat()
    assert billing.at().get("/plans") == {}


def test_it_beats_on_a_thread_of_its_own_until_it_is_closed(pauses, monkeypatch):
    monkeypatch.setattr("worker.fleet.BEAT_SECONDS", 0.001)
    heard = threading.Event()
    pauses.current = lambda: heard.set() or []
    one = fleet(pauses, opened([]))
    one.start()
    assert heard.wait(10)
    one.close()


def test_the_news_of_the_broker_are_told_with_those_of_the_backends(pauses):
    billing = opened([answer(status=503, Retry_After="60")], retries=0)
    one = fleet(pauses, billing)
    news = [Pause(BROKER, 15.0, is_down=True, reason="is not connected"), None]
    one.listen(lambda: news.pop(0))
    fail(billing)
    one.beat()
    one.beat()
    assert [pause.backend for pause in pauses.told] == ["billing", BROKER]
