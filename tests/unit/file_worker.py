"""One worker as far as files go: inbox, work folder, archive and failed, on a ledger with a clock of the test's own."""

import errno
import os
from pathlib import Path

from worker.declare import job
from worker.jobs import Jobs
from worker.ledger import Ledger
from worker.records import Reading
from worker.triggers.claims import Claims
from worker.triggers.endings import FileEnding, Folders
from worker.triggers.inbox import Inbox
from worker.triggers.settlement import Settlement

CSV = b"id,name\n007,Ann\n008,Bob\n"


class Crash(BaseException):
    """kill -9, as far as the code can tell."""


class Clock:
    """2026-11-23T02:00:00Z; passes when told."""

    now = 1_795_399_200.0

    def __call__(self):
        return self.now


@job(files="clients*.csv")
def summary(row, ctx):
    """Never called here."""


@job(files="signed*.csv", done_suffix=".done")
def signed(row, ctx):
    """Never called here."""


class FileWorker:
    """``gone`` are the owners that this worker takes for dead."""

    def __init__(self, root: Path, clock: Clock, *, owner="here.1.one", gone=()):
        self.root = root
        self.owner = owner
        self.ledger = Ledger(f"sqlite:///{root / 'state.db'}", owner=owner, clock=clock)
        self.folders = Folders(*(root / name for name in ("inbox", "archive", "failed", "work")))
        for folder in (self.folders.inbox, self.folders.archive, self.folders.failed, self.folders.work):
            folder.mkdir(exist_ok=True)
        self.jobs = Jobs([summary, signed])
        self.settlement = Settlement(self.ledger, FileEnding(self.folders), jitter=lambda: 0.5)
        self.claims = Claims(self.ledger, self.folders, self.jobs, self.settlement, gone=lambda name: name in gone)
        self.room = 20
        self.submitted = []
        self.inbox = Inbox(
            self.folders.inbox,
            self.claims,
            self.jobs,
            self.submitted.append,
            lambda: self.room,
            settle_seconds=1,
            clock=clock,
        )

    def drop(self, name="clients.csv", content=CSV, mtime=None):
        """A file in the inbox."""
        path = self.folders.inbox / name
        path.write_bytes(content)
        if mtime:
            os.utime(path, (mtime, mtime))
        return path

    def claim(self, name="clients.csv", content=CSV):
        """Drop a file and claim it; its delivery, ready to run."""
        return self.claims.claim(self.drop(name, content))()

    def due(self):
        """Open everything that is to be gone on with."""
        return [delivery for opening in self.claims.due(100) if (delivery := opening())]

    def entry(self, delivery):
        """What the ledger says of a delivery, a heartbeat later."""
        self.ledger.heartbeat([])
        return self.ledger.get(delivery.id)

    @property
    def entries(self):
        return self.ledger.entries()

    @property
    def files(self):
        """Every file outside the ledger, by its path from the root."""
        everything = (Path(folder) / name for folder, _, names in os.walk(self.root) for name in names)
        return sorted(str(path.relative_to(self.root)) for path in everything if not path.name.startswith("state.db"))


def claimed(delivery):
    """Its file in the work folder."""
    return delivery.folder.with_name(f"{delivery.id}.{delivery.source}")


def rows(delivery):
    return [dict(row) for chunk in delivery.read(Reading()) for row in chunk.rows]


def another_file_system(monkeypatch, folder: Path):
    """From now on a folder, with all that is in it, lies on a file system of its own."""
    link, rename = os.link, Path.rename

    def crosses(source, target):
        return Path(source).is_relative_to(folder) != Path(target).is_relative_to(folder)

    def linked(source, target, **options):
        if crosses(source, target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target, **options)

    def renamed(source, target):
        if crosses(source, target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(source, target)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(Path, "rename", renamed)
