"""How long after its time a tick makes its first call, in a running worker.

    .venv/bin/python benchmarks/ticks.py --ticks 3

A job comes every minute, so this takes as many minutes as there are ticks.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from rows import write_project

JOB = """
from worker import job

def now(ctx):
    yield {"client_id": "0000001"}

@job(schedule="* * * * *", source=now)
def ask(row, ctx):
    return ctx.rest["billing"].get("/plans", params={"client_id": row["client_id"]})
"""
MINUTE = 60


class Plans(BaseHTTPRequestHandler):
    """Answers, and remembers when it was asked."""

    asked: list[float] = []  # noqa: RUF012 - one server

    def do_GET(self) -> None:
        """One plan for everybody."""
        self.asked.append(time.time())
        body = b'{"plan": "basic"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    """Print a line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ticks", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as name, HTTPServer(("127.0.0.1", 0), Plans) as server:
        server.timeout = 2 * MINUTE
        backend = f'[backends.billing]\ntype = "rest"\nurl = "http://127.0.0.1:{server.server_port}"\n'
        toml = write_project(Path(name), JOB, f'[worker]\nlog_level = "warning"\n{backend}')
        worker = subprocess.Popen([sys.executable, "-m", "worker", "--config", str(toml), "run"])
        try:
            while len(Plans.asked) < options.ticks:
                server.handle_request()
        finally:
            worker.terminate()
            worker.wait()
    late = [asked % MINUTE * 1000 for asked in Plans.asked]
    print(f"{len(late)} ticks: first call after {statistics.median(late):.0f} ms, at most {max(late):.0f} ms")


if __name__ == "__main__":
    main()
