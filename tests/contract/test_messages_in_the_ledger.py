"""What the ledger promises about messages, whatever database it lies in."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest

from worker.ledger import Claim, Note

_ids = count(1)
DAY = 24 * 3600


def claim(key="one", sha256="ab" * 32, *, delivery="", **changes):
    return Claim("orders", key, delivery or f"{next(_ids):016x}", "order", sha256, 12, **changes)


@pytest.fixture
def say(ledger):
    """What a ledger says to claims, after notes; ``gone`` are the owners that live no more."""

    def say(*claims, notes=(), by=ledger, gone=()):
        standings, late = by.messages.record(claims, notes, lambda owner: owner in gone)
        assert not late
        return standings[0] if len(standings) == 1 else standings

    return say


def done(key="one", attempts=1, **changes):
    return Note(claim(key), attempts, "done", **{"reply": b"the reply", **changes})


def waiting(key="one", attempts=1, **changes):
    return Note(claim(key), attempts, "waiting", **changes)


def failed(key="one", attempts=1):
    return Note(claim(key), attempts, "failed", error="DeliveryError", detail="it is empty")


def test_a_new_message_is_ours_and_many_are_claimed_at_once(say, ledger):
    claims = [claim(str(number)) for number in range(1000)]
    standings = say(*claims)
    assert {standing.verdict for standing in standings} == {"ours"}
    assert [standing.delivery for standing in standings] == [each.delivery for each in claims]
    assert ledger.counts()["running"] == 1000
    assert ledger.owners() == {"one"}


def test_known_and_new_messages_in_one_batch_are_told_apart(say):
    say(*[claim(str(number)) for number in range(0, 1000, 2)])
    say(notes=[done(str(number)) for number in range(0, 1000, 2)])
    standings = say(*[claim(str(number)) for number in range(1000)])
    assert [standing.verdict for standing in standings] == ["done", "ours"] * 500


def test_a_finished_message_gives_its_reply_for_a_day_and_is_forgotten_then(say, clock, ledger):
    first = say(claim())
    say(notes=[done()])
    clock.now += DAY - 1
    again = say(claim())
    assert (again.verdict, again.reply, again.delivery) == ("done", b"the reply", first.delivery)
    clock.now += 2
    assert ledger.messages.prune() == 1
    assert say(claim()).verdict == "ours"


def test_a_finished_message_that_is_too_old_is_run_again_though_nobody_has_pruned_yet(say, clock):
    say(claim())
    say(notes=[done()])
    clock.now += DAY + 1
    standing = say(claim(sha256="cd" * 32))
    assert (standing.verdict, standing.attempts) == ("ours", 2)


def test_the_same_id_with_another_body_is_a_conflict(say):
    say(claim())
    assert say(claim(sha256="cd" * 32)).verdict == "conflict"
    say(notes=[done()])
    assert say(claim(sha256="cd" * 32)).verdict == "conflict"


def test_what_another_worker_is_at_is_busy_and_gives_the_reply_once_that_has_finished(say, other):
    say(claim())
    assert say(claim(), by=other).verdict == "busy"
    say(notes=[done()])
    assert say(claim(), by=other).reply == b"the reply"


def test_what_a_dead_worker_was_at_is_a_suspect_until_somebody_takes_it_alone_and_deaths_are_counted(say, opened):
    one, two, three = (opened(owner) for owner in ("first", "second", "third"))
    first = say(claim(), by=one)
    assert say(claim(), by=two, gone=["first"]).verdict == "suspect"
    taken = say(claim(alone=True, delivery=first.delivery), by=two, gone=["first"])
    assert (taken.verdict, taken.delivery) == ("ours", first.delivery)
    assert (taken.attempts, taken.deaths) == (2, 1)
    again = say(claim(alone=True), by=three, gone=["first", "second"])
    assert (again.verdict, again.attempts, again.deaths) == ("ours", 3, 2)


def test_what_a_silent_worker_was_at_can_be_taken_once_its_lease_is_over(say, opened, other, clock, ledger):
    say(claim())
    clock.now += 29
    assert say(claim(), by=other).verdict == "busy"
    ledger.messages.heartbeat()
    clock.now += 29
    assert say(claim(), by=other).verdict == "busy"
    clock.now += 2
    assert say(claim(), by=other).verdict == "suspect"


def test_what_a_silent_worker_is_at_is_known(say, ledger, other, clock):
    left = say(claim())
    say(claim("two"))
    say(notes=[done("two")])
    assert other.silent() == set()
    clock.now += 31
    say(claim("three"))
    assert other.silent() == {left.delivery}
    ledger.messages.heartbeat()
    assert other.silent() == set()


@pytest.mark.parametrize("named", [True, False])
def test_a_clock_that_is_put_back_holds_no_message_up_for_as_long(say, other, clock, named):
    taken = claim() if named else claim("3f9a1c2b3f9a1c2b", delivery="3f9a1c2b3f9a1c2b")
    say(taken)

    def is_left():
        if named:
            return say(claim(), by=other).verdict == "suspect"
        return other.messages.left_behind("orders", taken.sha256, lambda _: False) == [taken.key]

    clock.now -= 1000
    assert not is_left()
    clock.now -= DAY
    assert is_left()


def test_the_end_that_a_worker_notes_after_it_has_lost_the_message_comes_too_late(say, other, clock, ledger):
    say(claim(), claim("two"))
    clock.now += 31
    say(claim(alone=True), by=other)
    notes = [done(), done("two")]
    assert ledger.messages.record([], notes, lambda owner: False) == ([], [notes[0]])
    assert say(claim(), by=ledger).verdict == "busy"
    assert say(claim("two"), by=other).verdict == "done"


def test_what_is_told_again_as_nobody_knows_whether_it_was_heard_is_told_the_same(say):
    """A connection may break behind a commit."""
    claims = [claim(str(number)) for number in range(20)]
    for _ in range(2):
        assert {standing.verdict for standing in say(*claims)} == {"ours"}
    for _ in range(2):
        say(notes=[done("1"), failed("2"), waiting("3")])
    assert [say(claim(key)).verdict for key in "123"] == ["done", "ours", "ours"]


def test_the_end_of_a_message_that_was_forgotten_meanwhile_is_kept(say, ledger, clock):
    first = claim()
    say(first)
    clock.now += 2 * DAY
    assert ledger.messages.prune() == 1
    say(notes=[Note(first, 1, "done", b"the reply")])
    again = say(claim())
    assert (again.verdict, again.reply, again.delivery) == ("done", b"the reply", first.delivery)


def test_two_workers_that_each_get_what_the_other_is_at_do_not_block_each_other(say, ledger, other):
    """As the broker hands out again what a connection that broke had; a database would end one of the two talks."""
    ours, theirs = ([claim(f"{whose} {number}") for number in range(300)] for whose in ("ours", "theirs"))

    say(*ours)
    say(*theirs, by=other)

    def talk(worker, mine, seen):
        notes = [Note(each, 1, "done") for each in mine]
        return {standing.verdict for _ in range(6) for standing in say(*seen, notes=notes, by=worker)}

    with ThreadPoolExecutor() as threads:
        talks = [threads.submit(talk, ledger, ours, theirs), threads.submit(talk, other, theirs, ours)]
        told = [talk.result() for talk in talks]
    assert all(verdicts <= {"busy", "done"} for verdicts in told)


def test_what_waits_is_taken_by_whoever_gets_it(say, other):
    first = say(claim())
    say(notes=[waiting()])
    taken = say(claim(), by=other)
    assert (taken.verdict, taken.delivery) == ("ours", first.delivery)
    assert (taken.attempts, taken.deaths) == (2, 0)


def test_what_a_worker_releases_is_free_at_once(say, other, ledger):
    say(claim())
    ledger.release()
    assert say(claim(), by=other).verdict == "ours"


def test_a_failed_message_stays_failed_when_it_is_redelivered_and_is_run_when_it_is_sent_again(say):
    say(claim())
    say(notes=[failed()])
    again = say(claim(redelivered=True))
    assert (again.verdict, again.error, again.detail) == ("failed", "DeliveryError", "it is empty")
    assert say(claim()).verdict == "ours"


def test_what_the_job_wants_remembered_is_kept_with_the_end_of_a_done_message_only(say, ledger):
    say(claim(), claim("two"))
    say(notes=[done(state={"since": 1}), waiting("two", state={"since": 2})])
    assert ledger.state.load("order") == {"since": 1}


def test_messages_stand_beside_the_other_deliveries(say, ledger, clock):
    file = ledger.announce("inbox", "clients.csv")
    clock.now += 1
    standing = say(claim())
    assert [entry.id for entry in ledger.entries()] == [standing.delivery, file.id]
    entry = ledger.get(standing.delivery)
    assert (entry.trigger, entry.source, entry.job, entry.state) == ("queue", "orders", "order", "running")
    say(notes=[failed()])
    assert ledger.get(standing.delivery).detail == "it is empty"
    assert ledger.counts() == {"waiting": 1, "running": 0, "done": 0, "failed": 1}


def test_what_came_without_an_id_and_was_left_behind_is_found_by_its_body(say, opened, other, ledger):
    """Not what still runs, has ended, waits, has an id of its own, or was sent again under the made-up one."""
    dead = opened("dead")
    for key in ("left", "done", "waits", "again"):
        say(claim(key, delivery=key), by=dead)
    say(claim("other body", sha256="cd" * 32, delivery="other body"), claim("named"), by=dead)
    say(notes=[done("done"), waiting("waits"), waiting("again")], by=dead)
    say(claim("again"), by=dead)
    say(claim("alive", delivery="alive"), by=other)

    def left():
        return ledger.messages.left_behind("orders", "ab" * 32, lambda owner: owner == "dead")

    assert left() == ["left"]
    assert say(claim("left", alone=True, redelivered=True), gone=["dead"]).deaths == 1
    assert left() == []


def test_of_many_messages_the_unfinished_ones_are_told_first_and_then_the_newest(say, ledger, clock):
    taken = []
    for key in map(str, range(6)):
        clock.now += 1
        taken.append(say(claim(key)).delivery)
    for note in (done("0"), failed("1"), waiting("2"), done("3")):
        clock.now += 1
        say(notes=[note])
    told = [taken.index(entry.id) for entry in ledger.entries(limit=5)]
    assert told == [5, 4, 2, 3, 1]
    assert [taken.index(entry.id) for entry in ledger.entries(limit=1)] == [5]


def test_what_a_dead_worker_left_behind_for_good_is_forgotten_and_what_a_living_one_is_at_is_not(
    say, opened, other, clock, ledger
):
    say(claim("left"), by=opened("dead"))
    say(claim("long"), by=other)
    clock.now += DAY + 100
    other.messages.heartbeat()
    assert ledger.messages.prune() == 1
    assert [entry.owner for entry in ledger.entries(limit=9)] == ["other"]


class TestPostgresql:
    """What holds where several transactions are under way at once: each waits for the messages that another has."""

    @pytest.fixture
    def url(self, postgresql_server):
        return postgresql_server.new_schema()

    @pytest.fixture
    def holding(self, postgresql_server, url):
        """Another transaction that has a message, for as long as the ``with``."""

        @contextmanager
        def holding(key, statement="UPDATE messages SET attempts = attempts WHERE key = %s"):
            with postgresql_server.connect(url) as connection, connection.transaction():
                connection.execute(statement, [key])
                yield

        return holding

    @pytest.fixture
    def begun(self, postgresql_server):
        """Does something on another thread, and returns when that waits for a message, or is done."""
        with ThreadPoolExecutor() as threads, postgresql_server.connect() as connection:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

            def begin(act, *values):
                (before,) = connection.execute(waiting).fetchone()
                doing = threads.submit(act, *values)
                while not doing.done() and connection.execute(waiting).fetchone() == (before,):
                    time.sleep(0.01)
                return doing

            yield begin

    @pytest.mark.parametrize("change", ["heartbeat", "release"])
    def test_a_worker_that_renews_or_releases_and_one_that_gets_the_same_messages_do_not_block_each_other(
        self, say, ledger, other, holding, begun, change
    ):
        for key in "bca":
            say(claim(key))
        with holding("b"):
            changed = begun(getattr(ledger.messages, change))
            told = begun(lambda: say(*map(claim, "ab"), by=other))
        changed.result()
        assert len(told.result()) == 2

    def test_a_heartbeat_waits_for_nobody(self, say, ledger, other, clock, holding):
        say(claim("a"), claim("b"))
        clock.now += 20
        with holding("a"):
            ledger.messages.heartbeat()
        clock.now += 20
        assert [standing.verdict for standing in say(claim("a"), claim("b"), by=other)] == ["suspect", "busy"]

    def test_what_is_taken_anew_while_it_is_forgotten_stays(self, say, ledger, clock, holding, begun):
        say(claim())
        say(notes=[done()])
        clock.now += DAY + 1
        with holding("one", "UPDATE messages SET state = 'running', attempts = 2 WHERE key = %s"):
            forgotten = begun(ledger.messages.prune)
        assert forgotten.result() == 0
        assert ledger.counts()["running"] == 1
