import csv
import errno
import hashlib
import json
from datetime import timedelta
from functools import partial

import pytest
from deliveries import DIGEST, STARTED, delivery, rejection, result

from worker import files
from worker.declare import job
from worker.errors import DeliveryError, LostLease
from worker.outputs.outbox import Outbox
from worker.records import Input, Meter


@job(files="clients*.csv")
def summary(row, ctx):
    """Never called here."""


ROWS = [result(0, {"a": "x"}), rejection(1), result(2), result(3, {"a": 1}, {"a": 2})]


@pytest.fixture
def outbox(tmp_path):
    (tmp_path / "outbox").mkdir()
    (tmp_path / "work").mkdir()
    return Outbox(tmp_path / "outbox", chunk_rows=2, clock=lambda: STARTED + timedelta(seconds=4))


@pytest.fixture
def make(tmp_path):
    return partial(delivery, tmp_path / "work")


def run(outbox, made, outcomes=(), job=summary):
    """Append what is not done yet, and commit."""
    with outbox.open(made, job) as part:
        if not part.committed:
            part.append([outcome for outcome in outcomes if not part.is_done(outcome.index)])
            part.commit()


def content(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "outbox").iterdir()}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_delivery_leaves_results_rejects_and_the_manifest(tmp_path, outbox, make):
    meter = Meter()
    meter.add({"billing": 10, "ehr": 1}, 1)
    run(outbox, make(meter=meter), ROWS)
    found = content(tmp_path)
    results, rejects = found["clients-3f9a1c2b.csv"], found["clients-3f9a1c2b.rejected.csv"]
    assert results == b"a\nx\n1\n2\n"
    assert rejects == b"id,_line,_error,_detail\n1,3,Reject,no\n"
    assert json.loads(found["clients-3f9a1c2b.manifest.json"]) == {
        "delivery": "3f9a1c2b",
        "job": "summary",
        "trigger": "inbox",
        "source": "clients.csv",
        "input": {"name": "clients.csv", "sha256": DIGEST, "bytes": 1234},
        "rows_in": 4,
        "results": 2,
        "rejected": 1,
        "skipped": 1,
        "outputs": [
            {"name": "clients-3f9a1c2b.csv", "sha256": sha256(results), "bytes": len(results), "rows": 3},
            {"name": "clients-3f9a1c2b.rejected.csv", "sha256": sha256(rejects), "bytes": len(rejects), "rows": 1},
        ],
        "started": "2026-11-23T02:00:00Z",
        "finished": "2026-11-23T02:00:04Z",
        "attempts": 1,
        "calls": {"billing": 10, "ehr": 1},
        "token_requests": 1,
    }
    assert len(found) == 3


def test_without_rejects_there_is_no_file_for_them(tmp_path, outbox, make):
    run(outbox, make(), ROWS[:1])
    assert sorted(content(tmp_path)) == ["clients-3f9a1c2b.csv", "clients-3f9a1c2b.manifest.json"]


def test_a_header_alone_makes_a_result_with_no_rows(tmp_path, outbox, make):
    run(outbox, make())
    found = content(tmp_path)
    assert found["clients-3f9a1c2b.csv"] == b""
    assert json.loads(found["clients-3f9a1c2b.manifest.json"])["rows_in"] == 0


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("clients.csv.gz", "clients-3f9a1c2b.csv"),
        ("a.b.csv", "a.b-3f9a1c2b.csv"),
        ("two words $1 č", "two words $1 č-3f9a1c2b.csv"),
    ],
)
def test_files_are_named_after_the_source(tmp_path, outbox, make, source, name):
    run(outbox, make(source=source), ROWS[:1])
    assert name in content(tmp_path)


def test_resources_are_written_as_ndjson(tmp_path, outbox, make):
    run(outbox, make(), [result(0, {"resourceType": "Patient", "id": "1"})])
    assert content(tmp_path)["clients-3f9a1c2b.ndjson"] == b'{"resourceType":"Patient","id":"1"}\n'


def test_nothing_is_seen_before_the_end(tmp_path, outbox, make):
    with outbox.open(make(), summary) as part:
        part.append(ROWS)
        assert [name for name in content(tmp_path) if not name.startswith(".")] == []
    assert content(tmp_path) == {}


def test_rows_whose_outcome_is_on_disk_are_done(outbox, make):
    with outbox.open(make(), summary) as part:
        part.append([ROWS[0], ROWS[3]])
    with outbox.open(make(attempts=2), summary) as part:
        assert [part.is_done(index) for index in range(5)] == [True, False, False, True, False]


def test_two_attempts_leave_what_one_would_have_left(tmp_path, outbox, make):
    for count in (1, 2, 3):
        with outbox.open(make(attempts=count), summary) as part:
            part.append([ROWS[count]])
    run(outbox, made := make(attempts=4), ROWS)
    found = content(tmp_path)
    assert found["clients-3f9a1c2b.csv"] == b"a\nx\n1\n2\n"
    assert found["clients-3f9a1c2b.rejected.csv"] == b"id,_line,_error,_detail\n1,3,Reject,no\n"
    assert json.loads(found["clients-3f9a1c2b.manifest.json"])["attempts"] == 4
    assert made.counts.rows == 4


def test_calls_of_all_attempts_are_counted(tmp_path, outbox, make):
    for attempt, outcome in enumerate(ROWS, 1):
        made = make(attempts=attempt, meter=Meter())
        with outbox.open(made, summary) as part:
            made.meter.call("billing")
            made.meter.token_request()
            part.append([outcome])
    run(outbox, make(attempts=5, meter=Meter()), ROWS)
    manifest = json.loads(content(tmp_path)["clients-3f9a1c2b.manifest.json"])
    assert (manifest["calls"], manifest["token_requests"]) == ({"billing": 4}, 4)


def test_what_a_job_remembers_survives_a_crash_even_after_the_last_rename(tmp_path, outbox, make):
    made = make()
    with outbox.open(made, summary) as part:
        made.state["since"] = "2026-11-23"
        part.append(ROWS)
        part.commit()
    with outbox.open(again := make(attempts=2), summary) as part:
        assert part.committed
    assert again.state == {"since": "2026-11-23"}


class Crash(BaseException):
    """kill -9, as far as the code can tell."""


@pytest.mark.parametrize("published", [0, 1, 2, 3])
@pytest.mark.parametrize("half", [False, True])
def test_after_a_crash_between_the_renames_the_next_attempt_finishes(
    tmp_path, outbox, make, monkeypatch, published, half
):
    """``half``: the file has its name, and its hidden one still."""
    publish, names = files.publish, []

    def crash(target, by=""):
        if len(names) == published:
            if half:
                target.hardlink_to(files.hidden(target, by))
            raise Crash
        names.append(target.name)
        publish(target, by)

    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(files, "publish", crash)
        patched.setattr("worker.outputs.table.OutputFile.discard", lambda self: self.close())
        run(outbox, make(), ROWS)
        raise Crash  # after all of the renames
    committed = published == 3 or (published == 2 and half)
    with outbox.open(make(attempts=2), summary) as part:
        assert part.committed is committed
    run(outbox, made := make(attempts=3), ROWS)
    found = content(tmp_path)
    assert found.pop("clients-3f9a1c2b.csv") == b"a\nx\n1\n2\n"
    assert found.pop("clients-3f9a1c2b.rejected.csv") == b"id,_line,_error,_detail\n1,3,Reject,no\n"
    manifest = json.loads(found.pop("clients-3f9a1c2b.manifest.json"))
    assert manifest["attempts"] == (1 if committed else 3)
    assert found == {}
    assert made.counts.rows == 4


def test_a_committed_delivery_is_known_by_its_manifest(outbox, make):
    run(outbox, make(), ROWS)
    with outbox.open(make(attempts=2), summary) as part:
        assert part.committed


@pytest.mark.parametrize("name", ["clients-3f9a1c2b.csv", "clients-3f9a1c2b.rejected.csv"])
def test_other_content_under_the_name_is_not_overwritten(tmp_path, outbox, make, name):
    (tmp_path / "outbox" / name).write_bytes(b"somebody's")
    with pytest.raises(DeliveryError, match=r"exists with other content; move it away, then: longshore retry"):
        run(outbox, make(), ROWS)
    assert content(tmp_path)[name] == b"somebody's"
    assert "clients-3f9a1c2b.manifest.json" not in content(tmp_path)


def test_another_inputs_manifest_is_not_overwritten(tmp_path, outbox, make):
    run(outbox, make(input=Input("clients.csv", "cd" * 32, 1)), ROWS)
    before = content(tmp_path)
    with pytest.raises(DeliveryError, match=r"manifest\.json exists with other content"):
        run(outbox, make(attempts=2), ROWS)
    assert content(tmp_path) == before


def test_a_lost_delivery_is_not_published(tmp_path, outbox, make):
    def lost():
        raise LostLease("delivery 3f9a1c2b was taken over by another worker")

    with pytest.raises(LostLease):
        run(outbox, make(guard=lost), ROWS)
    assert content(tmp_path) == {}


def test_a_worker_that_was_stopped_before_it_published_finds_nothing_to_publish(tmp_path, outbox, make):
    second = []

    def stopped():
        second.append(outbox.open(make(attempts=2), summary))  # which is in the middle of its own files now

    with pytest.raises(FileNotFoundError):
        run(outbox, make(guard=stopped), ROWS)
    assert not [name for name in content(tmp_path) if not name.startswith(".")]
    with second[0] as part:
        part.append([outcome for outcome in ROWS if not part.is_done(outcome.index)])
        part.commit()
    assert sorted(content(tmp_path)) == [
        "clients-3f9a1c2b.csv",
        "clients-3f9a1c2b.manifest.json",
        "clients-3f9a1c2b.rejected.csv",
    ]


@pytest.mark.parametrize("committed", [False, True])
def test_a_worker_that_was_stopped_before_its_manifest_leaves_one_manifest(
    tmp_path, outbox, make, monkeypatch, committed
):
    write, second = files.write, []

    def stopped(target, data, by):
        monkeypatch.setattr(files, "write", write)
        second.append(outbox.open(make(attempts=2), summary))
        if committed:
            second[0].commit()
        write(target, data, by)

    monkeypatch.setattr(files, "write", stopped)
    run(outbox, make(), ROWS)
    with second[0] as part:
        part.commit()
    manifest = json.loads(content(tmp_path)["clients-3f9a1c2b.manifest.json"])
    assert (manifest["attempts"], manifest["rows_in"]) == (2 if committed else 1, 4)
    assert len(content(tmp_path)) == 3


@pytest.mark.parametrize("reserved", ["clients-3f9a1c2b.csv", "clients-3f9a1c2b.manifest.json"])
def test_a_crash_that_leaves_a_name_without_content_does_not_stop_the_next_attempt(tmp_path, outbox, make, reserved):
    (tmp_path / "outbox" / reserved).touch()
    run(outbox, make(attempts=2), ROWS)
    found = content(tmp_path)
    assert len(found) == 3
    assert all(found.values())


def test_the_outcomes_are_durable_before_anything_is_seen(outbox, make, monkeypatch):
    order = []
    monkeypatch.setattr(files, "sync", lambda file: order.append("fsync"))
    monkeypatch.setattr(files, "publish", lambda target, by: order.append(target.name))
    with outbox.open(make(guard=lambda: order.append("guard")), summary) as part:
        part.append(ROWS)
        order.clear()
        part.commit()
    assert order[:6] == [
        "fsync",
        "fsync",
        "fsync",
        "guard",
        "clients-3f9a1c2b.csv",
        "clients-3f9a1c2b.rejected.csv",
    ]


def test_a_result_that_changed_columns_no_longer_take_is_run_again(tmp_path, outbox, make):
    two = job(columns=["a", "b"])(summary.function)
    one = job(columns=["a"])(summary.function)
    with outbox.open(make(), two) as part:
        part.append([result(0, {"a": 1}), result(1, {"b": 2})])
    with outbox.open(make(attempts=2), one) as part:
        assert [part.is_done(index) for index in (0, 1)] == [True, False]
        part.append([result(1, {"b": 2})])
    run(outbox, make(attempts=3), job=one)
    found = content(tmp_path)
    assert found["clients-3f9a1c2b.csv"] == b"a\n1\n"
    rejects = list(csv.reader(found["clients-3f9a1c2b.rejected.csv"].decode().splitlines()))
    assert (rejects[0][0], rejects[1][:3]) == ("id", ["1", "3", "Reject"])


def test_results_appear_again_where_columns_are_taken_back(tmp_path, outbox, make):
    two = job(columns=["a", "b"])(summary.function)
    one = job(columns=["a"])(summary.function)
    for attempt, declared in enumerate([two, one, two], 1):
        with outbox.open(make(attempts=attempt), declared) as part:
            if not part.is_done(0):
                part.append([result(0, {"b": 2})])
    run(outbox, make(attempts=4), job=two)
    assert content(tmp_path)["clients-3f9a1c2b.csv"] == b"a,b\n,2\n"


def test_a_full_disk_leaves_nothing_in_the_outbox(tmp_path, outbox, make, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.outputs.part.PartFile._write", full)
    with pytest.raises(OSError, match="No space left"):
        run(outbox, make(), ROWS)
    assert content(tmp_path) == {}


def test_a_missing_outbox_is_an_error_of_the_system(tmp_path, outbox, make):
    (tmp_path / "outbox").rmdir()
    with pytest.raises(FileNotFoundError):
        run(outbox, make(), ROWS)
