"""A ledger that is lost, after a death at each point, as docs/operations.md has it; and one that is held for long."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from order_server import OrderServer
from orders import THREADS, check_outcomes, make_project, run_once, running, status, wait_for, write_clients
from prepared import longshore

ROWS = 120
POINTS = {
    "announced, not moved": 0,
    "moved, not begun": 1,
    "begun, before the first row": 1,
    "in the middle of a chunk": 1,
    "all rows done, nothing published": 1,
    "results published": 1,
    "rejects published": 1,
    "manifest published, not in the ledger": 1,
    "in the ledger, not put away": 1,
    "put away, not in the ledger": 0,
}
"""Each with how many deliveries are found that a new ledger does not know."""


def lose(project: Path) -> None:
    """The ledger is moved away, as the docs say."""
    (project / "away").mkdir()
    for file in (project / ".longshore").glob("state.db*"):
        shutil.move(file, project / "away")


def check(project: Path) -> dict[tuple[str, str], dict[str, Any]]:
    with tempfile.NamedTemporaryFile() as told:
        with longshore("--config", project / "longshore.toml", "check", "--json", out=told.name) as process:
            process.wait(60)
        return {(each["what"], each["name"]): each for each in json.loads(told.read())["checks"]}


@pytest.mark.parametrize("point", POINTS)
def test_a_delivery_whose_ledger_is_lost_is_gone_on_with_by_the_next_start(tmp_path: Path, point: str) -> None:
    with OrderServer(delay=0.01) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        with running(project, point=point) as worker:
            assert worker.wait(60) == -signal.SIGKILL
        lose(project)
        found = check(project)
        run_once(project)
        manifest = check_outcomes(project, ROWS)
        sent_again = sum(times - 1 for times in server.times_sent.values())
        orders = len(server.orders)
    told = found.get(("ledger", "work"))
    assert (told is not None) == bool(POINTS[point])
    if told:
        assert manifest["delivery"] in told["detail"]
        assert status(project)["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
    assert orders == manifest["results"]
    assert sent_again <= (2 * THREADS if point == "in the middle of a chunk" else 0)
    assert [file.name for file in (project / "archive").iterdir()] == ["clients.csv"]
    assert len(list((project / "outbox").iterdir())) == 3
    assert not [*(project / "inbox").iterdir(), *(project / "failed").iterdir()]


def test_a_ledger_that_another_process_holds_for_long_pauses_the_worker_and_stops_a_start(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        settings = project / "longshore.toml"  # with less than the usual 30 seconds of patience
        patience = '[worker]\nstate = "sqlite:///.longshore/state.db?timeout=3"'
        settings.write_text(settings.read_text().replace("[worker]", patience))
        with running(project) as worker:
            wait_for(lambda: "worker started" in (project / "run.log").read_text(), alive=worker)
            with closing(sqlite3.connect(project / ".longshore" / "state.db", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                write_clients(project / "clients.csv", ROWS)
                (project / "clients.csv").rename(project / "inbox" / "clients.csv")
                wait_for(lambda: "database is locked" in (project / "run.log").read_text(), alive=worker)
                assert "the ledger cannot be used: database is locked" in (project / "run.log").read_text()
                with longshore("--config", project / "longshore.toml", "run", log=project / "second.log") as second:
                    assert second.wait(60) == 2
                complaint = (project / "second.log").read_text()
                assert "database is locked; another process holds it" in complaint
                assert "Traceback" not in complaint
                assert (project / "inbox" / "clients.csv").exists()
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        check_outcomes(project, ROWS)
        assert set(server.times_sent.values()) == {1}
