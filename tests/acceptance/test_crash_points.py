"""A process that is killed at each named point of a delivery's way, and what the next start makes of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from order_server import OrderServer
from orders import THREADS, check_outcomes, make_project, run_once, running, status, write_clients

ROWS = 120

BEFORE_ANY_ROW = ["during the sweep", "announced, not moved", "moved, not begun", "begun, before the first row"]
AMONG_THE_ROWS = ["in the middle of a chunk", "in the middle of a write"]
AFTER_ALL_ROWS = [
    "all rows done, nothing published",
    "results published",
    "rejects published",
    "manifest published, not in the ledger",
    "in the ledger, not put away",
    "put away, not in the ledger",
]


def killed_at(point: str, project: Path) -> None:
    with running(project, point=point) as process:
        assert process.wait(60) == -signal.SIGKILL


def start_again(project: Path) -> dict[str, Any]:
    """Work off what is there; returns what ``status`` says then."""
    run_once(project)
    return status(project)


def nothing_is_left_over(project: Path) -> bool:
    hidden = [file for name in ("inbox", "outbox", "archive", "failed") for file in (project / name).glob(".*")]
    return not hidden and not list((project / "inbox").iterdir())


@pytest.mark.parametrize("point", [*BEFORE_ANY_ROW, *AMONG_THE_ROWS, *AFTER_ALL_ROWS])
def test_a_delivery_whose_worker_is_killed_is_finished_by_the_next_start(tmp_path: Path, point: str) -> None:
    with OrderServer(delay=0.01) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        killed_at(point, project)
        sent_before = sum(server.times_sent.values())
        told = start_again(project)
        sent_again = sum(times - 1 for times in server.times_sent.values())
        manifest = check_outcomes(project, ROWS)
        orders = len(server.orders)
    assert orders == manifest["results"], "one key a row, the same at every attempt"
    assert told["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
    assert [file.name for file in (project / "archive").iterdir()] == ["clients.csv"]
    assert not list((project / "failed").iterdir())
    assert not list((project / ".longshore" / "work").iterdir())
    assert nothing_is_left_over(project)
    assert (sent_before > 0) == (point not in BEFORE_ANY_ROW)
    assert sent_again <= (2 * THREADS if point in AMONG_THE_ROWS else 0)


@pytest.mark.parametrize("point", ["failed, without its reason", "failed, with its reason, not moved"])
def test_a_failure_whose_worker_is_killed_is_told_once_beside_its_file(tmp_path: Path, point: str) -> None:
    project = make_project(tmp_path / "project", "http://127.0.0.1:9")
    (project / "inbox").mkdir()
    (project / "inbox" / "clients.csv").write_text("client,client\n1,2\n")
    killed_at(point, project)
    told = start_again(project)
    assert told["counts"] == {"waiting": 0, "running": 0, "done": 0, "failed": 1}
    assert sorted(file.name for file in (project / "failed").iterdir()) == ["clients.csv", "clients.csv.error.json"]
    why = json.loads((project / "failed" / "clients.csv.error.json").read_text())
    assert (why["source"], why["error"]) == ("clients.csv", "DeliveryError")
    assert nothing_is_left_over(project)


def test_garbage_at_the_end_of_a_part_file_is_cut_off(tmp_path: Path) -> None:
    with OrderServer(delay=0.01) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        killed_at("in the middle of a chunk", project)
        (part,) = (project / ".longshore" / "work").glob("*/outcomes-1.part")
        with part.open("ab") as file:
            file.write(b"\0" * 4096)  # what a power cut may leave of a block that was never written
        start_again(project)
        check_outcomes(project, ROWS)


def test_a_worker_killed_after_the_backend_did_the_work_repeats_the_call_with_the_same_key(tmp_path: Path) -> None:
    with OrderServer(delay=3) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 3)
        with running(project) as process:
            while len(server.orders) < 3:
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
        start_again(project)
        assert set(server.times_sent.values()) == {2}
        assert sorted(server.orders.values()) == ["00000", "00001", "00002"]
