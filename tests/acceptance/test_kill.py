"""The promise that nothing is lost and nothing done twice unnoticed, against real processes and real kills."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from order_server import OrderServer

THREADS = 16
ROWS = 2000
KILLS = 20

JOB = """
from worker import Context, Reject, Row, job

@job(files="*.csv")
def order(row: Row, ctx: Context) -> dict | None:
    client = int(row["client"])
    if client % 50 == 7:
        raise Reject("this client orders nothing")
    if client % 50 == 9:
        return None
    answer = ctx.rest["orders"].post("/orders", json={"client": row["client"]})
    return {"client": row["client"], "order": answer["order"]}
"""


def make_project(folder: Path, url: str) -> Path:
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "order.py").write_text(JOB)
    (folder / "longshore.toml").write_text(
        f'[worker]\nthreads = {THREADS}\nsettle_seconds = 0.1\n[backends.orders]\ntype = "rest"\nurl = "{url}"\n'
    )
    return folder


def write_clients(path: Path, rows: int) -> None:
    path.write_text("client\n" + "".join(f"{number:05}\n" for number in range(rows)))


@contextmanager
def running(project: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``longshore run``; what it says is in run.log."""
    command = [sys.executable, "-m", "worker", "--config", str(project / "longshore.toml"), "run"]
    with (project / "run.log").open("ab") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 60, *, alive: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert alive.poll() is None, "the worker ended"
        time.sleep(0.01)


def manifest_of(project: Path) -> Path | None:
    return next((project / "outbox").glob("*.manifest.json"), None)


def check_outcomes(project: Path, rows: int) -> dict[str, object]:
    """One outcome a row, in input order, and a manifest that says so."""
    path = manifest_of(project)
    assert path
    manifest: dict[str, object] = json.loads(path.read_text())
    results, rejects = (path.with_name(output["name"]) for output in manifest["outputs"])  # type: ignore[attr-defined]
    for output in manifest["outputs"]:  # type: ignore[attr-defined]
        assert hashlib.sha256(path.with_name(output["name"]).read_bytes()).hexdigest() == output["sha256"]
    done = [row["client"] for row in csv.DictReader(results.read_text().splitlines())]
    rejected = [row["client"] for row in csv.DictReader(rejects.read_text().splitlines())]
    everything = [f"{number:05}" for number in range(rows)]
    assert done == [client for client in everything if int(client) % 50 not in (7, 9)]
    assert rejected == [client for client in everything if int(client) % 50 == 7]
    assert manifest["rows_in"] == rows
    assert (manifest["results"], manifest["rejected"]) == (len(done), len(rejected))
    assert manifest["skipped"] == rows - len(done) - len(rejected)
    return manifest


def test_after_twenty_kills_every_row_has_one_outcome_and_only_rows_in_flight_were_sent_again(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(tmp_path / "clients.csv", ROWS)
        (tmp_path / "clients.csv").rename(project / "inbox" / "clients.csv")
        kills = 0
        while kills < KILLS and not manifest_of(project):
            server.first_order.clear()
            with running(project) as worker:
                wait_for(lambda: server.first_order.is_set() or manifest_of(project), alive=worker)
                time.sleep(chance.uniform(0, 0.35))
                os.kill(worker.pid, signal.SIGKILL)
                kills += 1
        with running(project) as worker:
            wait_for(lambda: manifest_of(project), alive=worker)
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        manifest = check_outcomes(project, ROWS)
        again = sum(times - 1 for times in server.times_sent.values())
        print(f"{kills} kills, {again} requests repeated, {again / kills:.1f} a kill with {THREADS} in flight")
        assert kills == KILLS
        assert manifest["attempts"] == KILLS + 1
        assert len(server.orders) == manifest["results"], "one key a row, the same at every attempt"
        # In flight: sent, or answered less than a tick of the pool ago.
        assert again <= KILLS * THREADS * 2


def test_sigterm_finishes_the_rows_in_flight_and_the_next_start_does_the_rest_without_repeating_any(
    tmp_path: Path,
) -> None:
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 600)
        with running(project) as worker:
            wait_for(lambda: len(server.orders) > 100, alive=worker)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=20) == 0
        assert not manifest_of(project)
        assert not list((project / "failed").iterdir())
        with running(project) as worker:
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        check_outcomes(project, 600)
        assert set(server.times_sent.values()) == {1}


@pytest.mark.parametrize("way", ["rename", "copy"])
def test_a_file_dropped_into_a_running_worker_comes_out_as_results(tmp_path: Path, way: str) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            write_clients(tmp_path / "clients.csv", 60)
            if way == "rename":
                (tmp_path / "clients.csv").rename(project / "inbox" / "clients.csv")
            else:
                write_clients(project / "inbox" / "clients.csv", 60)
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=20) == 0
        check_outcomes(project, 60)
