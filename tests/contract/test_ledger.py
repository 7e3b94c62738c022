"""What the ledger promises, whatever database it lies in."""

import socket
import sqlite3
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from worker.errors import ConfigError, DeliveryError, LostLease, Paused, Unavailable
from worker.ledger import Ledger, engine
from worker.records import Delivery, Input, Pause

TRIGGERS = ("inbox", "process")


def take(ledger, gone=(), limit=100, triggers=TRIGGERS):
    return ledger.take(lambda owner: owner in gone, triggers=triggers, limit=limit)


def begun(ledger, source="clients.csv"):
    return ledger.begin(ledger.announce("inbox", source), sha256="ab" * 32, size=1234)


def as_delivery(entry, *, job="summary", rows=0, question=0, **state):
    """What the runner would have made of an entry."""
    made = Delivery(
        id=entry.id,
        trigger=entry.trigger,
        source=entry.source,
        input=Input(entry.source, entry.sha256, entry.bytes),
        folder=Path(),
        attempts=entry.attempts,
        started=time.time(),
        read=lambda reading: iter(()),
        guard=lambda: None,
        settle=lambda error: None,
        job=job,
        state=state,
        question=question,
    )
    made.counts.results = rows
    return made


def finished(ledger, error=None, **state):
    entry = begun(ledger)
    ledger.finish(entry, as_delivery(entry, **state), error)
    return ledger.get(entry.id)


def put_away(ledger, entry):
    ledger.put_away(entry)
    ledger.heartbeat([])
    return ledger.get(entry.id)


def test_a_new_ledger_is_empty(ledger):
    assert ledger.entries() == []
    assert ledger.counts() == {"waiting": 0, "running": 0, "done": 0, "failed": 0}
    assert ledger.owners() == set()


def test_an_announced_delivery_is_owned_before_anything_else_happens(ledger, clock):
    entry = ledger.announce("inbox", "clients.csv", job="summary")
    assert ledger.get(entry.id) == entry
    assert (entry.trigger, entry.source, entry.job, entry.state) == ("inbox", "clients.csv", "summary", "waiting")
    assert (entry.owner, entry.lease_until, entry.created) == ("one", clock.now + 30, clock.now)
    assert (entry.attempts, entry.rows_done, entry.sha256, entry.bytes) == (0, 0, "", 0)
    assert (entry.started, entry.finished, entry.put_away, entry.error) == (None, None, False, "")
    assert len(entry.id) == 8


def test_a_delivery_of_a_lost_ledger_waits_for_whoever_comes_first(ledger, clock):
    ledger.adopt("3f9a1c2b", "inbox", "clients.csv", attempts=7)
    (taken,) = ledger.take(lambda owner: False, triggers=["inbox"], limit=10)
    assert (taken.id, taken.source, taken.state, taken.attempts) == ("3f9a1c2b", "clients.csv", "waiting", 7)
    assert (taken.owner, taken.version, taken.created, taken.sha256) == ("one", 2, clock.now, "")


def test_a_delivery_that_is_known_is_not_written_over(ledger):
    entry = ledger.announce("inbox", "clients.csv")
    assert ledger.known([entry.id, "3f9a1c2b"]) == {entry.id}
    ledger.adopt(entry.id, "inbox", "other.csv", attempts=7)
    assert ledger.get(entry.id) == entry


@pytest.mark.parametrize("source", ["two words.csv", "č $'\"; DROP TABLE deliveries", "a\nb.csv"])
def test_any_name_is_kept_as_it_is(ledger, source):
    assert ledger.get(ledger.announce("inbox", source).id).source == source


def test_a_withdrawn_delivery_is_forgotten(ledger):
    entry = ledger.announce("inbox", "clients.csv")
    assert ledger.withdraw(entry)
    assert ledger.entries() == []
    with pytest.raises(KeyError):
        ledger.get(entry.id)


def test_a_delivery_that_another_worker_took_cannot_be_withdrawn(ledger, other):
    entry = ledger.announce("inbox", "clients.csv")
    take(other, gone={"one"})
    assert not ledger.withdraw(entry)
    assert other.get(entry.id).owner == "other"


def test_a_begun_delivery_runs_and_counts_its_attempts(ledger, clock):
    first = begun(ledger)
    assert (first.state, first.attempts, first.started) == ("running", 1, clock.now)
    assert (first.sha256, first.bytes) == ("ab" * 32, 1234)
    ledger.put_back(first, None, Unavailable("billing", "no answer"), hold_off=0)
    clock.now += 5
    (again,) = take(ledger)
    second = ledger.begin(again, sha256=again.sha256, size=again.bytes)
    assert (second.attempts, second.started, second.error, second.detail) == (2, first.started, "", "")


def test_a_living_workers_deliveries_are_not_taken(ledger, other, clock):
    begun(ledger)
    assert take(other) == take(ledger) == []
    clock.now += 29
    assert take(other) == []


def test_a_silent_workers_deliveries_are_taken_when_its_lease_ends(ledger, other, clock):
    entry = begun(ledger)
    clock.now += 31
    (taken,) = take(other)
    assert (taken.id, taken.owner, taken.lease_until) == (entry.id, "other", clock.now + 30)


def test_what_a_silent_worker_is_at_is_known(ledger, other, clock):
    """Whoever looks at the ledger would take it for running, for as long as there is nobody to take it over."""
    left = begun(ledger, "left.csv")
    finished(ledger)
    assert ledger.silent() == set()
    clock.now += 31
    begun(other)
    assert ledger.silent() == other.silent() == {left.id}
    ledger.heartbeat([as_delivery(left)])
    assert ledger.silent() == set()


def test_a_worker_knows_of_which_deliveries_it_could_not_write_the_end(ledger, other):
    put_away(ledger, finished(ledger))
    begun(other)
    assert ledger.unsettled() == 0
    begun(ledger)
    assert ledger.unsettled() == 1


def test_a_dead_workers_deliveries_are_taken_at_once(ledger, other):
    entry = begun(ledger)
    assert [taken.id for taken in take(other, gone={"one"})] == [entry.id]


def test_of_two_heirs_one_gets_the_delivery(opened, ledger, other):
    begun(ledger)
    third = opened("third")
    assert len(take(other, gone={"one"}) + take(third, gone={"one"})) == 1


def test_the_oldest_is_taken_first_and_no_more_than_asked_for(ledger, other, clock):
    entries = []
    for _ in range(5):
        entries.append(begun(ledger).id)
        clock.now += 1
    assert [entry.id for entry in take(other, gone={"one"}, limit=3)] == entries[:3]
    assert [entry.id for entry in take(other, gone={"one"}, limit=3)] == entries[3:]


def test_each_trigger_takes_its_own(ledger, other):
    ledger.announce("queue", "clients.summary")
    assert take(other, gone={"one"}) == []
    assert len(take(other, gone={"one"}, triggers=["queue"])) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger, entry: ledger.guard(entry),
        lambda ledger, entry: ledger.begin(entry, sha256="", size=0),
        lambda ledger, entry: ledger.finish(entry, as_delivery(entry, late=True), None),
        lambda ledger, entry: ledger.finish(entry, as_delivery(entry), DeliveryError("no")),
        lambda ledger, entry: ledger.put_back(entry, None, Paused("later"), hold_off=0),
        lambda ledger, entry: ledger.give_up(entry, DeliveryError("no")),
        lambda ledger, entry: ledger.hold(entry, detail="later", hold_off=0),
    ],
)
def test_whoever_lost_a_delivery_changes_nothing(ledger, other, change):
    entry = begun(ledger)
    (taken,) = take(other, gone={"one"})
    with pytest.raises(LostLease, match=f"delivery {entry.id} was taken over by another worker"):
        change(ledger, entry)
    assert other.get(entry.id) == taken
    assert other.state.load("summary") == {}


def test_a_delivery_that_waited_long_for_its_turn_is_not_taken_from_who_begins_it(ledger, other, clock):
    entry = ledger.announce("inbox", "clients.csv")
    clock.now += 31
    ledger.begin(entry, sha256="ab" * 32, size=1234)
    assert take(other) == take(ledger) == []


def test_a_guard_keeps_the_lease_good(ledger, other, clock):
    entry = begun(ledger)
    clock.now += 29
    ledger.guard(entry)
    clock.now += 29
    assert take(other) == []


def test_a_guard_lets_a_late_worker_go_on_where_nobody_took_over(ledger, clock):
    entry = begun(ledger)
    clock.now += 100
    ledger.guard(entry)
    assert ledger.get(entry.id).lease_until == clock.now + 30


def test_a_heartbeat_renews_all_leases_and_says_how_far_they_are(ledger, other, clock):
    entries = [begun(ledger), begun(ledger)]
    clock.now += 20
    ledger.heartbeat([as_delivery(entry, rows=7) for entry in entries])
    clock.now += 20
    assert take(other) == []
    found = ledger.get(entries[0].id)
    assert (found.rows_done, found.job, found.version) == (7, "summary", entries[0].version)


def test_a_heartbeat_keeps_no_delivery_that_another_worker_took(ledger, other, clock):
    entry = begun(ledger)
    (taken,) = take(other, gone={"one"})
    clock.now += 20
    ledger.heartbeat([as_delivery(entry, rows=7)])
    assert other.get(entry.id) == taken


def test_whoever_leaves_lets_go_of_everything(ledger, other):
    begun(ledger)
    begun(ledger)
    assert ledger.owners() == {"one"}
    ledger.release()
    assert ledger.owners() == {""}
    assert len(take(other)) == 2


def test_what_was_put_back_waits_for_its_time(ledger, other, clock):
    entry = begun(ledger)
    ledger.put_back(entry, as_delivery(entry, rows=3), Unavailable("billing", "no answer", 503), hold_off=10)
    found = ledger.get(entry.id)
    assert (found.state, found.owner, found.not_before) == ("waiting", "", clock.now + 10)
    assert (found.error, found.detail, found.rows_done) == ("Unavailable", "billing: no answer", 3)
    clock.now += 9.9
    assert take(other) == take(ledger) == []
    clock.now += 0.2
    assert len(take(other)) == 1


def test_a_clock_that_is_put_back_holds_nothing_up_for_as_long(ledger, other, clock):
    waiting = begun(ledger, "waiting.csv")
    ledger.put_back(waiting, None, Paused("later"), hold_off=4)
    left_behind = begun(ledger, "left-behind.csv")
    clock.now -= 86_400
    assert {entry.id for entry in take(other)} == {waiting.id, left_behind.id}


def test_a_wait_of_any_length_ends_after_an_hour_and_not_before(ledger, other, clock):
    ledger.put_back(begun(ledger), None, Paused("later"), hold_off=1e6)
    clock.now += 3599
    assert take(other) == []
    clock.now += 2
    assert len(take(other)) == 1


def test_an_error_of_a_library_is_kept_without_its_words(ledger):
    entry = begun(ledger)
    ledger.put_back(entry, None, ValueError("Ann Smith"), hold_off=0)
    assert ledger.get(entry.id).detail == "an unexpected ValueError; the log says where"


def test_a_done_delivery_is_over_when_it_is_put_away(ledger, other, clock):
    entry = finished(ledger)
    assert (entry.state, entry.finished, entry.error, entry.put_away) == ("done", clock.now, "", False)
    over = put_away(ledger, entry)
    assert (over.put_away, over.owner, over.state) == (True, "", "done")
    clock.now += 1000
    assert take(other, gone={"one"}) == []


def test_one_that_is_put_away_is_not_forgotten_where_another_one_is_lost(ledger, other):
    lost = begun(ledger)
    take(other, gone={"one"})
    entry = finished(ledger)
    ledger.put_away(entry)
    with pytest.raises(LostLease):
        ledger.put_back(lost, None, Paused("later"), hold_off=0)
    ledger.heartbeat([])
    assert ledger.get(entry.id).put_away


def test_a_done_delivery_that_is_not_put_away_yet_is_taken_over_for_that(ledger, other):
    entry = finished(ledger)
    (taken,) = take(other, gone={"one"})
    assert (taken.id, taken.state) == (entry.id, "done")


def test_a_failed_delivery_says_why(ledger):
    entry = finished(ledger, DeliveryError("its header names 'id' more than once"))
    assert (entry.state, entry.error, entry.detail) == (
        "failed",
        "DeliveryError",
        "its header names 'id' more than once",
    )


def test_one_that_could_not_be_opened_is_given_up(ledger, other):
    entry = begun(ledger)
    ledger.give_up(entry, DeliveryError("its file is gone"))
    found = ledger.get(entry.id)
    assert (found.state, found.put_away, found.owner, found.detail) == ("failed", True, "", "its file is gone")
    assert take(other, gone={"one"}) == []


def test_one_that_cannot_be_put_away_keeps_its_end_and_is_tried_later(ledger, clock):
    ledger.hold(finished(ledger), detail="it is finished, but its file cannot be put away", hold_off=60)
    assert take(ledger) == []
    clock.now += 61
    (taken,) = take(ledger)
    assert (taken.state, taken.detail) == ("done", "it is finished, but its file cannot be put away")


def test_what_one_worker_cannot_put_away_another_one_tries_at_once_and_then_waits_too(ledger, other):
    ledger.hold(finished(ledger), detail="its file cannot be put away", hold_off=60)
    (taken,) = take(other)
    other.hold(taken, detail="its file cannot be put away", hold_off=60)
    assert take(other) == []
    assert take(ledger) == []


def test_a_failed_delivery_can_be_reopened(ledger, other, clock):
    entry = put_away(ledger, finished(ledger, DeliveryError("no")))
    assert ledger.reopen(entry)
    found = ledger.get(entry.id)
    assert (found.state, found.put_away, found.owner, found.attempts) == ("waiting", False, "", 1)
    assert (found.error, found.detail) == ("", ""), "why it failed is no reason to wait"
    assert [taken.id for taken in take(other)] == [entry.id]


def test_a_delivery_is_reopened_once_and_only_if_it_failed(ledger):
    failed = put_away(ledger, finished(ledger, DeliveryError("no")))
    assert ledger.reopen(failed)
    assert not ledger.reopen(failed)
    assert not ledger.reopen(finished(ledger))


def test_entries_are_newest_first_and_the_unfinished_before_them(ledger, clock):
    names = []
    for name, end in [("old-running", None), ("old-done", "done"), ("new-running", None), ("new-done", "done")]:
        entry = begun(ledger, name)
        if end:
            ledger.finish(entry, as_delivery(entry), None)
        names.append(name)
        clock.now += 1
    found = [entry.source for entry in ledger.entries()]
    assert found == ["new-running", "old-running", "new-done", "old-done"]
    assert len(ledger.entries(limit=3)) == 3


def test_deliveries_are_counted_by_state(ledger):
    ledger.announce("inbox", "a.csv")
    begun(ledger)
    begun(ledger)
    finished(ledger)
    finished(ledger, DeliveryError("no"))
    assert ledger.counts() == {"waiting": 1, "running": 2, "done": 1, "failed": 1}


def test_a_jobs_state_is_kept_with_its_done_delivery(ledger, other):
    finished(ledger, since="2026-11-22", page=3)
    finished(ledger, since="2026-11-23", seen=["a", {"b": None}])
    kept = {"since": "2026-11-23", "page": 3, "seen": ["a", {"b": None}]}
    assert ledger.state.load("summary") == other.state.load("summary") == kept
    assert ledger.state.load("another") == {}


def test_a_failed_deliverys_state_is_not_kept(ledger):
    finished(ledger, DeliveryError("no"), since="2026-11-23")
    assert ledger.state.load("summary") == {}


def test_a_delivery_is_not_done_without_its_jobs_state(ledger):
    entry = begun(ledger)
    with pytest.raises(TypeError):
        ledger.finish(entry, as_delivery(entry, good=1, wrong=object()), None)
    assert ledger.get(entry.id).state == "running"
    assert ledger.state.load("summary") == {}


def test_the_questions_of_a_job_are_counted(ledger, other):
    assert [ledger.state.ask("nightly"), other.state.ask("nightly"), ledger.state.ask("hourly")] == [1, 2, 1]


def test_the_state_of_an_earlier_question_does_not_replace_a_later_ones(ledger, other):
    earlier, later = ledger.state.ask("summary"), other.state.ask("summary")
    finished(other, question=later, last=5)
    assert finished(ledger, question=earlier, last=3).state == "done"
    assert ledger.state.load("summary") == {"last": 5}
    finished(ledger, last=1)
    assert ledger.state.load("summary") == {"last": 1}


def test_a_ledger_that_was_put_back_from_a_copy_counts_on_from_the_questions_it_sees(ledger):
    finished(ledger, question=7, last=7)
    assert ledger.state.ask("summary") == 8


def test_a_decimal_in_a_jobs_state_comes_back_as_a_number(ledger):
    finished(ledger, price=Decimal("1.50"))
    assert ledger.state.load("summary") == {"price": 1.5}


def test_deliveries_of_one_job_may_be_done_at_the_same_time(opened):
    def finish_ten(owner, keys):
        ledger = opened(owner)
        for number in range(10):
            finished(ledger, **dict.fromkeys(keys, number))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(finish_ten, ["one", "other"], ["abcdefgh", "hgfedcba"]))
    ledger = opened()
    assert ledger.counts()["done"] == 20
    assert ledger.state.load("summary") == dict.fromkeys("abcdefgh", 9)


def test_text_that_no_database_takes_is_kept_as_far_as_it_goes(ledger):
    entry = begun(ledger)
    ledger.finish(entry, as_delivery(entry), DeliveryError("a\0b \udcff č"))
    assert ledger.get(entry.id).detail == "a?b ? č"


def test_several_workers_may_make_the_ledger_at_once(opened):
    with ThreadPoolExecutor(8) as pool:
        ledgers = list(pool.map(opened, "abcdefgh"))
    assert [begun(ledger).owner for ledger in ledgers] == list("abcdefgh")


def test_of_many_heirs_at_once_each_delivery_has_one(opened, ledger):
    entries = {begun(ledger).id for _ in range(20)}
    heirs = [opened(f"heir {number}") for number in range(6)]
    together = threading.Barrier(len(heirs))

    def inherit(heir):
        together.wait()
        return [entry.id for entry in take(heir, gone={"one"})]

    with ThreadPoolExecutor(len(heirs)) as pool:
        taken = [entry for entries in pool.map(inherit, heirs) for entry in entries]
    assert len(taken) == len(entries)
    assert set(taken) == entries


def test_everything_is_there_after_a_restart(opened, ledger):
    entry = begun(ledger)
    ledger.close()
    assert opened().get(entry.id) == entry


def test_an_entry_is_a_value(ledger):
    entry = begun(ledger)
    assert replace(entry, version=9).version == 9
    assert ledger.get(entry.id) == entry


def test_time_is_the_databases_own_where_no_other_is_given(url):
    ledger = Ledger(url, owner="one")
    before, created, after = datetime.now(UTC), ledger.announce("inbox", "a.csv").created, datetime.now(UTC)
    assert before.timestamp() - 1 < created < after.timestamp() + 1
    ledger.close()


class TestSqlite:
    """What holds for a ledger in a file."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "state" / "state.db"

    @pytest.fixture
    def url(self, path):
        return f"sqlite:///{path}"

    def test_only_its_owner_may_look_into_it(self, ledger, path):
        begun(ledger)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes["state.db"] == 0o600
        assert set(modes.values()) == {0o600}

    def test_a_newer_programs_ledger_is_refused_and_left_as_it_is(self, opened, path):
        opened().close()
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE longshore SET schema = 99")
            connection.execute("DROP TABLE tokens")
        connection.close()
        with pytest.raises(ConfigError, match=r"schema 99, this program knows \d+; use a newer Longshore"):
            opened()
        with sqlite3.connect(path) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        connection.close()
        assert "tokens" not in tables

    def test_a_damaged_ledger_is_refused_and_left_as_it_is(self, opened, path):
        path.parent.mkdir()
        path.write_bytes(b"not a database " * 1000)
        with pytest.raises(ConfigError, match=r"state\.db: the ledger cannot be opened: file is not a database"):
            opened()
        assert path.read_bytes() == b"not a database " * 1000

    def test_a_ledger_that_cannot_be_written_is_refused(self, opened, path):
        path.mkdir(parents=True)
        with pytest.raises(ConfigError, match="cannot be written: Is a directory; check the folder's permissions"):
            opened()

    def test_a_ledger_that_is_damaged_later_is_waited_for(self, ledger, path):
        ledger.announce("inbox", "a.csv")
        ledger.close()
        for file in path.parent.iterdir():
            file.write_bytes(b"not a database " * 1000)
        with pytest.raises(Paused, match="the ledger cannot be used: "):
            ledger.counts()


class TestPostgresql:
    """What holds for a ledger on a server."""

    @pytest.fixture
    def server(self, postgresql_server):
        return postgresql_server

    @pytest.fixture
    def url(self, server):
        return server.new_schema()

    def test_connections_that_were_cut_in_between_are_not_noticed(self, ledger, server):
        entry = begun(ledger)
        assert server.cut_connections()
        assert ledger.get(entry.id) == entry
        assert server.cut_connections()
        ledger.guard(entry)

    def test_a_server_that_is_away_is_waited_for(self, ledger, server):
        entry = begun(ledger)
        server.stop()
        try:
            for question in (ledger.counts, lambda: ledger.guard(entry), lambda: begun(ledger)):
                with pytest.raises(Paused, match=r"the ledger cannot be used: .*Connection refused") as raised:
                    question()
                assert server.password not in str(raised.value)
        finally:
            server.start()
        ledger.guard(entry)

    def test_after_an_outage_everybody_has_time_to_be_heard_again(self, ledger, other, server, clock):
        entry, dead = begun(ledger), begun(other)
        clock.now += 60
        server.stop()
        try:
            with pytest.raises(Paused):
                take(other)
        finally:
            server.start()
        assert [taken.id for taken in take(other, gone={"other"})] == [dead.id]
        clock.now += 29
        assert take(other) == []
        clock.now += 1
        assert entry.id in {taken.id for taken in take(other)}

    def test_a_worker_that_was_stopped_in_a_transaction_does_not_stop_the_others(
        self, opened, ledger, server, url, monkeypatch
    ):
        entry = begun(ledger)
        monkeypatch.setattr(engine, "PATIENCE_SECONDS", 1)
        other = opened("other")
        with server.connect(url) as stopped, stopped.transaction():
            stopped.execute("UPDATE deliveries SET version = version")
            with pytest.raises(Paused, match="lock timeout"):
                take(other, gone={"one"})
        assert [taken.id for taken in take(other, gone={"one"})] == [entry.id]

    def test_a_newer_programs_ledger_is_refused_and_left_as_it_is(self, opened, server, url):
        opened().close()
        with server.connect(url) as connection:
            connection.execute("UPDATE longshore SET schema = 99")
            connection.execute("DROP TABLE tokens")
            with pytest.raises(ConfigError, match=r"schema 99, this program knows \d+; use a newer Longshore"):
                opened()
            assert connection.execute("SELECT to_regclass('tokens')").fetchone() == (None,)

    def test_a_database_that_cannot_hold_every_name_is_refused(self, opened, server):
        url = server.new_database("ENCODING 'SQL_ASCII' TEMPLATE template0")
        with pytest.raises(ConfigError, match="the ledger is in SQL_ASCII; make the database with ENCODING 'UTF8'"):
            Ledger(url)

    def test_a_server_that_is_not_there_is_a_mistake_at_the_start(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"postgresql+psycopg://u:hunter2@127.0.0.1:{unused.getsockname()[1]}/longshore?password=hunter2"
            with pytest.raises(ConfigError, match=r"cannot be opened: .*Connection refused") as raised:
                Ledger(url)
        assert "postgresql+psycopg://u:***@127.0.0.1:" in str(raised.value)
        assert "hunter2" not in str(raised.value)

    def test_a_wrong_password_is_not_shown(self, server):
        with pytest.raises(ConfigError, match="password authentication failed") as raised:
            Ledger(server.url().replace(server.password, "hunter2"))
        assert "hunter2" not in str(raised.value)

    @pytest.mark.parametrize(
        "address", ["postgresql+psycopg://u:hunter2@db:port/x", "postgresql+psycopg://u:hun@hunter2@db/x", "hunter2"]
    )
    def test_an_address_that_cannot_be_read_is_not_shown(self, address):
        with pytest.raises(
            ConfigError, match=r"worker\.state: the ledger has an address that cannot be read"
        ) as raised:
            Ledger(address)
        assert "hunter2" not in str(raised.value)

    def test_without_the_driver_it_says_what_to_install(self, url, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(ConfigError, match=r'pip install "longshore\[postgresql\]"'):
            Ledger(url)


def test_every_attempt_is_remembered_with_its_worker_and_its_end(ledger, other, clock):
    first = begun(ledger)
    clock.now += 5
    ledger.put_back(first, as_delivery(first, rows=3), Unavailable("ehr", "down", 503), hold_off=0)
    (taken,) = take(other)
    second = other.begin(taken, sha256=first.sha256, size=first.bytes)
    assert [(each.number, each.owner, each.started, each.ended) for each in ledger.attempts(first.id)] == [
        (1, "one", clock.now - 5, clock.now),
        (2, "other", clock.now, None),
    ]
    other.finish(second, as_delivery(second, rows=9), None)
    assert [(each.rows_done, each.error, each.detail) for each in ledger.attempts(first.id)] == [
        (3, "Unavailable", "ehr: down"),
        (9, "", ""),
    ]


def test_what_could_not_even_be_opened_ends_no_attempt(ledger):
    entry = begun(ledger)
    ledger.put_back(entry, None, Paused("the disk is full"), hold_off=0)
    assert [each.ended for each in ledger.attempts(entry.id)] == [None]


def test_a_heartbeat_tells_which_deliveries_another_worker_has_taken(ledger, other, clock):
    kept, lost = begun(ledger), begun(ledger)
    clock.now += 20
    assert ledger.heartbeat([as_delivery(kept)]) == []
    clock.now += 20
    (taken,) = take(other)
    assert taken.id == lost.id
    assert [delivery.id for delivery in ledger.heartbeat([as_delivery(kept), as_delivery(lost)])] == [lost.id]


def test_a_worker_that_was_stopped_for_longer_than_its_lease_does_not_take_what_it_is_at(ledger, clock):
    entry = begun(ledger)
    with ledger.in_hand(entry.id):
        clock.now += 100
        assert take(ledger) == []
    assert [taken.id for taken in take(ledger)] == [entry.id]


def test_a_heartbeat_renews_the_lease_of_what_is_not_yet_a_delivery(ledger, other, clock):
    entry = ledger.announce("inbox", "clients.csv")
    with ledger.in_hand(entry.id):
        clock.now += 20
        ledger.heartbeat([])
        clock.now += 20
        assert take(other) == []
    assert ledger.get(entry.id).job == ""


# pauses


def test_a_pause_is_seen_by_all_workers_until_it_is_over(ledger, other, clock):
    ledger.pauses.tell(Pause("billing", 60, False, "asked for a pause"))
    other.pauses.tell(Pause("billing", 5, True, "answered 503"))
    assert other.pauses.current() == ledger.pauses.current()
    clock.now += 4
    assert ledger.pauses.current() == [
        Pause("billing", 1, True, "answered 503", "other"),
        Pause("billing", 56, False, "asked for a pause", "one"),
    ]
    clock.now += 1
    assert [pause.owner for pause in ledger.pauses.current()] == ["one"]


def test_a_worker_has_one_pause_a_backend_and_ends_it(ledger, other):
    other.pauses.tell(Pause("billing", 9, True, "answered 503"))
    for seconds in (5, 10, 20):
        ledger.pauses.tell(Pause("billing", seconds, True, "answered 503"))
    assert [pause.seconds for pause in ledger.pauses.current()] == [9, 20]
    ledger.pauses.tell(Pause("billing", 0, False, ""))
    assert [pause.owner for pause in ledger.pauses.current()] == ["other"]


def test_a_pause_from_before_the_clock_was_put_back_does_not_count(ledger, clock):
    ledger.pauses.tell(Pause("billing", 60, False, "asked for a pause"))
    clock.now -= 86_400
    assert ledger.pauses.current() == []


NIGHTLY = "0 2 * * * UTC"


def begun_schedule(ledger, job="nightly", definition=NIGHTLY):
    ledger.schedules.begin(job, definition)
    return ledger.schedules.read()[job]


def fired(ledger, *times, job="nightly", run=None, **options):
    """See to some ticks; their deliveries' ids by time."""
    ticks = {time: f"{job}-{time:.0f}" for time in times}
    seen = ledger.schedules.read()[job]
    assert ledger.schedules.see_to(seen, max(times), ticks, run=times if run is None else run, **options)
    return ledger.schedules.ticks(job)


def test_a_new_schedule_has_no_past(ledger, clock):
    seen = begun_schedule(ledger)
    assert (seen.definition, seen.seen_to, seen.released) == (NIGHTLY, clock.now, 0)


def test_a_schedule_that_begins_again_goes_on_where_it_was(ledger, other, clock):
    first = begun_schedule(ledger)
    clock.now += 3600
    assert begun_schedule(other) == first


def test_a_changed_schedule_has_no_past_either(ledger, clock):
    begun_schedule(ledger)
    clock.now += 3600
    assert begun_schedule(ledger, definition="30 2 * * * UTC").seen_to == clock.now


def test_a_schedule_that_a_wrong_clock_moved_into_the_future_begins_anew(ledger, clock):
    begun_schedule(ledger)
    clock.now -= 3600
    assert begun_schedule(ledger).seen_to == clock.now


def test_a_tick_is_a_waiting_delivery_that_nobody_owns(ledger, clock):
    begun_schedule(ledger)
    clock.now += 10
    made = fired(ledger, clock.now - 5)
    entry = ledger.get(made[clock.now - 5])
    assert (entry.trigger, entry.job, entry.source) == ("schedule", "nightly", f"nightly-{clock.now - 5:.0f}")
    assert (entry.state, entry.owner, entry.created, entry.attempts) == ("waiting", "", clock.now, 0)
    assert ledger.schedules.read()["nightly"].seen_to == clock.now - 5
    assert [taken.id for taken in take(ledger, triggers=("schedule",))] == [entry.id]


def test_of_two_workers_that_see_to_a_tick_one_makes_it(ledger, other, clock):
    seen = begun_schedule(ledger)
    ticks = {clock.now + 5: "nightly-x"}
    assert ledger.schedules.see_to(seen, clock.now + 5, ticks, run=ticks)
    assert not other.schedules.see_to(seen, clock.now + 5, ticks, run=ticks)
    assert len(ledger.entries()) == 1


def test_workers_at_the_same_time_make_each_tick_once(opened, clock):
    workers = [opened(f"worker {number}") for number in range(4)]
    seen = begun_schedule(workers[0])
    ticks = {clock.now + 5: "nightly-x"}
    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(lambda one: one.schedules.see_to(seen, clock.now + 5, ticks, run=ticks), workers))
    assert sorted(won) == [False, False, False, True]
    assert len(workers[0].entries()) == 1


def test_a_worker_with_another_schedule_makes_no_ticks(ledger, other, clock):
    old = begun_schedule(ledger)
    begun_schedule(other, definition="30 2 * * * UTC")
    assert not ledger.schedules.see_to(old, clock.now + 5, {clock.now + 5: "x"}, run=[clock.now + 5])
    assert ledger.entries() == []


def test_a_tick_that_is_left_out_is_remembered_without_a_delivery(ledger, clock):
    begun_schedule(ledger)
    first, second = clock.now + 1, clock.now + 2
    made = fired(ledger, first, second, run=[second])
    assert made[first] == ""
    assert [entry.id for entry in ledger.entries()] == [made[second]]


def test_a_tick_made_before_the_clock_was_put_back_is_not_made_again(ledger, clock):
    begun_schedule(ledger)
    tick = clock.now + 3600
    clock.now = tick
    made = fired(ledger, tick)
    clock.now -= 3600
    begun_schedule(ledger)
    clock.now = tick
    assert fired(ledger, tick) == made
    assert len(ledger.entries()) == 1


def test_ticks_of_long_ago_are_forgotten(ledger, clock):
    begun_schedule(ledger)
    fired(ledger, clock.now + 5)
    late = clock.now + 91 * 86_400
    assert list(fired(ledger, late)) == [late]


def test_the_ticks_of_a_job_come_one_after_the_other(ledger, other, clock):
    begun_schedule(ledger)
    begun_schedule(ledger, job="hourly")
    first, second = fired(ledger, clock.now + 1, clock.now + 2).values()
    (hourly,) = fired(ledger, clock.now + 1, job="hourly").values()
    entries = {entry.id: entry for entry in take(ledger, triggers=("schedule",))}
    assert entries.keys() == {first, hourly}
    assert take(other, triggers=("schedule",)) == []
    running = ledger.begin(entries[first], sha256="ab" * 32, size=1)
    assert take(other, triggers=("schedule",)) == []
    ledger.finish(running, as_delivery(running, job="nightly"), None)
    assert [entry.id for entry in take(other, triggers=("schedule",))] == [second]


def test_a_tick_that_waits_holds_up_the_next_one(ledger, clock):
    begun_schedule(ledger)
    first, _ = fired(ledger, clock.now + 1, clock.now + 2).values()
    (entry,) = take(ledger, triggers=("schedule",))
    ledger.put_back(entry, None, Unavailable("billing", "is down"), hold_off=60)
    assert take(ledger, triggers=("schedule",)) == []
    assert ledger.schedules.is_busy("nightly")
    clock.now += 60
    assert [entry.id for entry in take(ledger, triggers=("schedule",))] == [first]


def test_a_finished_tick_is_put_away_though_the_next_one_runs(ledger, other, clock):
    begun_schedule(ledger)
    first, second = fired(ledger, clock.now + 1, clock.now + 2).values()
    (entry,) = take(ledger, triggers=("schedule",))
    running = ledger.begin(entry, sha256="ab" * 32, size=1)
    ledger.finish(running, as_delivery(running, job="nightly"), None)
    (entry,) = take(ledger, triggers=("schedule",))
    ledger.begin(entry, sha256="ab" * 32, size=1)
    assert {each.id for each in take(other, gone={"one"}, triggers=("schedule",))} == {first, second}


def test_a_job_is_busy_until_its_ticks_are_finished(ledger, clock):
    begun_schedule(ledger)
    assert not ledger.schedules.is_busy("nightly")
    fired(ledger, clock.now + 1)
    (entry,) = take(ledger, triggers=("schedule",))
    running = ledger.begin(entry, sha256="ab" * 32, size=1)
    assert ledger.schedules.is_busy("nightly")
    assert not ledger.schedules.is_busy("hourly")
    ledger.finish(running, as_delivery(running, job="nightly"), DeliveryError("no"))
    assert not ledger.schedules.is_busy("nightly")


def test_a_tick_may_release_the_files_of_its_job(ledger, clock):
    begun_schedule(ledger)
    clock.now += 100
    fired(ledger, clock.now - 50, run=(), release=True)
    assert ledger.schedules.read()["nightly"].released == clock.now


def test_the_ledger_tells_its_time(ledger, clock):
    assert ledger.schedules.now() == clock.now
