"""Folders that vanish or turn read-only, and a ledger that is damaged, under a worker's hands."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from order_server import OrderServer
from orders import check_outcomes, make_project, running, status, wait_for, write_clients
from test_disk_full import drop, small_disk

from worker.ledger import Ledger

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
    for arguments in (["run", "--once"], ["status"], ["check"]):
        assert "not a database" in told_to_move_it_away(project, *arguments)
    assert ledger.read_bytes() == before


def told_to_move_it_away(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "worker", "--config", str(project / "longshore.toml"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert (done.returncode, "ledger" in said, "Traceback" in said) == (2, True, False), said
    assert "move it away with its -wal and -shm" in said
    return said


def damage(ledger: Path, table: str) -> None:
    """Overwrite all pages of a table but the one that the others hang on."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        pages = connection.execute("SELECT pageno FROM dbstat WHERE name = ?", (table,)).fetchall()
    leaves = [page for (page,) in pages if page != root]
    assert leaves
    with ledger.open("r+b") as file:
        for page in leaves:
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)


@pytest.mark.parametrize(("table", "commands"), [("attempts", ["check"]), ("deliveries", ["check", "status", "run"])])
def test_a_ledger_that_is_damaged_in_its_middle_is_said_to_be_damaged(
    tmp_path: Path, table: str, commands: list[str]
) -> None:
    project = make_project(tmp_path / "project", "http://127.0.0.1:9")
    (project / ".longshore").mkdir(mode=0o700)
    path = project / ".longshore" / "state.db"
    with contextlib.closing(Ledger(f"sqlite:///{path}", owner="a-worker")) as ledger:
        for number in range(200):
            entry = ledger.announce("inbox", f"clients-{number}.csv")
            ledger.begin(entry, sha256="00" * 32, size=number)
    damage(path, table)
    for command in commands:
        assert "malformed" in told_to_move_it_away(project, command)
