"""How far an export has come: on disk, in the folder of the delivery that asked for it, to survive the worker."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from worker import exact_json, files
from worker.backends.bulk.manifest import File, Manifest

_BEGUN = "status.json"


class Progress:
    """One export: where its status is told, then its manifest, and each file as soon as it is whole.

    Each appears whole or not at all, and nothing is changed afterwards: what is there need not be asked for again. What
    belongs to one beginning has a folder of its own, which only ``status.json`` names: once that is gone, nothing of it
    can be taken for a part of the next, whoever dies meanwhile, or still writes although he has lost the delivery.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by = secrets.token_hex(4)  # a worker that lost the delivery may still be writing
        self._status, self._own = "", folder
        self._manifest: Manifest | None = None

    def begin(self) -> None:
        """Look for what an earlier attempt has left."""
        files.durable_folder(self._folder)
        self._look()

    def tidy(self) -> None:
        """Remove what an earlier attempt has left half written; for whoever has the delivery."""
        for part in self._folder.rglob(".*.part"):
            part.unlink(missing_ok=True)

    def _look(self) -> None:
        self._status, own = self._begun()
        self._own = self._folder / own
        self._manifest = self._kept()

    def _begun(self) -> tuple[str, str]:
        """The URL, and the name of the folder of all that belongs to it."""
        status, own = _read(self._folder / _BEGUN) or ("", "")
        return status, own

    def _kept(self) -> Manifest | None:
        found = _read(self._own / "manifest.json")
        return Manifest.from_json(found) if found else None

    @property
    def status(self) -> str:
        """The URL that tells how far the server is; "" where nothing was begun yet."""
        return self._status

    @status.setter
    def status(self, url: str) -> None:
        own = secrets.token_hex(4)
        files.durable_folder(self._folder / own)
        self._write(self._folder / _BEGUN, [url, own])
        self._look()

    @property
    def age(self) -> float:
        """Seconds since it was begun, by whichever worker."""
        return max(0.0, time.time() - (self._folder / _BEGUN).stat().st_mtime)

    @property
    def manifest(self) -> Manifest | None:
        """What the server has made; None where it was not done yet."""
        return self._manifest

    @manifest.setter
    def manifest(self, manifest: Manifest) -> None:
        self._write(self._own / "manifest.json", manifest.as_json())
        self._manifest = manifest

    @property
    def is_whole(self) -> bool:
        """Whether all files are there, whoever has fetched them."""
        self._manifest = self._manifest or self._kept()
        return self._manifest is not None and all(
            self.path(number).exists() for number in range(len(self._manifest.files))
        )

    @property
    def is_over(self) -> bool:
        """Whether the server was told that its files are not needed any more."""
        return bool(self._status and _read(self._own / "over.json"))

    def end(self) -> None:
        """The server was told."""
        self._write(self._own / "over.json", data=True)

    def path(self, number: int) -> Path:
        """Where the manifest's file of that number is, or will be."""
        return self._own / f"{number}.ndjson"

    @contextmanager
    def writing(self, number: int) -> Iterator[Callable[[bytes], Any]]:
        """Writes a file, which appears at the end."""
        target = self.path(number)
        with files.aside(target, self._by) as file:
            yield file.write
        with suppress(FileExistsError):  # another worker has fetched the same
            files.publish(target, self._by)

    def of_kind(self, kind: str) -> list[tuple[int, File]]:
        """The manifest's files of a kind, by number."""
        manifest = self._manifest
        return [each for each in enumerate(manifest.files) if each[1].kind == kind] if manifest else []

    def forget(self) -> None:
        """As if nothing had been begun; what another worker has begun meanwhile is left to be gone on with."""
        if self._status and self._folder / self._begun()[1] == self._own:
            (self._folder / _BEGUN).unlink(missing_ok=True)
            files.sync_folder(self._folder)
            shutil.rmtree(self._own, ignore_errors=True)
        self._look()

    def failed(self) -> int:
        """One more beginning has come to nothing, by the server's own word; how many have by now."""
        count = len(list(self._folder.glob("failed-*"))) + 1
        self._write(self._folder / f"failed-{count}", data=True)
        return count

    def _write(self, place: Path, data: Any) -> None:
        files.write(place, exact_json.dumps(data), self._by)


def _read(place: Path) -> Any:
    try:
        return exact_json.loads(place.read_bytes())
    except FileNotFoundError:
        return None
