"""What a file costs: many files of one row each, dropped at once, from the worker's start to the last manifest.

.venv/bin/python benchmarks/files.py [--files 10000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rows import ECHO, timed, write_project, write_rows


def main() -> None:
    """Print a line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--files", type=int, default=10_000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as name:
        project = Path(name)
        toml = write_project(project, ECHO, '[worker]\nsettle_seconds = 0.1\nlog_level = "warning"\n')
        (project / "inbox").mkdir()
        for number in range(options.files):
            write_rows(project / "inbox" / f"file-{number:06}.csv", 1, 1)
        seconds, _, megabytes = timed([sys.executable, "-m", "worker", "--config", str(toml), "run", "--once"])
        done = len(list((project / "outbox").glob("*.manifest.json")))
    per_file = seconds / options.files * 1000
    print(f"{done:,} files of one row in {seconds:.1f} s: {per_file:.1f} ms a file, peak {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
