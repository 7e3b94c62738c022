"""A file in a running worker, from its drop to its manifest: each row with a REST call and a FHIR read of its own.

    .venv/bin/python benchmarks/running.py [--rounds 3] [--rows 10000]

Beside it, in turn, script.py (pandas, requests, 16 threads) and peer.go (Go, as many calls in flight as the worker).
Neither is charged with its start. Seconds of CPU are those of the side's own process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from backend import HERE, backend, built, requests_since
from rows import write_project, write_rows

LOOK_UP = """
from worker import job

@job(files="*.csv")
def look_up(row, ctx):
    plan = ctx.rest["billing"].get("/plans", params={"client_id": row["client_id"]})
    practitioner = ctx.fhir["ehr"].read("Practitioner", row["practitioner_id"])
    return {"client_id": row["client_id"], "plan": plan["name"], "practitioner": practitioner["name"][0]["text"]}
"""
SETTINGS = """
[worker]
log_level = "warning"
{threads}
[auth.fixed]
type = "bearer"
token = "benchmark"
[backends.billing]
type = "rest"
url = "{url}/api"
auth = "fixed"
{concurrency}
[backends.ehr]
type = "fhir"
url = "{url}/fhir"
auth = "fixed"
"""
PRACTITIONERS = 2000
TICKS = os.sysconf("SC_CLK_TCK")


class Figures(NamedTuple):
    """Of one side in one round: wall seconds, its own CPU seconds, and the requests that the backend saw."""

    seconds: float
    cpu: float
    requests: float


class Worker:
    """``longshore run`` on a project; called, it takes one file through."""

    def __init__(self, folder: Path, url: str, in_flight: int | None) -> None:
        # Twice as many rows as calls: one that waits for a lookup which others share makes none.
        threads = f"threads = {2 * in_flight}" if in_flight else ""
        concurrency = f"max_concurrency = {in_flight}" if in_flight else ""
        settings = SETTINGS.format(url=url, threads=threads, concurrency=concurrency)
        toml = write_project(folder, LOOK_UP, settings)
        self._folder = folder
        self._process = subprocess.Popen([sys.executable, "-m", "worker", "--config", str(toml), "run"])
        self._count = 0
        while not (folder / "inbox").exists():
            time.sleep(0.01)

    def __call__(self, source: Path) -> tuple[float, float]:
        """Wall and CPU seconds from the file's drop to its manifest."""
        self._count += 1
        aside = self._folder / f"{self._count}-{source.name}"
        aside.write_bytes(source.read_bytes())
        stem = f"{aside.stem}-*.manifest.json"
        cpu, begun = self._cpu(), time.perf_counter()
        aside.rename(self._folder / "inbox" / aside.name)
        while not (found := list((self._folder / "outbox").glob(stem))):
            if self._process.poll() is not None:
                raise SystemExit("the worker has ended")
            time.sleep(0.005)
        seconds, cpu = time.perf_counter() - begun, self._cpu() - cpu
        manifest = json.loads(found[0].read_text())
        if manifest["results"] != manifest["rows_in"]:
            raise SystemExit(f"rows are missing: {manifest}")
        return seconds, cpu

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


@contextmanager
def worker(folder: Path, url: str, in_flight: int | None) -> Iterator[Worker]:
    """A running one, which has seen a file already."""
    running = Worker(folder, url, in_flight)
    try:
        running(write_rows(folder / "first.csv", 100, 10))
        yield running
    finally:
        running.close()


def told(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds as a program tells them of itself."""
    seconds, cpu = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(seconds), float(cpu)


def compare(folder: Path, rounds: int, rows: int, latency: float, in_flight: int | None) -> None:
    """One table: the sides in turn, at one latency."""
    folder.mkdir()
    source, target = write_rows(folder / "rows.csv", rows, PRACTITIONERS), folder / "out.csv"
    with backend(latency) as url, worker(folder / "project", url, in_flight) as running:
        sides: dict[str, Callable[[], tuple[float, float]]] = {
            "longshore": lambda: running(source),
            "script": lambda: told([sys.executable, str(HERE / "script.py"), str(source), str(target), url]),
            "go": lambda: told([str(built(HERE / "peer.go")), str(source), str(target), url, str(in_flight or 64)]),
        }
        found: dict[str, list[Figures]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                requests_since(url)
                found[name].append(Figures(*side(), requests_since(url)))
    medians = {name: Figures(*map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}
    print(f"\n{rows:,} rows, {latency * 1000:.0f} ms a call, {in_flight or 'default settings: 64'} in flight\n")
    show(rows, medians, statistics.median(map(ratio, found["script"], found["longshore"])))


def ratio(theirs: Figures, ours: Figures) -> float:
    """How many times as fast we were, in one round."""
    return theirs.seconds / ours.seconds


def show(rows: int, medians: dict[str, Figures], times: float) -> None:
    """The table."""
    script = medians["script"].seconds
    print(f"{'':>12} {'seconds':>9} {'rows/s':>9} {'us of CPU a row':>16} {'requests':>9} {'times the script':>17}")
    for name, each in medians.items():
        faster = times if name == "longshore" else script / each.seconds
        cost = each.cpu / rows * 1e6
        print(f"{name:>12} {each.seconds:>9.2f} {rows / each.seconds:>9,.0f} {cost:>16.0f}", end="")
        print(f" {each.requests:>9,.0f} {faster:>17.1f}", flush=True)


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=10_000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as name:
        for place, (latency, in_flight) in enumerate(((0.020, 128), (0.020, None), (0.0, None))):
            compare(Path(name) / str(place), options.rounds, options.rows, latency, in_flight)


if __name__ == "__main__":
    main()
