"""Files become deliveries: claimed into the work folder, opened there, and found again after a crash.

The ledger hears of a file before it is moved, so whatever a crash leaves half done is known:

    announced, still in the inbox              forgotten; the next sweep takes it
    announced, its name taken, not here yet    fetched from the inbox's file system
    announced, in the work folder              run, with what the part file holds
    done or failed, in the work folder         put away
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from errno import EINVAL, EXDEV
from functools import partial
from itertools import takewhile
from pathlib import Path

from worker import files, log, tables
from worker.errors import DeliveryError, LeftAlone, LostLease, Paused, ServerFault, Stopping
from worker.jobs import Jobs
from worker.ledger import Ledger
from worker.records import Attempt, Chunk, Delivery, Entry, Input, Reading
from worker.sockets import Opening
from worker.triggers.endings import Folders
from worker.triggers.settlement import Settlement

# How attempts end that have not come to a call: by a death, by a stop, or before a backend that is left alone.
_SILENT = frozenset({"", Stopping.__name__, LeftAlone.__name__})

TRIGGERS = ("inbox", "process")


class Claims:
    """The beginning of a delivery's story; ``settlement`` is its end."""

    def __init__(
        self, ledger: Ledger, folders: Folders, jobs: Jobs, settlement: Settlement, *, gone: Callable[[str], bool]
    ) -> None:
        self._ledger = ledger
        self._folders = folders
        self._jobs = jobs
        self._settlement = settlement
        self._gone = gone
        self._log = log.get_logger()

    def claim(self, path: Path) -> Opening | None:
        """Take a file of the inbox for this worker; None if another one was faster. Raises ``OSError``."""
        entry = self._ledger.announce("inbox", path.name)
        try:
            self._move_in(path, entry)
        except OSError as error:
            if not self._folders.input(entry).exists():  # else a network share did it, and says that it could not
                self._withdraw(entry)
                if isinstance(error, FileNotFoundError) and path.parent.exists():
                    return None
                raise
        with suppress(OSError):  # opening tries again, and tells
            self._remove_done_file(entry)
        return partial(self.open, entry)

    def copy(self, path: Path, *, job: str = "") -> Opening:
        """Make a delivery of a copy of a file, which stays where it is. Raises ``OSError``."""
        if fault := files.name_fault(path.name):
            raise OSError(EINVAL, fault, str(path))
        entry = self._ledger.announce("process", path.name, job=job)
        try:
            files.durable_folder(self._folders.work)
            with self._ledger.in_hand(entry.id):
                files.copy(path, self._folders.input(entry), guard=partial(self._ledger.guard, entry))
        except BaseException:
            if self._ledger.withdraw(entry):
                self._folders.input(entry).unlink(missing_ok=True)
            raise
        return partial(self.open, entry)

    def due(self, limit: int) -> list[Opening]:
        """Deliveries to go on with: they waited long enough, or a dead or silent worker left them behind."""
        return [partial(self.open, entry) for entry in self._ledger.take(self._gone, triggers=TRIGGERS, limit=limit)]

    def open(self, entry: Entry) -> Delivery | None:
        """The delivery, ready to run; None if only its end was left to be finished, or it cannot be opened now."""
        with log.bound(delivery=entry.id), self._ledger.in_hand(entry.id):
            try:
                return self._open(entry)
            except (Paused, OSError) as error:
                self._settlement.put_back(entry, error)
                return None

    def _open(self, entry: Entry) -> Delivery | None:
        if entry.state in ("done", "failed"):
            self._settlement.put_away(entry)
            return None
        try:
            return self._open_claimed(entry)
        except (LostLease, OSError):
            self._adopt(entry)
            raise

    def _open_claimed(self, entry: Entry) -> Delivery | None:
        source = self._folders.input(entry)
        self._fetch(entry)
        if not entry.attempts:
            self._remove_done_file(entry)
        if not source.exists():
            self._source_missing(entry)
            return None
        files.sync_folder(self._folders.work)
        return self._begin(entry, source)

    def _begin(self, entry: Entry, source: Path) -> Delivery:
        seen = source.stat()
        sha256, size = entry.sha256, entry.bytes
        if not sha256:
            sha256, size = digest(source), seen.st_size
        entry = self._ledger.begin(entry, sha256=sha256, size=size)
        claimed = _Claimed(source, sha256, seen if not entry.attempts > 1 else None)
        self._log.info("delivery taken", source=entry.source, attempt=entry.attempts)
        delivery = Delivery(
            id=entry.id,
            trigger=entry.trigger,
            source=entry.source,
            input=Input(entry.source, sha256, size),
            folder=self._folders.of(entry),
            attempts=entry.attempts,
            started=entry.started or entry.created,
            read=claimed.read,
            guard=lambda: self._guard(entry, claimed),
            settle=lambda error: self._settlement.settle(entry, delivery, error),
            job=entry.job,
            faults=faults(self._ledger.attempts(entry.id)) if entry.attempts > 1 else 0,
        )
        return delivery

    def _guard(self, entry: Entry, claimed: _Claimed) -> None:
        self._ledger.guard(entry)
        with suppress(FileNotFoundError):  # what was read of it was what had been claimed
            claimed.check()

    def _source_missing(self, entry: Entry) -> None:
        self._ledger.guard(entry)  # it may have waited here for so long that another worker took and finished it
        if not entry.sha256:  # the claim was announced and came no further: its file is in the inbox, or another's
            self._withdraw(entry)
            return
        error = DeliveryError(f"its file is gone from {self._folders.work}; drop it into the inbox again")
        self._log.error("delivery failed", source=entry.source, reason=error.detail)
        self._ledger.give_up(entry, error)

    def _withdraw(self, entry: Entry) -> None:
        """Forget a claim that has no file; one that a slow worker moves in at this moment is not removed."""
        if self._ledger.withdraw(entry):
            files.hidden(self._folders.input(entry)).unlink(missing_ok=True)
            self._adopt(entry)

    def _adopt(self, entry: Entry) -> None:
        """Write a claim down again if another worker forgot it, as its file was not here yet."""
        if self._folders.input(entry).exists() or self._folders.taken(entry).exists():
            self._ledger.adopt(entry.id, entry.trigger, entry.source, attempts=entry.attempts)

    def _move_in(self, path: Path, entry: Entry) -> None:
        files.durable_folder(self._folders.work)
        try:
            path.rename(self._folders.input(entry))
        except OSError as error:
            if error.errno != EXDEV:
                raise
            path.rename(self._folders.taken(entry))  # only one worker gets the name, and copies; see _fetch

    def _fetch(self, entry: Entry) -> None:
        """Bring a claimed file over from the inbox's file system."""
        taken, target = self._folders.taken(entry), self._folders.input(entry)
        if taken.exists():
            files.sync_folder(taken.parent)  # or a power cut might bring back the old name beside the copy
            for version in range(1, entry.version):
                files.hidden(target, str(version)).unlink(missing_ok=True)
            if not target.exists():
                files.copy(taken, target, by=str(entry.version))
            taken.unlink(missing_ok=True)

    def _remove_done_file(self, entry: Entry) -> None:
        """The sender's sign that a file is complete goes after its file did."""
        inbox = self._folders.inbox
        for suffix in self._jobs.done_suffixes:
            if entry.trigger == "inbox" and not (inbox / entry.source).exists():
                (inbox / f"{entry.source}{suffix}").unlink(missing_ok=True)


def digest(path: Path) -> str:
    """A file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def faults(attempts: Iterable[Attempt]) -> int:
    """How many of the last ones ended in a ``ServerFault``; those that came to no call say nothing."""
    ended = [attempt.error for attempt in attempts if attempt.error not in _SILENT]
    return sum(1 for _ in takewhile(ServerFault.__name__.__eq__, reversed(ended)))


class _Claimed:
    """A file that has to stay what was claimed.

    ``seen`` is how it looked before its digest was taken; without it, or where it looks otherwise afterwards, the
    digest is taken again.
    """

    def __init__(self, path: Path, sha256: str, seen: os.stat_result | None) -> None:
        self._path = path
        self._sha256 = sha256
        self._before = _looks(seen) if seen else None

    def read(self, reading: Reading) -> Iterator[Chunk]:
        """Its chunks; raises ``DeliveryError`` if it is not what was claimed."""
        if self._before is None:
            before = _looks(self._path.stat())
            self._compare()
            self._before = before
        yield from tables.read(self._path, reading)
        self.check()

    def check(self) -> None:
        """Raise ``DeliveryError`` if it has changed since, be it that all was read: the rest would go unseen."""
        if _looks(self._path.stat()) != self._before:
            self._compare()

    def _compare(self) -> None:
        if digest(self._path) != self._sha256:
            raise DeliveryError(
                f"its content changed after it was claimed (SHA-256 was {self._sha256[:12]}...); "
                "send the file again as a new one"
            )


def _looks(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
