import errno
import os
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from file_worker import CSV, Clock, FileWorker, rows, signed
from watchdog.events import DirModifiedEvent, FileMovedEvent, FileOpenedEvent

from worker.declare import job
from worker.errors import Paused, Unavailable
from worker.jobs import Jobs
from worker.triggers.inbox import AT_A_LOOK, GATHER_SECONDS, Events, Inbox


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def worker(tmp_path, clock):
    worker = FileWorker(tmp_path, clock)
    yield worker
    worker.ledger.close()


def look(worker, *, after=0.0):
    """One look; the names of the files that it handed over."""
    worker.inbox._clock.now += after
    worker.submitted.clear()
    worker.inbox.sweep()
    return [delivery.source for opening in worker.submitted if (delivery := opening())]


def settled(worker):
    """What is complete after it has kept its size and mtime for the settle time."""
    return look(worker) + look(worker, after=1)


def warnings(events):
    return [event for event in events if event["log_level"] == "warning"]


def test_a_file_is_taken_when_it_was_the_same_for_the_settle_time(worker):
    worker.drop()
    assert look(worker) == []
    assert look(worker, after=0.9) == []
    assert look(worker, after=0.2) == ["clients.csv"]
    assert look(worker, after=5) == []


def test_a_file_that_grows_is_waited_for(worker):
    for size in (1, 2, 3):
        worker.drop(content=CSV * size, mtime=1_000_000)
        assert look(worker, after=2) == []
    assert look(worker, after=1) == ["clients.csv"]


def test_a_file_that_is_written_over_with_the_same_size_is_waited_for(worker):
    worker.drop(mtime=1_000_000)
    assert look(worker) == []
    worker.drop(mtime=1_000_001)
    assert look(worker, after=2) == []
    assert look(worker, after=1) == ["clients.csv"]


def test_a_copy_that_keeps_an_old_mtime_is_taken_too(worker):
    worker.drop(mtime=1)
    assert settled(worker) == ["clients.csv"]


def test_a_file_that_comes_again_under_its_name_has_to_settle_again(worker):
    worker.drop()
    assert settled(worker) == ["clients.csv"]
    worker.drop()
    assert look(worker) == []
    assert look(worker, after=1) == ["clients.csv"]


def test_a_file_that_goes_away_before_it_settles_is_forgotten(worker):
    worker.drop().unlink()
    assert settled(worker) == []


def test_the_oldest_file_goes_first_and_then_the_name_decides(worker):
    for name, mtime in [("clients-b.csv", 20), ("clients-c.csv", 10), ("clients-a.csv", 20), ("clients-d.csv", 30)]:
        worker.drop(name, mtime=mtime)
    assert settled(worker) == ["clients-c.csv", "clients-a.csv", "clients-b.csv", "clients-d.csv"]


def test_only_so_many_files_are_taken_at_a_look_and_always_the_oldest(worker, monkeypatch):
    monkeypatch.setattr("worker.triggers.inbox.AT_A_LOOK", 2)
    assert AT_A_LOOK > 2
    for mtime in (30, 10, 20):
        worker.drop(f"clients-{mtime}.csv", mtime=mtime)
    assert settled(worker) == ["clients-10.csv", "clients-20.csv"]
    assert look(worker) == ["clients-30.csv"]


def test_a_file_that_changes_until_its_turn_comes_has_to_settle_again(worker):
    for name in ("clients-a.csv", "clients-b.csv"):
        worker.drop(name, mtime=1_000_000)
    assert look(worker) == []
    waiting, handed_over = SimpleQueue(), []
    waiting.put(lambda: worker.drop("clients-b.csv", CSV[:10]))  # somebody begins to send it again

    def submit(opening):
        handed_over.append(opening().source)
        with suppress(Empty):
            waiting.get_nowait()()

    worker.inbox._submit = submit
    worker.inbox._clock.now += 1
    worker.inbox.sweep()
    assert handed_over == ["clients-a.csv"]
    worker.inbox.sweep()
    worker.inbox._clock.now += 1
    worker.inbox.sweep()
    assert handed_over == ["clients-a.csv", "clients-b.csv"]


def test_a_look_says_what_it_found(worker, monkeypatch):
    monkeypatch.setattr("worker.triggers.inbox.AT_A_LOOK", 2)
    for name in "abc":
        worker.drop(f"clients-{name}.csv")
    first = worker.inbox.sweep()
    assert (first.handed_over, first.more, first.settling) == (0, False, True)
    worker.inbox._clock.now += 1
    second = worker.inbox.sweep()
    assert (second.handed_over, second.more, second.settling) == (2, True, False)
    third = worker.inbox.sweep()
    assert (third.handed_over, third.more, third.settling) == (1, False, False)


def test_hidden_temporary_and_lock_names_are_passed_over_in_silence(worker, capture_log):
    names = [
        ".hidden.csv",
        ".clients.csv.part",
        "~clients.csv",
        "clients.csv~",
        "clients.csv.tmp",
        "clients.csv.part",
        "clients.csv.filepart",
        "clients.csv.crdownload",
        "clients.csv.lock",
        ".~lock.clients.csv#",
        "clients.csv.swp",
        "signed.csv.done",
    ]
    for name in names:
        worker.drop(name)
    assert settled(worker) == []
    assert worker.files == sorted(f"inbox/{name}" for name in names)
    assert warnings(capture_log) == []


def test_any_other_name_is_taken_whether_a_job_wants_it_or_not(worker):
    names = ["$HOME č.csv", "a..b.csv", "empty.csv", "no suffix", "plans.csv", "two words.csv"]
    for name in names:
        worker.drop(name, b"" if name == "empty.csv" else CSV, mtime=1)
    assert settled(worker) == names


def test_a_job_that_wants_a_done_file_gets_its_file_when_that_is_there(worker):
    worker.drop("signed.csv")
    assert settled(worker) == []
    worker.drop("signed.csv.done", b"")
    assert look(worker) == ["signed.csv"]
    assert [name for name in worker.files if name.startswith("inbox/")] == []


def test_a_done_file_from_before_its_file_is_of_another_one_and_there_is_one_warning(worker, capture_log):
    done = worker.drop("signed.csv.done", b"")
    while worker.drop("signed.csv").stat().st_mtime_ns <= done.stat().st_mtime_ns:
        pass  # the clock of a file system ticks every few milliseconds
    assert settled(worker) == look(worker) == []
    assert [(event["name"], "done file is older" in event["reason"]) for event in capture_log] == [("signed.csv", True)]
    done.touch()
    assert look(worker) == ["signed.csv"]


@pytest.mark.parametrize("mtime", [1_000_000, 2_000_000_000])
def test_a_file_that_keeps_the_time_it_had_elsewhere_has_a_done_file_all_the_same(worker, mtime):
    worker.drop("signed.csv", mtime=mtime)
    worker.drop("signed.csv.done", b"")
    assert settled(worker) == ["signed.csv"]


def test_what_is_no_file_to_take_is_left_alone_with_one_warning(worker, capture_log):
    inbox, outside = worker.folders.inbox, worker.root / "outside.csv"
    outside.write_bytes(CSV)
    (inbox / "link.csv").symlink_to(outside)
    (inbox / "loop.csv").symlink_to(inbox / "loop.csv")
    os.mkfifo(inbox / "pipe.csv")
    for folder in ("folder.csv", "inbox"):
        (inbox / folder).mkdir()
    for name in (os.fsdecode(b"\xff.csv"), "x" * 230):
        worker.drop(name)
    odd = sorted(path.name for path in inbox.iterdir())
    worker.drop()
    assert settled(worker) == ["clients.csv"]
    assert settled(worker) == []
    assert {event["event"] for event in warnings(capture_log)} == {"left alone in the inbox"}
    assert sorted(event["name"] for event in warnings(capture_log)) == odd
    assert sorted(path.name for path in inbox.iterdir()) == odd
    assert "rename it" in worker.inbox.sweep().trouble
    for name in (os.fsdecode(b"\xff.csv"), "x" * 230):
        (inbox / name).unlink()
    assert worker.inbox.sweep().trouble == "", "a link or a pipe is no delivery that could wait"


def test_a_file_that_may_not_be_read_is_left_alone_with_one_warning(worker, monkeypatch, capture_log):
    worker.drop("secret.csv")
    worker.drop()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("secret.csv"))
    assert settled(worker) == ["clients.csv"]
    assert settled(worker) == []
    (warning,) = warnings(capture_log)
    assert (warning["name"], warning["reason"]) == ("secret.csv", "it may not be read; give this user the permission")
    assert worker.inbox.sweep().trouble.endswith("/inbox/secret.csv: it may not be read; give this user the permission")


def test_a_file_that_another_worker_takes_while_it_is_looked_at_is_no_trouble(worker, monkeypatch, capture_log):
    taken = worker.drop("taken.csv")

    def access(path, mode):
        taken.unlink(missing_ok=True)
        return False

    monkeypatch.setattr(os, "access", access)
    assert worker.inbox.sweep().trouble == ""
    assert warnings(capture_log) == []


def test_a_file_that_cannot_be_moved_does_not_hold_up_the_others(worker, monkeypatch, capture_log):
    rename = Path.rename

    def refuse(path, target):
        if path.name == "clients-stuck.csv":
            raise OSError(errno.EPERM, "Operation not permitted", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    worker.drop("clients-stuck.csv", mtime=1)
    worker.drop("clients-free.csv")
    assert settled(worker) == ["clients-free.csv"]
    assert settled(worker) == []
    (warning,) = warnings(capture_log)
    assert (warning["name"], "Operation not permitted" in warning["reason"]) == ("clients-stuck.csv", True)
    assert worker.inbox.sweep().handed_over == 0
    worker.inbox._clock.now += 1
    found = worker.inbox.sweep()
    assert (found.handed_over, "Operation not permitted" in found.trouble) == (0, True)
    monkeypatch.setattr(Path, "rename", rename)
    assert settled(worker) == ["clients-stuck.csv"]
    assert worker.inbox.sweep().trouble == ""


def test_an_inbox_that_is_missing_is_told_once_and_worked_off_when_it_is_back(worker, capture_log):
    worker.folders.inbox.rmdir()
    assert settled(worker) == []
    (warning,) = warnings(capture_log)
    assert warning["event"] == "the inbox cannot be worked off"
    assert warning["reason"].startswith("No such file or directory")
    worker.folders.inbox.mkdir()
    worker.drop()
    assert settled(worker) == ["clients.csv"]
    worker.folders.inbox.rmdir()
    assert settled(worker) == []
    assert len(warnings(capture_log)) == 2


def test_a_ledger_that_is_away_is_waited_for(worker, monkeypatch, capture_log):
    def away(*_args, **_kwargs):
        raise Paused("the ledger cannot be used: it is locked")

    worker.drop()
    with monkeypatch.context() as patched:
        patched.setattr(worker.ledger, "announce", away)
        assert settled(worker) == []
    assert [event["reason"] for event in warnings(capture_log)] == ["the ledger cannot be used: it is locked"]
    assert worker.files == ["inbox/clients.csv"]
    assert settled(worker) == ["clients.csv"]


def test_what_waited_long_enough_goes_before_new_files(worker):
    worker.claim("clients-old.csv").settle(Unavailable("billing", "no answer"))
    worker.drop("clients-new.csv")
    assert look(worker) == []
    assert look(worker, after=3) == ["clients-old.csv", "clients-new.csv"]


def test_what_a_worker_has_no_room_for_is_left_to_the_others(worker, clock):
    worker.drop("late.csv")
    look(worker)
    worker.room = 0
    assert look(worker, after=1) == []
    assert (worker.folders.inbox / "late.csv").exists()
    assert worker.ledger.entries() == []
    worker.room = 1
    assert look(worker) == ["late.csv"]


def test_two_workers_on_one_inbox_take_each_file_once(worker, tmp_path, clock):
    other = FileWorker(tmp_path, clock, owner="there.1.x")
    for name in "abcd":
        worker.drop(f"clients-{name}.csv")
    look(worker)
    look(other)
    clock.now += 1
    worker.inbox.sweep()
    other.inbox.sweep()
    taken = [delivery.source for opening in worker.submitted + other.submitted if (delivery := opening())]
    assert sorted(taken) == [f"clients-{name}.csv" for name in "abcd"]
    assert len(worker.entries) == 4
    other.ledger.close()


def test_a_file_that_was_renamed_into_place_is_complete_at_once(worker, clock):
    submitted = SimpleQueue()
    inbox = Inbox(
        worker.folders.inbox, worker.claims, worker.jobs, submitted.put, lambda: 1, settle_seconds=3600, clock=clock
    )
    worker.drop("written-here.csv")
    inbox.start()
    try:
        delivery = first_of_those_renamed_into_place(worker, submitted)
    finally:
        inbox.stop()
    assert len(rows(delivery)) == 2
    assert (worker.folders.inbox / "written-here.csv").exists()


def first_of_those_renamed_into_place(worker, submitted):
    """Files are renamed one after the other, as the first may come before the inbox listens."""
    for attempt in range(100):
        worker.drop(f"clients-{attempt}.csv.tmp").rename(worker.folders.inbox / f"clients-{attempt}.csv")
        with suppress(Empty):
            return submitted.get(timeout=0.1)()
    raise AssertionError("no rename was noticed")


@pytest.fixture
def evening(worker):
    """An inbox whose ``clients`` wait for a tick; ``released`` is when one came last."""

    @job(files="clients*.csv", schedule="0 18 * * *")
    def summary(row, ctx):
        """Never called here."""

    jobs = Jobs([summary, signed])
    released = {}
    inbox = Inbox(
        worker.folders.inbox,
        worker.claims,
        jobs,
        worker.submitted.append,
        lambda: worker.room,
        settle_seconds=0,
        released=lambda: released,
    )
    return inbox, released


def test_the_files_of_a_job_with_a_schedule_wait_for_its_tick(worker, evening):
    inbox, released = evening
    path = worker.drop()
    worker.drop("unwanted.csv")
    assert inbox.sweep().handed_over == 1
    assert not inbox.sweep().settling
    released["summary"] = path.stat().st_ctime
    assert inbox.sweep().handed_over == 1


def test_a_file_that_came_after_the_tick_waits_for_the_next_one(worker, evening):
    inbox, released = evening
    released["summary"] = worker.drop("clients-1.csv").stat().st_ctime
    late = worker.drop("clients-2.csv")
    os.utime(late, (0, 0))  # the time that the sender gave it says nothing of when it came
    released["summary"] = late.stat().st_ctime - 0.000_001
    inbox.sweep()
    assert [path.name for path in worker.folders.inbox.iterdir()] == ["clients-2.csv"]


@pytest.mark.parametrize(("since", "waited"), [(60 * GATHER_SECONDS, 0), (GATHER_SECONDS / 4, GATHER_SECONDS * 3 / 4)])
def test_a_file_that_comes_after_a_while_is_looked_at_at_once_and_one_that_follows_shares_the_next_look(since, waited):
    now, slept = iter([100.0, 100.0 + since]), []
    events = Events(clock=lambda: next(now), sleep=slept.append)
    events.on_any_event(FileMovedEvent("", "/inbox/a.csv"))
    events.wait(10)
    assert slept == [pytest.approx(waited)]
    assert events.renamed() == {"a.csv"}


@pytest.mark.parametrize(
    "event", [FileOpenedEvent("/inbox/a.csv"), DirModifiedEvent("/inbox"), FileMovedEvent("/inbox/a.csv", "")]
)
def test_what_our_own_looks_and_claims_do_to_the_inbox_makes_no_look(event):
    slept = []
    events = Events(sleep=slept.append)
    events.on_any_event(event)
    events.wait(0)
    assert slept == []
    assert events.renamed() == set()
