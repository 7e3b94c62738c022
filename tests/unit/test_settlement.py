import errno
import json
import os
import shutil

import pytest
from file_worker import CSV, Clock, Crash, FileWorker, another_file_system, rows

from worker import files
from worker.errors import DeliveryError, LeftAlone, LostLease, Paused, Reject, Stopping, Unauthorized, Unavailable
from worker.records import EXPORTS
from worker.triggers import endings

OTHER = b"id\n1\n"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def worker(tmp_path, clock):
    worker = FileWorker(tmp_path, clock)
    yield worker
    worker.ledger.close()


def read(worker, name):
    return (worker.root / name).read_bytes()


def failed(worker, error=None, **claimed):
    """A delivery that failed."""
    delivery = worker.claim(**claimed)
    delivery.job = "summary"
    delivery.settle(error or DeliveryError("its header names 'id' more than once"))
    return delivery


def test_a_done_deliverys_file_goes_to_the_archive(worker):
    delivery = worker.claim()
    delivery.settle(None)
    assert (worker.files, read(worker, "archive/clients.csv")) == (["archive/clients.csv"], CSV)
    entry = worker.entry(delivery)
    assert (entry.state, entry.put_away, entry.owner, entry.error) == ("done", True, "", "")


def test_a_name_that_is_taken_in_the_archive_gets_the_id(worker):
    worker.claim().settle(None)
    delivery = worker.claim(content=OTHER)
    delivery.settle(None)
    assert worker.files == [f"archive/clients-{delivery.id}.csv", "archive/clients.csv"]
    assert (read(worker, "archive/clients.csv"), read(worker, f"archive/clients-{delivery.id}.csv")) == (CSV, OTHER)


def test_an_unusable_deliverys_file_goes_to_failed_beside_the_reason(worker, clock):
    delivery = worker.claim()
    delivery.job = "summary"
    clock.now += 4
    delivery.settle(DeliveryError("its header names 'id' more than once"))
    assert worker.files == ["failed/clients.csv", "failed/clients.csv.error.json"]
    assert json.loads(read(worker, "failed/clients.csv.error.json")) == {
        "delivery": delivery.id,
        "job": "summary",
        "source": "clients.csv",
        "error": "DeliveryError",
        "detail": "its header names 'id' more than once",
        "attempts": 1,
        "failed": "2026-11-23T02:00:04Z",
    }
    assert (worker.entry(delivery).state, worker.entry(delivery).detail) == (
        "failed",
        "its header names 'id' more than once",
    )


def test_a_failed_delivery_keeps_its_outcomes_for_a_retry_and_nothing_that_was_exported_for_it(worker):
    delivery = worker.claim()
    for name in ("part", f"{EXPORTS}/ehr-1/0.ndjson"):
        (delivery.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (delivery.folder / name).write_text("records")
    delivery.settle(Unauthorized("billing", "the token lacks the scope billing.read", 403))
    assert [path.name for path in delivery.folder.iterdir()] == ["part"]


def test_one_that_may_not_be_done_fails(worker):
    delivery = failed(worker, Unauthorized("billing", "the token lacks the scope billing.read", 403))
    assert json.loads(read(worker, "failed/clients.csv.error.json"))["error"] == "Unauthorized"
    assert worker.entry(delivery).state == "failed"


def test_the_longest_name_that_is_taken_in_can_fail_twice(worker):
    name = "n" * (files.NAME_BYTES - len(".csv")) + ".csv"
    first, second = failed(worker, name=name), failed(worker, name=name, content=OTHER)
    again = files.with_id(name, second.id)
    assert worker.files == sorted(
        (f"failed/{name}", f"failed/{name}.error.json", f"failed/{again}", f"failed/{again}.error.json")
    )
    assert json.loads(read(worker, f"failed/{again}.error.json"))["delivery"] == second.id
    assert worker.entry(first).put_away
    assert worker.entry(second).put_away


def test_a_name_that_is_taken_in_failed_gets_the_id_and_so_does_its_reason(worker):
    first, second = failed(worker), failed(worker, content=OTHER)
    assert worker.files == [
        f"failed/clients-{second.id}.csv",
        f"failed/clients-{second.id}.csv.error.json",
        "failed/clients.csv",
        "failed/clients.csv.error.json",
    ]
    assert json.loads(read(worker, "failed/clients.csv.error.json"))["delivery"] == first.id
    assert json.loads(read(worker, f"failed/clients-{second.id}.csv.error.json"))["delivery"] == second.id


@pytest.mark.parametrize("left", [b'{"delivery": "other"}', b"not ours", b"[]"])
def test_a_reason_that_is_somebody_elses_is_not_overwritten(worker, left):
    (worker.folders.failed / "clients.csv.error.json").write_bytes(left)
    delivery = failed(worker)
    assert read(worker, "failed/clients.csv.error.json") == left
    assert f"failed/clients-{delivery.id}.csv.error.json" in worker.files


def test_of_two_that_fail_at_once_each_gets_its_own_reason(worker, clock, monkeypatch):
    told = endings.told
    first, second = worker.claim(), worker.claim(content=OTHER)

    def meanwhile(reason):
        monkeypatch.setattr(endings, "told", told)
        found = told(reason)
        second.settle(DeliveryError("no"))
        return found

    monkeypatch.setattr(endings, "told", meanwhile)
    first.settle(DeliveryError("no"))
    clock.now += 61
    assert worker.due() == []
    for name, delivery in [("clients.csv", second), (f"clients-{first.id}.csv", first)]:
        assert json.loads(read(worker, f"failed/{name}.error.json"))["delivery"] == delivery.id
        assert f"failed/{name}" in worker.files
    assert len(worker.files) == 4


@pytest.mark.parametrize("folder", ["archive", "failed"])
def test_a_file_is_put_away_on_another_file_system(worker, monkeypatch, folder):
    another_file_system(monkeypatch, worker.root / folder)
    delivery = worker.claim()
    delivery.settle(DeliveryError("no") if folder == "failed" else None)
    assert read(worker, f"{folder}/clients.csv") == CSV
    assert [name for name in worker.files if not name.startswith(folder)] == []


@pytest.mark.parametrize("folder", ["archive", "failed"])
@pytest.mark.parametrize("slow_until", ["half is copied", "all is copied"])
def test_a_worker_that_was_slow_at_a_copy_never_shows_the_half_copy_of_a_dead_successor(
    worker, tmp_path, clock, monkeypatch, capture_log, folder, slow_until
):
    copyfileobj = shutil.copyfileobj
    another_file_system(monkeypatch, worker.root / folder)
    delivery = worker.claim()

    def die_half_way(original, twin, _size):
        twin.write(original.read()[:5])
        twin.flush()
        os._exit(0)

    def slow(original, twin, size):
        if slow_until == "all is copied":
            copyfileobj(original, twin, size)
        clock.now += 31
        monkeypatch.setattr(shutil, "copyfileobj", die_half_way)
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            FileWorker(tmp_path, clock, owner="here.2.other").due()
        copyfileobj(original, twin, size)

    monkeypatch.setattr(shutil, "copyfileobj", slow)
    delivery.settle(DeliveryError("no") if folder == "failed" else None)
    assert "delivery lost" in [event["event"] for event in capture_log]
    assert f"{folder}/clients.csv" not in worker.files
    monkeypatch.setattr(shutil, "copyfileobj", copyfileobj)
    clock.now += 61
    heir = FileWorker(tmp_path, clock, owner="here.3.heir")
    assert heir.due() == []
    heir.ledger.close()
    expected = (
        ["archive/clients.csv"] if folder == "archive" else ["failed/clients.csv", "failed/clients.csv.error.json"]
    )
    assert (worker.files, read(worker, f"{folder}/clients.csv")) == (expected, CSV)


@pytest.mark.parametrize("error", [None, DeliveryError("no")])
def test_a_file_is_put_away_where_there_are_no_hard_links(worker, monkeypatch, error):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    for content in (CSV, OTHER):
        worker.claim(content=content).settle(error)
    folder = "failed" if error else "archive"
    assert sorted(read(worker, name) for name in worker.files if name.endswith(".csv")) == sorted([CSV, OTHER])
    assert all(name.startswith(folder) for name in worker.files)


def test_done_stays_done_where_the_file_cannot_be_put_away_and_it_is_tried_again(
    worker, clock, monkeypatch, capture_log
):
    def refuse(*_args, **_named):
        raise OSError(errno.EACCES, "Permission denied", "work/clients.csv", None, "archive/clients.csv")

    delivery = worker.claim()
    with monkeypatch.context() as patched:
        patched.setattr(files, "put_away", refuse)
        delivery.settle(None)
    entry = worker.entry(delivery)
    assert (entry.state, entry.put_away) == ("done", False)
    why = "Permission denied: work/clients.csv -> archive/clients.csv"  # either may be what cannot be written
    assert entry.detail == f"it is finished, but its file cannot be put away: {why}"
    assert "file not put away" in [event["event"] for event in capture_log if event["log_level"] == "error"]
    assert worker.due() == []
    clock.now += 61
    assert worker.due() == []
    assert worker.files == ["archive/clients.csv"]
    assert (worker.entry(delivery).put_away, worker.entry(delivery).detail) == (True, "")


def test_the_reason_of_a_failure_outlasts_a_time_in_which_its_file_could_not_be_put_away(worker, clock, monkeypatch):
    def refuse(*_args, **_named):
        raise OSError(errno.EACCES, "Permission denied", "failed/clients.csv")

    why, kept = "its header names 'id' more than once", "it is finished, but its file cannot be put away"
    with monkeypatch.context() as patched:
        patched.setattr(files, "write", refuse)
        delivery = failed(worker)
        clock.now += 61
        assert worker.due() == []
    assert worker.entry(delivery).detail == f"{why}; {kept}: Permission denied: failed/clients.csv"
    clock.now += 61
    assert worker.due() == []
    assert json.loads(read(worker, "failed/clients.csv.error.json"))["detail"] == why
    assert (worker.entry(delivery).put_away, worker.entry(delivery).detail) == (True, why)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Unavailable("billing", "no answer"), 2),
        (Unavailable("billing", "no answer", 503, retry_after=120), 120),
        (Unavailable("billing", "no answer", 503, retry_after=1), 2),
        (LeftAlone("billing", "is left alone", retry_after=1), 1),
        (Paused("the ledger cannot be used"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (Stopping("stopping"), 0),
        (ZeroDivisionError("007"), 2),
        (Reject("of a whole delivery"), 2),
    ],
)
def test_what_says_nothing_about_the_delivery_puts_it_back_to_wait(worker, clock, error, seconds):
    delivery = worker.claim()
    delivery.settle(error)
    entry = worker.entry(delivery)
    assert (entry.state, entry.owner, entry.error) == ("waiting", "", type(error).__name__)
    assert entry.not_before == pytest.approx(clock.now + seconds)
    assert worker.files == [f"work/{delivery.id}.clients.csv"]
    clock.now += seconds + 0.001
    (again,) = worker.due()
    assert (again.id, again.attempts, rows(again)[0]["id"]) == (delivery.id, 2, "007")


def test_an_outage_is_looked_at_more_and_more_rarely_and_once_a_minute_at_least(worker, clock):
    delivery, waits = worker.claim(), []
    for _ in range(8):
        delivery.settle(Unavailable("billing", "no answer"))
        waits.append(round(worker.entry(delivery).not_before - clock.now))
        clock.now += 61
        (delivery,) = worker.due()
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert not (worker.folders.failed / "clients.csv").exists()


def test_a_hold_off_is_spread_so_that_not_all_come_back_at_once(worker, clock):
    waits = set()
    for share in (0.0, 1.0):
        worker.settlement._jitter = lambda share=share: share
        delivery = worker.claim()
        delivery.settle(Unavailable("billing", "no answer"))
        waits.add(round(worker.entry(delivery).not_before - clock.now, 3))
    assert waits == {1.5, 2.5}


def test_neither_the_ledger_nor_the_log_quotes_what_a_bug_says(worker, capture_log):
    delivery = worker.claim()
    delivery.settle(ZeroDivisionError("Ann Smith"))
    assert worker.entry(delivery).detail == "an unexpected ZeroDivisionError; the log says where"
    assert "Ann Smith" not in str(capture_log)


def test_a_lost_delivery_is_left_to_the_other_worker(worker, tmp_path, clock, capture_log):
    delivery = worker.claim()
    other = FileWorker(tmp_path, clock, owner="here.2.two", gone={worker.owner})
    (taken,) = other.due()
    for error in (None, DeliveryError("no"), LostLease("lost"), Unavailable("billing", "no answer")):
        delivery.settle(error)
    assert other.entry(taken).state == "running"
    taken.settle(None)
    assert other.files == ["archive/clients.csv"]
    assert [event["event"] for event in capture_log if event["log_level"] == "warning"] == ["delivery lost"] * 4
    other.ledger.close()


def test_a_ledger_that_is_away_at_the_end_loses_nothing(worker, tmp_path, clock, monkeypatch, capture_log):
    def away(*_args, **_kwargs):
        raise Paused("the ledger cannot be used: it is locked")

    delivery = worker.claim()
    with monkeypatch.context() as patched:
        patched.setattr(worker.ledger, "finish", away)
        delivery.settle(None)
    assert [event["event"] for event in capture_log if event["log_level"] == "error"] == ["delivery not settled"]
    clock.now += 31
    (again,) = worker.due()
    again.settle(None)
    assert worker.files == ["archive/clients.csv"]


def test_a_jobs_state_is_kept_with_the_done_delivery_only(worker):
    delivery = worker.claim()
    delivery.job, delivery.state = "summary", {"since": "2026-11-23"}
    delivery.settle(Unavailable("billing", "no answer"))
    assert worker.ledger.state.load("summary") == {}
    again = worker.claim()
    again.job, again.state = "summary", {"since": "2026-11-23"}
    again.settle(None)
    assert worker.ledger.state.load("summary") == {"since": "2026-11-23"}


def test_a_failed_delivery_is_run_again_with_what_it_had_done(worker):
    delivery = worker.claim()
    delivery.folder.mkdir()
    (delivery.folder / "outcomes-1.part").write_bytes(b"[0,2,[]]\n")
    delivery.settle(DeliveryError("no"))
    assert worker.settlement.reopen(worker.entry(delivery))
    (again,) = worker.due()
    assert (again.id, again.attempts, len(rows(again))) == (delivery.id, 2, 2)
    assert worker.files == [f"work/{delivery.id}.clients.csv", f"work/{delivery.id}/outcomes-1.part"]
    again.settle(None)
    assert worker.files == ["archive/clients.csv"]


def test_of_two_failed_deliveries_of_one_name_each_gets_its_own_file_back(worker):
    first, second = failed(worker), failed(worker, content=OTHER)
    assert worker.settlement.reopen(worker.entry(second))
    assert worker.files == [
        "failed/clients.csv",
        "failed/clients.csv.error.json",
        f"work/{second.id}.clients.csv",
    ]
    assert worker.settlement.reopen(worker.entry(first))
    assert sorted(len(rows(delivery)) for delivery in worker.due()) == [1, 2]


def test_a_delivery_that_fails_again_tells_its_newest_reason(worker):
    delivery = failed(worker)
    worker.settlement.reopen(worker.entry(delivery))
    (again,) = worker.due()
    again.settle(DeliveryError("another reason"))
    reason = json.loads(read(worker, "failed/clients.csv.error.json"))
    assert (reason["detail"], reason["attempts"]) == ("another reason", 2)


@pytest.mark.parametrize("moved", ["half", "whole"])
def test_a_crash_while_a_failed_delivery_is_brought_back_loses_nothing(worker, monkeypatch, moved):
    def crash(*_args, **_kwargs):
        raise Crash

    def half(source, target):
        target.hardlink_to(source)
        raise Crash

    delivery = failed(worker)
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(*((files, "move", half) if moved == "half" else (worker.ledger, "reopen", crash)))
        worker.settlement.reopen(worker.entry(delivery))
    assert worker.entry(delivery).state == "failed"
    assert worker.settlement.reopen(worker.entry(delivery))
    (again,) = worker.due()
    assert (rows(again)[0]["id"], worker.files) == ("007", [f"work/{delivery.id}.clients.csv"])


def test_a_failed_delivery_whose_file_was_taken_away_is_not_run_again(worker):
    delivery = failed(worker)
    (worker.folders.failed / "clients.csv").unlink()
    assert not worker.settlement.reopen(worker.entry(delivery))
    assert worker.entry(delivery).state == "failed"


def test_another_deliverys_file_is_not_taken_for_the_own_one(worker):
    first = failed(worker)
    (worker.folders.failed / "clients.csv").unlink()
    (worker.folders.failed / "clients.csv.error.json").unlink()
    second = failed(worker, content=OTHER)
    assert not worker.settlement.reopen(worker.entry(first))
    assert worker.settlement.reopen(worker.entry(second))


def test_only_a_failed_delivery_is_run_again(worker):
    delivery = worker.claim()
    delivery.settle(None)
    (worker.folders.failed / "clients.csv").write_bytes(CSV)
    assert not worker.settlement.reopen(worker.entry(delivery))
    assert "failed/clients.csv" in worker.files
