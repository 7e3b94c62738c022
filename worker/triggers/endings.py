"""Where a delivery that came as a file ends: its source in archive/, or in failed/ beside the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Protocol

from worker import exact_json, files
from worker.records import EXPORTS, Entry


class Ending(Protocol):
    """What becomes of a finished delivery's source."""

    def put_away(self, entry: Entry, guard: Callable[[], None]) -> Path | None:
        """Leave behind what is to stay; returns the folder that is no longer wanted. Raises ``OSError``.

        ``guard`` is asked after what may have taken long, and objects if the delivery is another worker's by then.
        """

    def bring_back(self, entry: Entry) -> bool:
        """Undo the end of a failed delivery; False if its source is gone."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where files come from and go to."""

    inbox: Path
    archive: Path
    failed: Path
    work: Path

    def of(self, entry: Entry) -> Path:
        """A delivery's own folder while it is under way, for its outcomes."""
        return self.work / entry.id

    def input(self, entry: Entry) -> Path:
        """Its claimed file; all of them lie in one folder, whose fsync covers all that came before it."""
        return self.work / f"{entry.id}.{entry.source}"

    def taken(self, entry: Entry) -> Path:
        """Its claimed file while that is still on the inbox's own file system."""
        return self.inbox / f".{entry.id}.{entry.source}.claim"


class FileEnding:
    """The end of a file, in these folders."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def put_away(self, entry: Entry, guard: Callable[[], None]) -> Path | None:
        """Move the source. A failed delivery keeps its part file for a retry, and nothing that was exported for it:
        that is large, full of records, and can be asked for again.

        A copy to another file system may take long: it has a hidden name of its owner's own, which the next owner
        removes, and nobody gives it its name who has lost the delivery meanwhile.
        """
        self._clear(entry)
        source = self._folders.input(entry)
        if entry.state == "failed":
            self._to_failed(entry, source, guard)
            shutil.rmtree(self._folders.of(entry) / EXPORTS, ignore_errors=True)
            return None
        if entry.trigger != "inbox":
            source.unlink(missing_ok=True)
        elif source.exists():
            self._move(entry, self._folders.archive, entry.source, guard)
        return self._folders.of(entry)

    def _clear(self, entry: Entry) -> None:
        """Remove what earlier owners left half written."""
        names = (entry.source, files.with_id(entry.source, entry.id))
        for name, version in product(names, range(1, entry.version)):
            files.hidden(self._folders.archive / name, by(entry, version)).unlink(missing_ok=True)
            for half in (name, f"{name}.error.json"):
                files.hidden(self._folders.failed / half, by(entry, version)).unlink(missing_ok=True)

    def _to_failed(self, entry: Entry, source: Path, guard: Callable[[], None]) -> None:
        folder, name = self._folders.failed, entry.source
        if not source.exists():
            return
        whose = told(folder / f"{name}.error.json")
        ours = (folder / name).exists() and (folder / name).samefile(source)  # a crash came in the middle of the move
        if not ours and whose != entry.id and ((folder / name).exists() or whose is not None):
            name = files.with_id(name, entry.id)
        place = folder / f"{name}.error.json"
        try:
            files.write(place, exact_json.dumps(reason(entry)) + b"\n", by(entry))
        except FileExistsError:
            if told(place) != entry.id:  # another one took the name just now: look again later
                raise
        self._move(entry, folder, name, guard)

    def _move(self, entry: Entry, folder: Path, name: str, guard: Callable[[], None]) -> None:
        source, again = self._folders.input(entry), entry.version > 1
        files.put_away(source, folder, name, entry.id, by=by(entry), guard=guard, again=again)

    def bring_back(self, entry: Entry) -> bool:
        """Move the source of a failed delivery back into its work folder."""
        source = self._folders.input(entry)
        for name in (files.with_id(entry.source, entry.id), entry.source):
            place, why = self._folders.failed / name, self._folders.failed / f"{name}.error.json"
            whose = told(why)
            if whose not in (None, entry.id):
                continue
            if place.exists() and (whose or not source.exists()):
                files.move(place, source)
            why.unlink(missing_ok=True)
        return source.exists()


def by(entry: Entry, version: int | None = None) -> str:
    """Who writes: every owner of a delivery has another version of it."""
    return f"{entry.id}.{version or entry.version}"


def reason(entry: Entry) -> dict[str, object]:
    """What ``error.json`` says of a failed delivery."""
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


def told(place: Path) -> str | None:
    """The delivery that an error.json tells of: None if there is no such file, "" if it says nothing of the kind."""
    try:
        return str(exact_json.loads(place.read_bytes())["delivery"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return ""
