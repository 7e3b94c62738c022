"""Workers that are killed and stopped at random while they work off many files; prints what became of the rows.

make soak
.venv/bin/python tests/soak/soak.py --workers 3 --kills 200 --seed 7
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "acceptance"))

from order_server import OrderServer
from orders import THREADS, check_manifest, make_project, running, wait_for, write_clients
from prepared import Process

LEASE = 1
FILE_ROWS = 500


@dataclass(frozen=True)
class Figures:
    """What a soak came to; every row has one outcome, or it would have raised."""

    rows: int
    kills: int
    pauses: int
    repeated: int

    def __str__(self) -> str:
        per_kill = self.repeated / max(1, self.kills)
        return (
            f"{self.rows:,} rows, {self.kills} kills, {self.pauses} pauses longer than the lease: "
            f"0 lost, 0 doubled in the outbox, {self.repeated} requests repeated, {per_kill:.1f} a kill "
            f"({THREADS} rows in flight)"
        )


@dataclass(frozen=True)
class Worker:
    """One of the fleet, and what it says."""

    process: Process
    log: Path

    def has_started(self) -> bool:
        return "worker started" in self.log.read_text()


class Inbox:
    """The project's inbox, with files of 500 clients each."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self.files = 0
        (project / "inbox").mkdir()

    def drop(self) -> None:
        """One more file, renamed into place."""
        first = self.files * FILE_ROWS
        write_clients(self._project / "clients.part", FILE_ROWS, first=first)
        (self._project / "clients.part").rename(self._project / "inbox" / f"clients-{first:06}.csv")
        self.files += 1

    @property
    def unfinished(self) -> int:
        """How many files are not in the archive."""
        return self.files - len(list((self._project / "archive").glob("*.csv")))


def soak(folder: Path, *, workers: int, kills: int, seed: int, delay: float = 0.02) -> Figures:
    """Drop files of 500 rows for as long as workers are killed; raises ``AssertionError`` if a promise is broken."""
    chance = random.Random(seed)
    with OrderServer(delay=delay) as server, ExitStack() as stack:
        project = make_project(folder / "project", server.url, lease=LEASE)
        inbox = Inbox(project)
        starts = count()

        def start() -> Worker:
            log = project / f"run-{next(starts)}.log"
            return Worker(stack.enter_context(running(project, log_name=log.name)), log)

        fleet = [start() for _ in range(workers)]
        killed = paused = 0
        while killed < kills or inbox.unfinished:
            while killed < kills and inbox.unfinished <= 2 * workers:
                inbox.drop()
            time.sleep(chance.uniform(0.05, 0.7))
            number = chance.randrange(workers)
            if killed < kills and chance.random() < 0.8:
                fleet[number].process.kill()
                fleet[number].process.wait()
                fleet[number] = start()
                killed += 1
            elif paused < kills / 4:
                _pause(fleet[number].process, chance.uniform(0.1, 2.5 * LEASE))
                paused += 1
        for worker in fleet:
            # The last one may have been started a moment ago, when Python itself does not yet know how to drain.
            wait_for(worker.has_started, alive=worker.process)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(60) == 0, worker.log.read_text()
        return _settle_up(project, server, range(0, inbox.files * FILE_ROWS, FILE_ROWS), killed, paused)


def _pause(worker: Process, seconds: float) -> None:
    worker.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    worker.send_signal(signal.SIGCONT)


def _settle_up(project: Path, server: OrderServer, files: range, kills: int, pauses: int) -> Figures:
    for first in files:
        (manifest,) = (project / "outbox").glob(f"clients-{first:06}-*.manifest.json")
        check_manifest(manifest, range(first, first + FILE_ROWS))
    assert len(list((project / "outbox").glob("*.manifest.json"))) == len(files)
    assert not list((project / "failed").iterdir())
    assert len(server.orders) == len(set(server.orders.values())), "two keys for one row"
    repeated = sum(times - 1 for times in server.times_sent.values())
    assert repeated <= (kills + pauses) * THREADS * 2
    return Figures(rows=len(files) * FILE_ROWS, kills=kills, pauses=pauses, repeated=repeated)


def main() -> None:
    """Soak and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--workers", type=int, nargs="+", default=[1, 3])
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = arguments.parse_args()
    for workers in options.workers:
        print(f"{workers} workers, --seed {options.seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="longshore-soak-") as folder:
            figures = soak(Path(folder), workers=workers, kills=options.kills, seed=options.seed)
        print(f"  {figures}", flush=True)


if __name__ == "__main__":
    main()
