"""Workers that share an inbox and a ledger: what becomes of the deliveries of one that is dead, or only slow."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from order_server import OrderServer
from orders import THREADS, check_outcomes, make_project, manifest_of, running, status, wait_for, write_clients
from prepared import Process

ROWS = 400
LEASE = 1


def test_a_worker_that_was_only_slow_writes_nothing_into_a_delivery_that_another_has_taken_over(tmp_path: Path) -> None:
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url, lease=LEASE)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        with running(project) as slow:
            wait_for(lambda: len(server.orders) > 50, alive=slow)
            slow.send_signal(signal.SIGSTOP)
            wait_for(lambda: "its worker has been silent" in only_delivery(project)["error"], alive=slow)
            assert only_delivery(project)["state"] == "running"
            with running(project) as other:
                wait_for(lambda: manifest_of(project), alive=other)
                manifest = manifest_of(project)
                assert manifest
                first = {file.name: file.read_bytes() for file in (project / "outbox").iterdir()}
                slow.send_signal(signal.SIGCONT)
                wait_for(lambda: "delivery lost" in (project / "run.log").read_text(), alive=slow)
                for worker in (slow, other):
                    worker.send_signal(signal.SIGTERM)
                    assert worker.wait(timeout=20) == 0
        found = check_outcomes(project, ROWS)
        assert found["attempts"] == 2
        assert {file.name: file.read_bytes() for file in (project / "outbox").iterdir()} == first
        assert [file.name for file in (project / "archive").iterdir()] == ["clients.csv"]
        assert len(server.orders) == found["results"]
        # Those in flight when it was stopped, and those it began before its next heartbeat.
        assert sum(times - 1 for times in server.times_sent.values()) <= 4 * THREADS


def test_a_worker_of_the_same_machine_takes_over_at_once_though_the_lease_is_long(tmp_path: Path) -> None:
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url, lease=3600)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        with running(project) as doomed:
            wait_for(lambda: len(server.orders) > 50, alive=doomed)
            doomed.send_signal(signal.SIGSTOP)  # it lives, and has a delivery, for as long as it takes to start another
            with running(project, log_name="other.log") as other:
                wait_for(lambda: "worker started" in (project / "other.log").read_text(), alive=other)
                time.sleep(1)  # until the other looks at an inbox with nothing in it for it
                assert not manifest_of(project), "a worker that lives is not robbed"
                doomed.send_signal(signal.SIGKILL)
                wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=other)
        assert check_outcomes(project, ROWS)["attempts"] == 2


def test_two_workers_take_each_file_once(tmp_path: Path) -> None:
    with OrderServer(delay=0.001) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        for number in range(40):
            write_clients(project / "inbox" / f"clients-{number}.csv", 60, first=60 * number)
        with running(project) as one, running(project) as two:
            wait_for(lambda: len(list((project / "archive").glob("*.csv"))) == 40, alive=one)
            assert two.poll() is None
        assert len(list((project / "outbox").glob("*.manifest.json"))) == 40
        assert set(server.times_sent.values()) == {1}


@contextmanager
def stopped_at(point: str, project: Path, log_name: str) -> Iterator[Process]:
    """A worker that has stopped itself there, as one does whose machine or share hangs."""
    with running(project, point=f"stops: {point}", log_name=log_name) as process:
        state = Path(f"/proc/{process.pid}/stat")
        wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", alive=process)
        yield process


@pytest.mark.parametrize("point", ["has looked for a file in vain", "has looked once more"])
def test_a_file_that_is_moved_while_another_worker_forgets_its_claim_is_not_lost(tmp_path: Path, point: str) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url, lease=LEASE)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 60)
        with stopped_at("about to move its file", project, "slow.log") as slow:
            time.sleep(LEASE)
            settings = project / "longshore.toml"  # the other one is not to take the file from the inbox
            settings.write_text(settings.read_text().replace("settle_seconds = 0.1", "settle_seconds = 60"))
            with stopped_at(point, project, "other.log") as other:
                slow.send_signal(signal.SIGCONT)
                wait_for(lambda: "delivery lost" in (project / "slow.log").read_text(), alive=slow)
                other.send_signal(signal.SIGCONT)
                wait_for(lambda: list((project / "archive").glob("*.csv")), seconds=20, alive=other)
        check_outcomes(project, 60)
        assert status(project)["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
        assert set(server.times_sent.values()) == {1}


@pytest.mark.parametrize(
    "point",
    [
        "about to begin",
        "about to publish results",
        "has published results",
        "about to say done",
        "has said done",
    ],
)
def test_a_worker_that_hung_at_any_point_finds_the_delivery_finished_and_changes_nothing(
    tmp_path: Path, point: str
) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url, lease=LEASE)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 60)
        with stopped_at(point, project, "slow.log") as slow:
            time.sleep(LEASE)
            with running(project, log_name="other.log") as other:
                wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=other)
                before = contents(project / "outbox")
                slow.send_signal(signal.SIGCONT)
                for worker in (slow, other):
                    worker.send_signal(signal.SIGTERM)
                    assert worker.wait(timeout=20) == 0
        check_outcomes(project, 60)
        assert contents(project / "outbox") == before
        assert [list(contents(project / name)) for name in ("inbox", "archive", "failed")] == [[], ["clients.csv"], []]
        assert not list((project / ".longshore" / "work").iterdir())
        assert status(project)["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
        assert set(server.times_sent.values()) == {1}


def only_delivery(project: Path) -> dict[str, Any]:
    (delivery,) = status(project)["deliveries"]
    return dict(delivery)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}
