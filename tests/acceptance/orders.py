"""A project whose job orders something for every row, and what must be true of it after all that may befall it."""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prepared import Process, longshore

THREADS = 16

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


def make_project(folder: Path, url: str, *, lease: int = 30) -> Path:
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "order.py").write_text(JOB)
    (folder / "longshore.toml").write_text(
        f"[worker]\nthreads = {THREADS}\nsettle_seconds = 0.1\nlease_seconds = {lease}\n"
        f'[backends.orders]\ntype = "rest"\nurl = "{url}"\n'
    )
    return folder


def write_clients(path: Path, rows: int, *, first: int = 0) -> None:
    path.write_text("client\n" + "".join(f"{number:05}\n" for number in range(first, first + rows)))


@contextmanager
def running(project: Path, *, point: str = "", log_name: str = "run.log") -> Iterator[Process]:
    """``longshore run``, killed at that ``point`` if one is given; what it says is in run.log."""
    with longshore("--config", project / "longshore.toml", "run", point=point, log=project / log_name) as process:
        yield process


def run_once(project: Path) -> None:
    """Work off what is there."""
    with longshore("--config", project / "longshore.toml", "run", "--once", log=project / "run.log") as process:
        process.wait(60)


def status(project: Path) -> dict[str, Any]:
    """What ``longshore status`` says."""
    with tempfile.NamedTemporaryFile() as told:
        with longshore("--config", project / "longshore.toml", "status", "--json", out=told.name) as process:
            process.wait(60)
        found: dict[str, Any] = json.loads(told.read())
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60, *, alive: Process) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert alive.poll() is None, "the worker ended"
        time.sleep(0.01)


def manifest_of(project: Path) -> Path | None:
    return next((project / "outbox").glob("*.manifest.json"), None)


def check_outcomes(project: Path, rows: int) -> dict[str, Any]:
    """The one delivery of the project has one outcome a row, in input order, and a manifest that says so."""
    path = manifest_of(project)
    assert path
    return check_manifest(path, range(rows))


def check_manifest(path: Path, clients: range) -> dict[str, Any]:
    """The same for one delivery of many, whose file had these clients."""
    manifest: dict[str, Any] = json.loads(path.read_text())
    results, rejects = (path.with_name(output["name"]) for output in manifest["outputs"])
    for output in manifest["outputs"]:
        assert hashlib.sha256(path.with_name(output["name"]).read_bytes()).hexdigest() == output["sha256"]
    done = [row["client"] for row in csv.DictReader(results.read_text().splitlines())]
    rejected = [row["client"] for row in csv.DictReader(rejects.read_text().splitlines())]
    everything = [f"{number:05}" for number in clients]
    assert done == [client for client in everything if int(client) % 50 not in (7, 9)]
    assert rejected == [client for client in everything if int(client) % 50 == 7]
    assert manifest["rows_in"] == len(clients)
    assert (manifest["results"], manifest["rejected"]) == (len(done), len(rejected))
    assert manifest["skipped"] == len(clients) - len(done) - len(rejected)
    return manifest
