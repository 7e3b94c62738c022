"""What a row costs: without calls, in time and memory; and with two calls, beside a plain script.

    make bench            all of it, about four minutes
    .venv/bin/python benchmarks/rows.py --rounds 1 --quick

Every figure is the median over rounds of whole processes, the two sides of a comparison in turn. Machines are shared
and noisy: quote the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ECHO = """
from worker import job

@job(files="*.csv")
def echo(row, ctx):
    return {"client_id": row["client_id"], "plan": "basic", "practitioner": row["practitioner_id"]}
"""
LOOK_UP = """
from worker import job

@job(files="*.csv")
def look_up(row, ctx):
    plan = ctx.rest["billing"].get("/plans", params={"client_id": row["client_id"]})
    practitioner = ctx.fhir["ehr"].read("Practitioner", row["practitioner_id"])
    return {"client_id": row["client_id"], "plan": plan["name"], "practitioner": practitioner["name"][0]["text"]}
"""
BACKENDS = """
[auth.fixed]
type = "bearer"
token = "benchmark"
[backends.billing]
type = "rest"
url = "{url}/api"
auth = "fixed"
[backends.ehr]
type = "fhir"
url = "{url}/fhir"
auth = "fixed"
"""


def write_rows(path: Path, rows: int, practitioners: int) -> Path:
    """A file of clients, each with one of so many practitioners."""
    with path.open("w") as file:
        file.write("client_id,practitioner_id,since,name,city\n")
        for number in range(rows):
            practitioner = f"practitioner-{number * 7919 % practitioners:06}"
            file.write(f"{number:07},{practitioner},2020-01-01,Client {number},Springfield\n")
    return path


def write_project(folder: Path, job: str, settings: str) -> Path:
    """A project folder; returns its settings file."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "bench.py").write_text(job)
    toml = folder / "longshore.toml"
    toml.write_text(settings)
    return toml


def timed(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak megabytes of a whole process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def process(toml: Path, source: Path) -> list[str]:
    """The command that works a file off."""
    return [sys.executable, "-m", "worker", "--config", str(toml), "process", str(source)]


def in_turn(rounds: int, *sides: Callable[[], tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Each side's figures, A B A B ..."""
    figures: list[list[tuple[float, float]]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, found in zip(sides, figures, strict=True):
            found.append(side())
    return figures


def median(figures: list[tuple[float, float]], which: int) -> float:
    """The middle one of the seconds (0) or the megabytes (1)."""
    return statistics.median(figure[which] for figure in figures)


def rows_alone(folder: Path, rounds: int, sizes: list[int]) -> None:
    """CSV in, outcome out, durable, without calls."""
    toml = write_project(folder / "alone", ECHO, "")
    empty = write_rows(folder / "empty.csv", 0, 1)
    (started,) = in_turn(rounds, lambda: timed(process(toml, empty)))
    start = median(started, 0)
    print(f"\nA row without calls (start-up, {start:.2f} s, taken off)\n")
    print(f"{'rows':>10} {'us a row':>10} {'rows/s':>10} {'peak MB':>10}")
    for size in sizes:
        source = write_rows(folder / f"{size}.csv", size, 2000)
        (figures,) = in_turn(rounds, lambda source=source: timed(process(toml, source)))  # type: ignore[misc]
        seconds = median(figures, 0) - start
        print(f"{size:>10,} {seconds / size * 1e6:>10.1f} {size / seconds:>10,.0f} {median(figures, 1):>10.0f}")


def rows_with_calls(folder: Path, rounds: int, rows: int, latency: float) -> None:
    """A REST call and a FHIR read for each row, beside the plain script."""
    source = write_rows(folder / "calls.csv", rows, 2000)
    with backend(latency) as url:
        toml = write_project(folder / "calls", LOOK_UP, BACKENDS.format(url=url))
        target = str(folder / "script.csv")
        script = [sys.executable, str(HERE / "script.py"), str(source), target, url]
        ours, theirs = in_turn(rounds, lambda: timed(process(toml, source)), lambda: timed(script))
    print(f"\n{rows:,} rows, a REST call and a FHIR read each, {latency * 1000:.0f} ms a call\n")
    print(f"{'':>24} {'seconds':>10} {'rows/s':>10} {'peak MB':>10}")
    for name, figures in (("longshore, 64 threads", ours), ("script, 16 threads", theirs)):
        seconds = median(figures, 0)
        print(f"{name:>24} {seconds:>10.2f} {rows / seconds:>10,.0f} {median(figures, 1):>10.0f}")
    print(f"{'ratio':>24} {median(theirs, 0) / median(ours, 0):>10.2f} times the script's speed")


@contextmanager
def backend(latency: float) -> Iterator[str]:
    """The backend in a process of its own."""
    command = [sys.executable, str(HERE / "backend.py"), str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="a tenth of the rows")
    options = arguments.parse_args()
    part = 10 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as name:
        rows_alone(Path(name), options.rounds, [size // part for size in (10_000, 100_000, 1_000_000)])
        rows_with_calls(Path(name), options.rounds, 10_000 // part, latency=0.020)


if __name__ == "__main__":
    main()
