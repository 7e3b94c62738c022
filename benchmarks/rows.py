"""What a row costs that makes no calls, in time and memory; running.py has rows with calls.

    .venv/bin/python benchmarks/rows.py --rounds 1 --quick

Every figure is the median over rounds of whole processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ECHO = """
from worker import job

@job(files="*.csv")
def echo(row, ctx):
    return {"client_id": row["client_id"], "plan": "basic", "practitioner": row["practitioner_id"]}
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


class Process(NamedTuple):
    """A whole process: wall seconds, CPU seconds, and peak megabytes."""

    seconds: float
    cpu: float
    megabytes: float


def timed(command: list[str]) -> Process:
    """Run one."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Process(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def process(toml: Path, source: Path) -> list[str]:
    """The command that works a file off."""
    return [sys.executable, "-m", "worker", "--config", str(toml), "process", str(source)]


def medians(rounds: int, command: list[str]) -> Process:
    """The median of each figure over the rounds."""
    return Process(*map(statistics.median, zip(*(timed(command) for _ in range(rounds)), strict=True)))


def rows_alone(folder: Path, rounds: int, sizes: list[int]) -> None:
    """CSV in, outcome out, durable, without calls."""
    toml = write_project(folder / "alone", ECHO, '[worker]\nlog_level = "warning"\n')
    start = medians(rounds, process(toml, write_rows(folder / "empty.csv", 0, 1)))
    print(f"\nA row without calls (start-up, {start.seconds:.2f} s, {start.cpu:.2f} s of CPU, taken off)\n")
    print(f"{'rows':>10} {'us a row':>10} {'us of CPU':>10} {'rows/s':>10} {'peak MB':>10}")
    for size in sizes:
        found = medians(rounds, process(toml, write_rows(folder / f"{size}.csv", size, 2000)))
        seconds, cpu = found.seconds - start.seconds, found.cpu - start.cpu
        print(f"{size:>10,} {seconds / size * 1e6:>10.1f} {cpu / size * 1e6:>10.1f} ", end="")
        print(f"{size / seconds:>10,.0f} {found.megabytes:>10.0f}")


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="a tenth of the rows")
    options = arguments.parse_args()
    part = 10 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as name:
        rows_alone(Path(name), options.rounds, [size // part for size in (10_000, 100_000, 1_000_000)])


if __name__ == "__main__":
    main()
