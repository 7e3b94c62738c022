from pathlib import Path

import pytest
from file_worker import CSV, Clock, FileWorker, another_file_system, rows

from worker.triggers.adoption import adopt, orphans


@pytest.fixture
def worker(tmp_path):
    worker = FileWorker(tmp_path, Clock())
    yield worker
    worker.ledger.close()


def after_the_loss(worker):
    """The next worker, with a new ledger."""
    worker.ledger.close()
    for file in worker.root.glob("state.db*"):
        file.unlink()
    return FileWorker(worker.root, Clock(), owner="here.2.next")


def test_with_a_ledger_that_was_never_lost_there_are_none(worker):
    worker.claim()
    worker.drop("clients-2.csv")
    assert orphans(worker.ledger, worker.folders) == []


def test_a_claimed_file_is_a_delivery_again_under_its_id(worker, capture_log):
    before = worker.claim()
    heir = after_the_loss(worker)
    adopt(heir.ledger, heir.folders)
    (delivery,) = heir.due()
    assert (delivery.id, delivery.source, delivery.input) == (before.id, before.source, before.input)
    assert [row["name"] for row in rows(delivery)] == ["Ann", "Bob"]
    delivery.settle(None)
    assert heir.files == ["archive/clients.csv"]
    assert [event["delivery"] for event in capture_log if "did not know" in event["event"]] == [before.id]
    heir.ledger.close()


def test_the_attempts_go_on_where_the_part_files_say_that_they_were(worker):
    before = worker.claim()
    before.folder.mkdir()
    (before.folder / "outcomes-7.part").write_bytes(b"")
    heir = after_the_loss(worker)
    adopt(heir.ledger, heir.folders)
    assert [delivery.attempts for delivery in heir.due()] == [8]
    heir.ledger.close()


def test_a_file_that_was_not_yet_brought_over_from_the_inboxs_file_system_is_found_there(worker, monkeypatch):
    another_file_system(monkeypatch, worker.folders.inbox)
    worker.claims.claim(worker.drop("clients\n1.csv"))
    heir = after_the_loss(worker)
    adopt(heir.ledger, heir.folders)
    (delivery,) = heir.due()
    delivery.settle(None)
    assert (heir.files, (heir.root / "archive" / "clients\n1.csv").read_bytes()) == (["archive/clients\n1.csv"], CSV)
    heir.ledger.close()


def test_what_is_no_claimed_file_is_left_alone(worker):
    for name in ("11111111/outcomes-1.part", "22222222/rows.jsonl", "notes/clients.csv"):
        (worker.folders.work / name).parent.mkdir(parents=True)
        (worker.folders.work / name).write_bytes(CSV)
    (worker.folders.inbox / ".3.clients.csv.claim").write_bytes(CSV)
    assert orphans(worker.ledger, worker.folders) == []


@pytest.mark.parametrize("trouble", [FileNotFoundError, PermissionError, OSError])
def test_an_inbox_that_cannot_be_read_now_hides_nothing_else(worker, monkeypatch, trouble):
    before = worker.claim()
    heir = after_the_loss(worker)
    iterdir = Path.iterdir

    def away(path):
        if path == heir.folders.inbox:
            raise trouble(5, "away")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", away)
    assert [orphan.id for orphan in orphans(heir.ledger, heir.folders)] == [before.id]
    heir.ledger.close()
