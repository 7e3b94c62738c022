"""The end of a delivery that came as a file: archive/, failed/ with the reason, or back to wait.

The ledger is told first, then the source is moved: a crash in between leaves a finished delivery whose source still
lies in the work folder, and the next worker moves it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path

from worker import exact_json, files, log
from worker.errors import DeliveryError, LeftAlone, LostLease, Paused, Stopping, Unavailable, WorkerError, sentence
from worker.ledger import Ledger
from worker.records import Delivery, Entry

HOLD_OFF_MAX = 60.0  # seconds: an outage without a Retry-After is looked at again at least this often


@dataclass(frozen=True, slots=True)
class Folders:
    """Where files come from and go to."""

    inbox: Path
    archive: Path
    failed: Path
    work: Path

    def of(self, entry: Entry) -> Path:
        """A delivery's own folder while it is under way."""
        return self.work / entry.id

    def input(self, entry: Entry) -> Path:
        """Its claimed file."""
        return self.of(entry) / "input" / entry.source

    def taken(self, entry: Entry) -> Path:
        """Its claimed file while that is still on the inbox's own file system."""
        return self.inbox / f".{entry.id}.{entry.source}.claim"


class Settlement:
    """Decides by the error, tells the ledger, and puts the source where it belongs."""

    def __init__(self, ledger: Ledger, folders: Folders, *, jitter: Callable[[], float] = random.random) -> None:
        self._ledger = ledger
        self._folders = folders
        self._jitter = jitter
        self._log = log.get_logger()

    def settle(self, entry: Entry, delivery: Delivery, error: Exception | None) -> None:
        """None: done. ``DeliveryError``: failed. Anything else says nothing about the delivery: it waits."""
        with log.bound(job=delivery.job), self._telling_the_ledger():
            if error is None or isinstance(error, DeliveryError):
                self._finish(entry, delivery, error)
            else:
                self._put_back(entry, delivery, error)

    def put_back(self, entry: Entry, error: Exception) -> None:
        """Let go of a delivery that could not even be opened."""
        with self._telling_the_ledger():
            self._put_back(entry, None, error)

    @contextmanager
    def _telling_the_ledger(self) -> Iterator[None]:
        """If it cannot be told, nothing is lost: the lease ends, and somebody goes on from what is on disk."""
        try:
            yield
        except LostLease as lost:
            self._log.warning("delivery lost", reason=lost.detail)
        except Paused as trouble:
            self._log.error("delivery not settled", reason=trouble.detail)

    def _finish(self, entry: Entry, delivery: Delivery, error: DeliveryError | None) -> None:
        finished = self._ledger.finish(entry, delivery, error)
        if error:
            self._log.error("delivery failed", error=type(error).__name__, reason=error.detail)
        else:
            counts = delivery.counts
            self._log.info(
                "delivery done",
                rows=counts.rows,
                results=counts.results,
                rejected=counts.rejected,
                skipped=counts.skipped,
            )
        self.put_away(finished)

    def _put_back(self, entry: Entry, delivery: Delivery | None, error: Exception) -> None:
        if isinstance(error, LostLease):
            raise error
        hold_off = self._hold_off(entry, error)
        self._ledger.put_back(entry, delivery, error, hold_off=hold_off)
        if isinstance(error, Stopping):
            self._log.info("delivery left for the next start")
            return
        where = {} if isinstance(error, WorkerError | OSError) else {"where": log.location(error)}
        facts = {"error": type(error).__name__, "reason": sentence(error), "seconds": round(hold_off, 1)}
        self._log.warning("delivery waits", **facts, **where)

    def _hold_off(self, entry: Entry, error: Exception) -> float:
        if isinstance(error, Stopping):
            return 0.0
        asked = error.retry_after if isinstance(error, Unavailable) else None
        if isinstance(error, LeftAlone) and asked:  # nothing was tried: how often this delivery came is no matter
            return asked
        backoff = min(HOLD_OFF_MAX, 2.0 ** min(entry.attempts, 10))
        return max(asked or 0.0, backoff * (0.75 + self._jitter() / 2))

    def put_away(self, entry: Entry) -> None:
        """The last steps of a finished delivery; where they fail, the end stands, and they are tried again later."""
        try:
            self._clear(entry)
            if entry.state == "failed":
                self._to_failed(entry)
            elif self._folders.input(entry).exists() and entry.trigger == "inbox":
                self._move(entry, self._folders.archive, entry.source)
        except OSError as error:
            detail = f"it is finished, but its file cannot be put away: {sentence(error)}"
            self._log.error("file not put away", reason=sentence(error))
            self._ledger.hold(entry, detail=detail, hold_off=HOLD_OFF_MAX)
            return
        over = self._folders.input(entry).parent if entry.state == "failed" else self._folders.of(entry)
        shutil.rmtree(over, ignore_errors=True)  # a failed delivery keeps its part file for a retry
        self._ledger.put_away(entry)

    def _to_failed(self, entry: Entry) -> None:
        source, folder, name = self._folders.input(entry), self._folders.failed, entry.source
        if not source.exists():
            return
        ours = (folder / name).exists() and (folder / name).samefile(source)  # a crash came in the middle of the move
        if not ours and ((folder / name).exists() or _told(folder / f"{name}.error.json") not in (None, entry.id)):
            name = files.with_id(name, entry.id)
        reason = folder / f"{name}.error.json"
        try:
            files.write(reason, exact_json.dumps(_reason(entry)) + b"\n", _by(entry))
        except FileExistsError:
            if _told(reason) != entry.id:  # another one took the name just now: look again later
                raise
        self._move(entry, folder, name)

    def _move(self, entry: Entry, folder: Path, name: str) -> None:
        """A copy to another file system may take long: it has a hidden name of its owner's own, which the next owner
        removes, and nobody gives it its name who has lost the delivery meanwhile."""
        guard = partial(self._ledger.guard, entry)
        files.put_away(self._folders.input(entry), folder, name, entry.id, _by(entry), guard)

    def _clear(self, entry: Entry) -> None:
        """Remove what earlier owners left half written."""
        names = (entry.source, files.with_id(entry.source, entry.id))
        for name, version in product(names, range(1, entry.version)):
            files.hidden(self._folders.archive / name, _by(entry, version)).unlink(missing_ok=True)
            for half in (name, f"{name}.error.json"):
                files.hidden(self._folders.failed / half, _by(entry, version)).unlink(missing_ok=True)

    def reopen(self, entry: Entry) -> bool:
        """Put a failed delivery back among the waiting; False if it did not fail, or its file is gone from failed/."""
        if entry.state != "failed":
            return False
        source = self._folders.input(entry)
        for name in (files.with_id(entry.source, entry.id), entry.source):
            place, reason = self._folders.failed / name, self._folders.failed / f"{name}.error.json"
            told = _told(reason)
            if told not in (None, entry.id):
                continue
            if place.exists() and (told or not source.exists()):
                files.private_folder(source.parent)
                files.move(place, source)
            reason.unlink(missing_ok=True)
        return source.exists() and self._ledger.reopen(entry)


def _by(entry: Entry, version: int | None = None) -> str:
    """Who writes: every owner of a delivery has another version of it."""
    return f"{entry.id}.{version or entry.version}"


def _reason(entry: Entry) -> dict[str, object]:
    failed = datetime.fromtimestamp(entry.finished or entry.created, UTC)
    return {
        "delivery": entry.id,
        "job": entry.job,
        "source": entry.source,
        "error": entry.error,
        "detail": entry.detail,
        "attempts": entry.attempts,
        "failed": failed.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _told(reason: Path) -> str | None:
    """The delivery that an error.json tells of: None if there is no such file, "" if it says nothing of the kind."""
    try:
        return str(exact_json.loads(reason.read_bytes())["delivery"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return ""
