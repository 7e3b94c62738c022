import errno
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from file_worker import CSV, Clock, Crash, FileWorker, another_file_system, claimed, rows

from worker import files
from worker.errors import DeliveryError, LeftAlone, LostLease, ServerFault, Stopping, Unavailable
from worker.records import Reading
from worker.triggers import claims

ANN_AND_BOB = [{"id": "007", "name": "Ann"}, {"id": "008", "name": "Bob"}]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def worker(tmp_path, clock):
    worker = FileWorker(tmp_path, clock)
    yield worker
    worker.ledger.close()


@pytest.fixture
def heir(tmp_path, clock, worker):
    """Another worker of the same machine, after the first one was killed."""
    heir = FileWorker(tmp_path, clock, owner="here.2.two", gone={worker.owner})
    yield heir
    heir.ledger.close()


def refuse(number):
    def refused(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return refused


def crash(*_args, **_kwargs):
    raise Crash


def test_a_claimed_file_becomes_a_delivery(worker, tmp_path):
    delivery = worker.claim()
    assert worker.files == [f"work/{delivery.id}.clients.csv"]
    assert (delivery.trigger, delivery.source, delivery.attempts) == ("inbox", "clients.csv", 1)
    assert (delivery.input.name, delivery.input.bytes) == ("clients.csv", len(CSV))
    assert delivery.input.sha256 == hashlib.sha256(CSV).hexdigest()
    assert delivery.folder == tmp_path / "work" / delivery.id
    assert delivery.started == datetime(2026, 11, 23, 2, tzinfo=UTC).timestamp()
    assert rows(delivery) == ANN_AND_BOB
    assert worker.entry(delivery).state == "running"


@pytest.mark.parametrize("name", ["two words.csv", "clients $HOME č.csv", "a..b.csv", "x" * 216 + ".csv"])
def test_names_are_kept_as_the_sender_gave_them(worker, name):
    assert worker.claim(name).source == name


def test_the_same_file_dropped_again_is_a_new_delivery(worker):
    assert worker.claim().id != worker.claim().id


def test_a_claimed_file_is_nobody_elses_to_look_at(worker):
    worker.folders.work.rmdir()
    delivery = worker.claim()
    assert claimed(delivery).parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_another_worker_took_first_is_left_to_it(worker):
    path = worker.drop()
    path.unlink()
    assert worker.claims.claim(path) is None
    assert (worker.entries, worker.files) == ([], [])


def test_a_file_that_cannot_be_moved_stays_where_it_is(worker, monkeypatch):
    path = worker.drop()
    monkeypatch.setattr(Path, "rename", refuse(errno.EACCES))
    with pytest.raises(PermissionError):
        worker.claims.claim(path)
    assert (worker.entries, worker.files) == ([], ["inbox/clients.csv"])


def test_a_file_that_was_moved_by_a_share_which_says_that_it_was_not_is_kept(worker, monkeypatch):
    rename = Path.rename

    def says_no(source, target):
        rename(source, target)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # NFS asked twice

    path = worker.drop()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", says_no)
        opening = worker.claims.claim(path)
    assert rows(opening()) == ANN_AND_BOB


def test_a_claimed_file_is_kept_where_its_name_cannot_be_made_durable(worker, clock, monkeypatch):
    opening = worker.claims.claim(worker.drop())
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_folder", refuse(errno.EIO))
        assert opening() is None
    (entry,) = worker.entries
    assert (entry.state, entry.detail) == ("waiting", "Input/output error")
    clock.now += 2
    (delivery,) = worker.due()
    assert rows(delivery) == ANN_AND_BOB


def test_a_delivery_that_takes_longer_to_open_than_a_lease_stays_with_its_worker(worker, tmp_path, clock, monkeypatch):
    stranger = FileWorker(tmp_path, clock, owner="there.1.x")
    opening, digest = worker.claims.claim(worker.drop()), claims.digest

    def slow(path):
        for _ in range(4):
            clock.now += 20
            worker.ledger.heartbeat([])
            assert (worker.due(), stranger.due()) == ([], [])
        return digest(path)

    monkeypatch.setattr(claims, "digest", slow)
    assert opening().attempts == 1
    stranger.ledger.close()


def test_a_file_is_brought_over_from_the_inboxs_own_file_system(worker, monkeypatch):
    another_file_system(monkeypatch, worker.folders.inbox)
    delivery = worker.claim()
    assert worker.files == [f"work/{delivery.id}.clients.csv"]
    assert rows(delivery) == ANN_AND_BOB


def test_a_delivery_says_whether_it_still_belongs_to_the_worker(worker, heir):
    delivery = worker.claim()
    delivery.guard()
    heir.due()
    with pytest.raises(LostLease):
        delivery.guard()


def test_a_copy_makes_a_delivery_and_leaves_the_file(worker, tmp_path):
    (tmp_path / "mine.csv").write_bytes(CSV)
    delivery = worker.claims.copy(tmp_path / "mine.csv", job="summary")()
    assert (delivery.trigger, delivery.job, rows(delivery)) == ("process", "summary", ANN_AND_BOB)
    delivery.settle(None)
    assert worker.files == ["mine.csv"]


@pytest.mark.parametrize("name", ["missing.csv", "x" * 230])
def test_what_cannot_be_copied_makes_no_delivery(worker, tmp_path, name):
    if len(name) > 100:
        (tmp_path / name).write_bytes(CSV)
    with pytest.raises(OSError):
        worker.claims.copy(tmp_path / name)
    assert worker.entries == []


def test_content_that_changes_while_it_is_read_is_noticed(worker):
    delivery = worker.claim(content=b"id\n1\n2\n3\n")
    chunks = delivery.read(Reading(chunk_rows=1))
    next(chunks)
    claimed(delivery).write_bytes(b"id\n1\n2\n4\n")
    with pytest.raises(DeliveryError, match="its content changed after it was claimed"):
        list(chunks)


def test_content_that_changes_before_it_is_read_is_noticed(worker):
    delivery = worker.claim()
    claimed(delivery).write_bytes(b"id\n1\n")
    with pytest.raises(DeliveryError, match="its content changed"):
        list(delivery.read(Reading()))


def test_content_that_changes_between_two_attempts_is_noticed_before_the_first_row(worker, heir):
    first = worker.claim()
    claimed(first).write_bytes(CSV.replace(b"Bob", b"Eve"))
    (delivery,) = heir.due()
    assert delivery.attempts == 2
    with pytest.raises(DeliveryError, match="its content changed"):
        next(delivery.read(Reading()))


def test_a_file_that_was_only_touched_is_not_taken_for_changed(worker):
    delivery = worker.claim()
    chunks = delivery.read(Reading(chunk_rows=1))
    next(chunks)
    os.utime(claimed(delivery), (1, 1))
    assert len(list(chunks)) == 1


def test_a_crash_after_the_announcement_leaves_the_file_to_the_next_look(worker, heir, monkeypatch):
    path = worker.drop()
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(Path, "rename", crash)
        worker.claims.claim(path)
    assert len(heir.entries) == 1
    assert heir.due() == []
    assert (heir.entries, heir.files) == ([], ["inbox/clients.csv"])
    assert rows(heir.claims.claim(path)()) == ANN_AND_BOB


def test_a_crash_after_the_move_leaves_a_delivery_to_be_run(worker, heir):
    worker.claims.claim(worker.drop())
    (delivery,) = heir.due()
    assert (rows(delivery), delivery.attempts) == (ANN_AND_BOB, 1)


@pytest.mark.parametrize("copied", [False, True])
def test_a_crash_while_a_file_is_brought_over_leaves_a_delivery_to_be_run(worker, heir, monkeypatch, copied):
    another_file_system(monkeypatch, worker.folders.inbox)
    opening = worker.claims.claim(worker.drop())
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(*((Path, "unlink", crash) if copied else (files, "copy", crash)))
        opening()
    assert len([name for name in worker.files if name.startswith("inbox/.")]) == 1
    (delivery,) = heir.due()
    assert rows(delivery) == ANN_AND_BOB
    assert heir.files == [f"work/{delivery.id}.clients.csv"]


def test_a_crash_while_rows_are_run_leaves_a_delivery_to_be_gone_on_with(worker, heir):
    first = worker.claim()
    first.folder.mkdir()
    (first.folder / "outcomes-1.part").write_bytes(b"[0,2,[]]\n")
    (delivery,) = heir.due()
    assert (delivery.id, delivery.attempts, delivery.folder) == (first.id, 2, first.folder)
    assert delivery.started == first.started
    assert (delivery.folder / "outcomes-1.part").exists()


def test_a_living_workers_deliveries_are_left_to_it_until_its_lease_ends(worker, tmp_path, clock):
    worker.claim()
    stranger = FileWorker(tmp_path, clock, owner="there.1.x")
    assert stranger.due() == []
    clock.now += 31
    assert len(stranger.due()) == 1
    stranger.ledger.close()


def test_a_crash_between_done_and_the_archive_leaves_only_the_move(worker, heir, monkeypatch):
    delivery = worker.claim()
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(files, "put_away", crash)
        delivery.settle(None)
    assert heir.due() == []
    assert heir.files == ["archive/clients.csv"]
    assert (heir.entry(delivery).state, heir.entry(delivery).put_away) == ("done", True)
    assert heir.claims.due(10) == []


def test_a_crash_between_failed_and_the_failed_folder_leaves_only_the_move(worker, heir, monkeypatch):
    delivery = worker.claim()
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(files, "put_away", crash)
        delivery.settle(DeliveryError("no"))
    assert heir.due() == []
    assert heir.files == ["failed/clients.csv", "failed/clients.csv.error.json"]
    assert (heir.entry(delivery).state, heir.entry(delivery).put_away) == ("failed", True)


@pytest.mark.parametrize("error", [None, DeliveryError("no")])
def test_a_crash_in_the_middle_of_the_move_doubles_nothing(worker, heir, monkeypatch, error):
    link = os.link

    def crash_after_link(source, target, **options):
        link(source, target, **options)
        if Path(target).name == "clients.csv":
            raise Crash

    delivery = worker.claim()
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(os, "link", crash_after_link)
        delivery.settle(error)
    assert heir.due() == []
    assert heir.files == (["failed/clients.csv", "failed/clients.csv.error.json"] if error else ["archive/clients.csv"])


def test_a_crash_right_after_the_move_leaves_nothing_to_do(worker, heir, monkeypatch):
    delivery = worker.claim()
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr("worker.ledger.Ledger.put_away", crash)
        delivery.settle(None)
    assert heir.due() == []
    assert (heir.files, heir.entry(delivery).put_away) == (["archive/clients.csv"], True)


def test_a_claimed_file_that_somebody_removed_fails_its_delivery(worker, heir, capture_log):
    delivery = worker.claim()
    claimed(delivery).unlink()
    assert heir.due() == []
    entry = heir.entry(delivery)
    assert (entry.state, entry.error, entry.put_away) == ("failed", "DeliveryError", True)
    assert "drop it into the inbox again" in entry.detail
    assert [event["event"] for event in capture_log if event["log_level"] == "error"] == ["delivery failed"]


def test_a_delivery_that_cannot_be_opened_now_waits(worker, clock, monkeypatch):
    opening = worker.claims.claim(worker.drop())
    with monkeypatch.context() as patched:
        patched.setattr("worker.triggers.claims.digest", refuse(errno.EIO))
        assert opening() is None
    (entry,) = worker.entries
    assert (entry.state, entry.error, entry.owner) == ("waiting", "OSError", "")
    assert worker.due() == []
    clock.now += 2
    (delivery,) = worker.due()
    assert rows(delivery) == ANN_AND_BOB


def test_a_lost_delivery_is_left_alone(worker, heir, capture_log):
    opening = worker.claims.claim(worker.drop())
    heir.due()
    assert opening() is None
    assert [event["event"] for event in capture_log if event["log_level"] == "warning"] == ["delivery lost"]


def test_what_another_worker_finished_before_it_could_be_opened_is_left_alone(worker, heir, capture_log):
    opening = worker.claims.claim(worker.drop())
    (delivery,) = heir.due()
    delivery.folder.mkdir()
    (delivery.folder / "outcomes-1.part").write_text("")
    delivery.settle(DeliveryError("no"))
    assert opening() is None
    assert f"work/{delivery.id}/outcomes-1.part" in worker.files
    assert [event["event"] for event in capture_log][-1] == "delivery lost"


def test_a_done_file_goes_after_its_file_did(worker):
    worker.drop("signed.csv.done", b"")
    delivery = worker.claim("signed.csv")
    assert worker.files == [f"work/{delivery.id}.signed.csv"]


def test_the_done_file_of_a_file_that_came_again_stays(worker):
    opening = worker.claims.claim(worker.drop("signed.csv"))
    worker.drop("signed.csv.done", b"")
    worker.drop("signed.csv")
    opening()
    assert "inbox/signed.csv.done" in worker.files


def test_a_stopping_worker_leaves_its_delivery_to_whoever_comes_first(worker, heir):
    worker.claim().settle(Stopping("stopping"))
    assert len(heir.due()) == 1


def test_a_delivery_knows_in_how_many_attempts_in_a_row_a_backend_broke_over_a_row(worker, clock):
    delivery, known = worker.claim(), []
    fault, alone = ServerFault("billing", "answered 500", 500), LeftAlone("billing", "is left alone", retry_after=5)
    for error in (fault, Unavailable("billing", "answered 503", 503), fault, alone, Stopping("stopping"), fault, fault):
        known.append(delivery.faults)
        delivery.settle(error)
        clock.now += 100
        (delivery,) = worker.due()
    assert [*known, delivery.faults] == [0, 1, 0, 1, 1, 1, 2, 3]
