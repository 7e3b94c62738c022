"""Folders that vanish or turn read-only, and a ledger that is damaged, under a worker's hands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from order_server import OrderServer
from orders import check_outcomes, make_project, running, status, wait_for, write_clients
from test_disk_full import drop, small_disk

ROWS = 60


def waits_for(project: Path, reason: str) -> bool:
    (delivery,) = status(project)["deliveries"] or [{}]  # type: ignore[misc]
    return delivery.get("state") == "waiting" and reason in delivery["error"]


def test_an_outbox_that_has_vanished_makes_deliveries_wait_until_it_is_back(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with running(project) as worker:
            wait_for((project / "outbox").exists, alive=worker)
            shutil.rmtree(project / "outbox")
            drop(project)
            wait_for(lambda: waits_for(project, "No such file or directory"), alive=worker)
            (project / "outbox").mkdir()
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        check_outcomes(project, 120)
        assert not list((project / "failed").iterdir())


def test_an_outbox_that_turns_read_only_makes_deliveries_wait_until_it_is_not(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with small_disk(project / "outbox") as outbox, running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            subprocess.run(["mount", "-o", "remount,ro", str(outbox)], check=True)
            drop(project)
            wait_for(lambda: waits_for(project, "Read-only file system"), alive=worker)
            subprocess.run(["mount", "-o", "remount,rw", str(outbox)], check=True)
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
            check_outcomes(project, 120)


def test_an_inbox_that_was_not_mounted_is_worked_off_when_it_is(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            wait_for(lambda: "worker started" in (project / "run.log").read_text(), alive=worker)
            (project / "inbox").rmdir()
            wait_for(lambda: "inbox" in (project / "run.log").read_text().split("worker started")[1], alive=worker)
            (project / "share").mkdir()
            write_clients(project / "share" / "clients.csv", ROWS)
            (project / "share").rename(project / "inbox")
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        check_outcomes(project, ROWS)


def test_a_damaged_ledger_is_said_to_be_damaged_and_left_as_it_is(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", "http://127.0.0.1:9")
    (project / ".longshore").mkdir(mode=0o700)
    ledger = project / ".longshore" / "state.db"
    ledger.write_bytes(b"this was a ledger once " * 500)
    before = ledger.read_bytes()
    command = [sys.executable, "-m", "worker", "--config", str(project / "longshore.toml")]
    for arguments in (["run", "--once"], ["status"], ["check"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "ledger" in done.stdout + done.stderr
        assert "not a database" in done.stdout + done.stderr
        assert "move it away with its -wal and -shm" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert ledger.read_bytes() == before
