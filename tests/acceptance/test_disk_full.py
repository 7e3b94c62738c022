"""Disks that are full, for real: each folder in turn lies on a small tmpfs that somebody else has filled."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from order_server import OrderServer
from orders import check_outcomes, make_project, manifest_of, running, status, wait_for, write_clients
from prepared import longshore

ROWS = 120


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB at that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(mounted.stderr)
        pytest.skip(f"a tmpfs can be mounted by root only: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    ballast = folder / ".ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 512)
        except OSError:
            return ballast


def waits_for_room(project: Path) -> bool:
    (delivery,) = status(project)["deliveries"] or [{}]  # type: ignore[misc]
    why = rf"No space left on device: {re.escape(str(project))}/.+; make room on that disk"
    return delivery.get("state") == "waiting" and bool(re.fullmatch(why, delivery["error"]))


def drop(project: Path) -> None:
    write_clients(project / "clients.csv", ROWS)
    (project / "clients.csv").rename(project / "inbox" / "clients.csv")


def test_a_full_outbox_makes_a_delivery_wait_and_it_goes_on_by_itself_when_there_is_room(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with small_disk(project / "outbox"), running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            ballast = fill(project / "outbox")
            drop(project)
            wait_for(lambda: waits_for_room(project), alive=worker)
            assert [file.name for file in (project / "outbox").iterdir()] == [".ballast"]
            ballast.unlink()
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
            check_outcomes(project, ROWS)
        assert set(server.times_sent.values()) == {1}, "what was on disk was not asked for again"


def test_a_full_work_folder_makes_a_delivery_wait_without_losing_its_rows(tmp_path: Path) -> None:
    with OrderServer(delay=0.005) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / ".longshore").mkdir()
        with small_disk(project / ".longshore" / "work"), running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            drop(project)  # it comes from another file system, so it is copied
            wait_for(lambda: len(server.orders) > 10, alive=worker)
            ballast = fill(project / ".longshore" / "work")
            wait_for(lambda: waits_for_room(project) or manifest_of(project), alive=worker)
            ballast.unlink()
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        check_outcomes(project, ROWS)
        assert not list((project / "failed").iterdir())


def test_a_full_disk_under_the_ledger_stops_nothing_for_good(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with small_disk(project / ".longshore"), running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            wait_for(lambda: "worker started" in (project / "run.log").read_text(), alive=worker)
            ballast = fill(project / ".longshore")
            drop(project)
            wait_for(lambda: "cannot be" in (project / "run.log").read_text(), alive=worker)
            (full,) = status(project)["disks"]  # nothing else could tell, as it cannot be written down
            assert full["folders"] == [str(project / ".longshore"), str(project / ".longshore" / "work")]
            assert full["reason"] == "is full (0 bytes are left); make room"
            ballast.unlink()
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
            assert not status(project)["disks"]
        check_outcomes(project, ROWS)


def test_a_ledger_that_cannot_be_opened_on_a_full_disk_says_so(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", "http://127.0.0.1:9")
    told = project / "told"
    with small_disk(project / ".longshore") as disk:
        with longshore("--config", project / "longshore.toml", "jobs", log=told) as process:  # makes the ledger
            assert process.wait(60) == 0
        fill(disk)
        with longshore("--config", project / "longshore.toml", "status", log=told) as process:
            assert process.wait(60) == 2
        assert "state.db: the ledger cannot be opened: " in told.read_text()
        assert told.read_text().endswith("; its disk is full (0 bytes are left); make room\n")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with longshore("--config", project / "longshore.toml", "status", log=told) as process:
            assert process.wait(60) == 2
        assert told.read_text().endswith("; its disk is read-only; mount it for writing again\n")


def test_a_full_archive_leaves_done_done_and_says_so(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with small_disk(project / "archive"), running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            fill(project / "archive")
            drop(project)
            wait_for(lambda: "file not put away" in (project / "run.log").read_text(), alive=worker)
            (delivery,) = status(project)["deliveries"]  # type: ignore[misc]
            assert (delivery["state"], "cannot be put away" in delivery["error"]) == ("done", True)
            assert [file.name for file in (project / "archive").iterdir()] == [".ballast"]
        check_outcomes(project, ROWS)
        assert set(server.times_sent.values()) == {1}
