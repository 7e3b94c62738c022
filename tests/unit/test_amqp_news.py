"""What a worker tells of its broker."""

from datetime import UTC, datetime

import pytest

from worker.amqp.link import State
from worker.amqp.news import AGAIN_SECONDS, TOLD_SECONDS, News
from worker.records import BROKER, Pause

SINCE = datetime(2026, 11, 23, 2, 0, 4, tzinfo=UTC)
UP = State(up=True, since=SINCE)
AWAY = State(up=False, since=SINCE, reason="Connection refused", advice="start it")
BLOCKED = State(up=True, since=SINCE, blocked="low on memory")
REASON = "is not connected since 2026-11-23T02:00:04Z: Connection refused; start it"


class Told:
    def __init__(self):
        self.now = 1000.0
        self.news = News(lambda: self.now)

    def of(self, state, after=0.0, **neglected):
        self.now += after
        return self.news.of(state, **neglected)


@pytest.fixture
def told():
    return Told()


def test_a_broker_that_is_there_is_no_news(told):
    assert told.of(UP) is None


def test_one_that_is_away_is_told_with_the_reason_and_what_to_do(told):
    assert told.of(AWAY) == Pause(BROKER, TOLD_SECONDS, is_down=True, reason=REASON)


def test_it_is_told_again_before_that_is_forgotten(told):
    assert AGAIN_SECONDS < TOLD_SECONDS
    told.of(AWAY)
    assert told.of(AWAY, after=AGAIN_SECONDS - 0.1) is None
    assert told.of(AWAY, after=0.1) == Pause(BROKER, TOLD_SECONDS, is_down=True, reason=REASON)


def test_another_trouble_is_told_at_once(told):
    told.of(AWAY)
    assert told.of(BLOCKED).reason == "takes no messages since 2026-11-23T02:00:04Z: low on memory"


def test_that_it_is_there_again_is_told_once(told):
    told.of(AWAY)
    assert told.of(UP) == Pause(BROKER, 0.0, is_down=True, reason="")
    assert told.of(UP) is None


def test_a_queue_that_is_not_worked_off_is_told_unless_the_broker_is_away(told):
    queue = {"neglected": "orders: access refused; grant it"}
    assert told.of(UP, **queue).reason == "has a queue that is not worked off: orders: access refused; grant it"
    assert told.of(AWAY, **queue).reason == REASON
    assert told.of(UP).reason == ""


def test_trouble_without_an_advice_is_told_by_itself(told):
    wrong = State(up=False, since=SINCE, reason="No such file or directory: secrets/amqp")
    assert (
        told.of(wrong).reason == "is not connected since 2026-11-23T02:00:04Z: No such file or directory: secrets/amqp"
    )
