"""Several workers, each on a machine of its own as far as it knows, on one project and one PostgreSQL."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

from worker.ledger import Ledger

LAUNCHER = Path(__file__).with_name("worker_on_another_machine.py")
LEASE_SECONDS = 3
THREADS = 4
SECONDS = 60  # after which a test that hangs fails

JOB = """
from worker import Context, Reject, Row, job

@job(files="*.csv")
def order(row: Row, ctx: Context) -> dict | None:
    if row["client"].endswith("7"):
        raise Reject("this client orders nothing")
    answer = ctx.rest["orders"].post("/orders", json={"client": row["client"]})
    return {"client": row["client"], "order": answer["order"]}
"""


class Fleet:
    """The project that its workers share; each file that is dropped has clients of its own."""

    def __init__(self, folder, state, sandbox, orders):
        self.folder = folder
        self.state = state
        self.orders = orders
        self.files = {}
        (folder / "jobs").mkdir(parents=True)
        (folder / "inbox").mkdir()
        (folder / "jobs" / "order.py").write_text(JOB)
        (folder / "longshore.toml").write_text(
            f"[worker]\n"
            f'state = "{state}"\ndeliveries = 1\nthreads = {THREADS}\nchunk_rows = 20\n'
            f"settle_seconds = 0.1\nlease_seconds = {LEASE_SECONDS}\n{sandbox.settings_toml()}"
            f'[backends.orders]\ntype = "rest"\nurl = "{orders.url}"\nauth = "hospital"\nmax_concurrency = {THREADS}\n'
        )

    @contextmanager
    def worker(self, machine):
        """``longshore run`` on a machine; what it says is in ``log``."""
        command = [sys.executable, LAUNCHER, machine, "--config", self.folder / "longshore.toml", "run"]
        with self._log(machine).open("ab") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                wait_for(lambda: "worker started" in self.log(machine), process)
                yield process
            finally:
                process.kill()

    def _log(self, machine):
        return self.folder / f"{machine}.log"

    def log(self, machine):
        return self._log(machine).read_text()

    def drop(self, files, rows):
        for number in range(len(self.files), len(self.files) + files):
            clients = [f"{number:03}-{row:04}" for row in range(rows)]
            self.files[f"clients-{number:03}.csv"] = clients
            whole = self.folder / f"clients-{number:03}.csv"
            whole.write_text("\n".join(["client", *clients, ""]))
            whole.rename(self.folder / "inbox" / whole.name)

    @property
    def over(self):
        """Whether every file is put away."""
        return self.files.keys() <= {path.name for path in (self.folder / "archive").iterdir()}

    def entries(self):
        """Source -> its delivery, as the ledger tells it."""
        with closing(Ledger(self.state)) as ledger:
            return {entry.source: entry for entry in ledger.entries()}

    def attempts(self):
        """Source -> the attempts at it, as the ledger tells them."""
        with closing(Ledger(self.state)) as ledger:
            return {entry.source: ledger.attempts(entry.id) for entry in ledger.entries()}

    def check(self):
        """Every row of every file has one outcome, in input order, and the manifests say so; returns them by source."""
        found = [json.loads(path.read_bytes()) for path in (self.folder / "outbox").glob("*.manifest.json")]
        assert sorted(manifest["source"] for manifest in found) == sorted(self.files)
        named = {output["name"] for manifest in found for output in manifest["outputs"]}
        lying_there = {path.name for path in (self.folder / "outbox").iterdir()}
        assert lying_there == named | {path.name for path in (self.folder / "outbox").glob("*.manifest.json")}
        for manifest in found:
            self._check_manifest(manifest)
        assert list((self.folder / "failed").iterdir()) == list((self.folder / "inbox").iterdir()) == []
        assert list((self.folder / ".longshore" / "work").iterdir()) == []
        return {manifest["source"]: manifest for manifest in found}

    def _check_manifest(self, manifest):
        clients = self.files[manifest["source"]]
        results, rejects = (self.folder / "outbox" / output["name"] for output in manifest["outputs"])
        for path, output in zip((results, rejects), manifest["outputs"], strict=True):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == output["sha256"]
        assert column(results) == [client for client in clients if not client.endswith("7")]
        assert column(rejects) == [client for client in clients if client.endswith("7")]
        counts = (len(clients), len(column(results)), len(column(rejects)), 0)
        assert tuple(manifest[name] for name in ("rows_in", "results", "rejected", "skipped")) == counts


def column(path):
    return [row["client"] for row in csv.DictReader(path.read_text().splitlines())]


def wait_for(condition, *alive, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert all(process.poll() is None for process in alive), "a worker ended"
        time.sleep(0.02)


def stop(process):
    """SIGTERM; returns the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(20)
