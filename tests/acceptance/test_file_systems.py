"""Each folder on a file system of its own, small and able to turn read-only, full or absent."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from order_server import OrderServer
from orders import check_outcomes, make_project, run_once, running, status, wait_for, write_clients
from prepared import longshore
from test_crash_points import killed_at, nothing_is_left_over
from test_disk_full import drop, fill, small_disk

ROWS = 120
UNUSABLE = "client,client\n1,2\n"


@pytest.fixture
def server() -> Iterator[OrderServer]:
    with OrderServer(delay=0) as server:
        yield server


def disks(stack: ExitStack, project: Path, *folders: str) -> None:
    for folder in folders:
        stack.enter_context(small_disk(project / folder))


def a_minute_passes(project: Path) -> None:
    """What could not be put away is tried again after a minute; the ledger is told that it is over."""
    with closing(sqlite3.connect(project / ".longshore" / "state.db")) as ledger, ledger:
        assert ledger.execute("UPDATE deliveries SET not_before = 0 WHERE not_before > 0").rowcount == 1


@pytest.mark.parametrize(
    ("point", "folders"),
    [
        ("", ("inbox", "outbox", "archive", "failed", ".longshore/work")),
        ("half copied to another file system", ("inbox",)),
        ("half copied to another file system", ("archive",)),
        ("copied to another file system, not removed", ("archive",)),
    ],
)
def test_a_file_goes_over_every_border_once_wherever_its_worker_dies(
    tmp_path: Path, server: OrderServer, point: str, folders: tuple[str, ...]
) -> None:
    project = make_project(tmp_path / "project", server.url)
    (project / ".longshore").mkdir(mode=0o700)
    with ExitStack() as stack:
        disks(stack, project, *folders)
        (project / "inbox").mkdir(exist_ok=True)
        write_clients(project / "inbox" / "clients.csv", ROWS)
        content = (project / "inbox" / "clients.csv").read_bytes()
        if point:
            killed_at(point, project)
        run_once(project)
        check_outcomes(project, ROWS)
        archived = [file.read_bytes() for file in (project / "archive").iterdir()]
        assert archived == [content]
        assert nothing_is_left_over(project)
        assert status(project)["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
    assert set(server.times_sent.values()) == {1}


def test_a_run_that_cannot_take_a_file_out_of_the_inbox_says_so_and_does_not_end_well(
    tmp_path: Path, server: OrderServer
) -> None:
    project = make_project(tmp_path / "project", server.url)
    command = ("--config", project / "longshore.toml", "run", "--once")
    with small_disk(project / "inbox"):
        write_clients(project / "inbox" / "clients.csv", ROWS)
        subprocess.run(["mount", "-o", "remount,ro", str(project / "inbox")], check=True)
        with longshore(*command, log=project / "run.log") as process:
            assert process.wait(60) == 1
        assert (
            "error: not all of the inbox could be worked off: Read-only file system"
            in (project / "run.log").read_text()
        )
        why = "is read-only; mount it for writing again"
        assert status(project)["disks"] == [{"folders": [str(project / "inbox")], "reason": why}]
        subprocess.run(["mount", "-o", "remount,rw", str(project / "inbox")], check=True)
        run_once(project)
        check_outcomes(project, ROWS)


@pytest.mark.parametrize("point", ["half copied to another file system", "copied to another file system, not removed"])
def test_a_failed_file_is_seen_whole_and_once_where_failed_is_on_another_file_system(
    tmp_path: Path, point: str
) -> None:
    project = make_project(tmp_path / "project", "http://127.0.0.1:9")
    (project / "inbox").mkdir()
    (project / "inbox" / "clients.csv").write_text(UNUSABLE)
    with small_disk(project / "failed") as failed:
        killed_at(point, project)
        assert (failed / "clients.csv").exists() == ("not removed" in point)
        run_once(project)
        assert (failed / "clients.csv").read_text() == UNUSABLE
        assert sorted(file.name for file in failed.iterdir()) == ["clients.csv", "clients.csv.error.json"]


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_what_failed_stays_failed_where_failed_cannot_be_written_and_is_put_there_later(
    tmp_path: Path, trouble: str
) -> None:
    project = make_project(tmp_path / "project", "http://127.0.0.1:9")
    (project / "inbox").mkdir()
    (project / "inbox" / "clients.csv").write_text(UNUSABLE)
    with small_disk(project / "failed") as failed:
        if trouble == "full":
            ballast = fill(failed)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(failed)], check=True)
        run_once(project)
        (delivery,) = status(project)["deliveries"]
        assert (delivery["state"], "cannot be put away" in delivery["error"]) == ("failed", True)
        assert "file not put away" in (project / "run.log").read_text()
        if trouble == "full":
            ballast.unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(failed)], check=True)
        a_minute_passes(project)
        run_once(project)
        assert (failed / "clients.csv").read_text() == UNUSABLE
        assert json.loads((failed / "clients.csv.error.json").read_text())["delivery"] == delivery["delivery"]


def test_an_archive_that_has_vanished_leaves_done_done_and_gets_its_file_when_it_is_back(
    tmp_path: Path, server: OrderServer
) -> None:
    project = make_project(tmp_path / "project", server.url)
    with running(project) as worker:
        wait_for((project / "archive").exists, alive=worker)
        (project / "archive").rmdir()
        drop(project)
        wait_for(lambda: "file not put away" in (project / "run.log").read_text(), alive=worker)
        (delivery,) = status(project)["deliveries"]
        assert (delivery["state"], "cannot be put away" in delivery["error"]) == ("done", True)
        (project / "archive").mkdir()
        a_minute_passes(project)
        wait_for((project / "archive" / "clients.csv").exists, alive=worker)
    check_outcomes(project, ROWS)
    assert set(server.times_sent.values()) == {1}


def test_a_log_on_a_full_disk_stops_nothing(tmp_path: Path, server: OrderServer) -> None:
    project = make_project(tmp_path / "project", server.url)
    (project / "inbox").mkdir()
    write_clients(project / "inbox" / "clients.csv", ROWS)
    with small_disk(project / "logs") as logs:
        fill(logs)
        with longshore("--config", project / "longshore.toml", "run", "--once", log=logs / "run.log") as worker:
            assert worker.wait(60) == 0
        assert (logs / "run.log").read_bytes() == b""
    check_outcomes(project, ROWS)


def test_a_copy_is_whole_before_its_worker_can_be_killed_again_and_again(tmp_path: Path, server: OrderServer) -> None:
    project = make_project(tmp_path / "project", server.url)
    (project / "inbox").mkdir()
    write_clients(project / "inbox" / "clients.csv", ROWS)
    with small_disk(project / "archive") as archive:
        for _ in range(3):
            with running(project, point="half copied to another file system") as worker:
                assert worker.wait(60) == -signal.SIGKILL
            assert not (archive / "clients.csv").exists()
            assert len(list(archive.iterdir())) == 1
        run_once(project)
        assert [file.name for file in archive.iterdir()] == ["clients.csv"]
    check_outcomes(project, ROWS)
