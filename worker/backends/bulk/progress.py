"""How far an export has come: on disk, in the folder of the delivery that asked for it, to survive the worker."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from worker import exact_json, files
from worker.backends.bulk.manifest import File, Manifest


class Progress:
    """One export: where its status is told, then its manifest, and each file as soon as it is whole.

    Each appears whole or not at all, and nothing is changed afterwards: what is there need not be asked for again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by = secrets.token_hex(4)  # a worker that lost the delivery may still be writing

    def begin(self) -> None:
        """Make the folder; what an earlier attempt left half written is removed."""
        files.durable_folder(self._folder)
        for part in self._folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    @property
    def status(self) -> str:
        """The URL that tells how far the server is; "" where nothing was begun yet."""
        return str(self._read("status.json") or "")

    @status.setter
    def status(self, url: str) -> None:
        self._write("status.json", url)

    @property
    def manifest(self) -> Manifest | None:
        """What the server has made; None where it was not done yet."""
        found = self._read("manifest.json")
        return Manifest.from_json(found) if found else None

    @manifest.setter
    def manifest(self, manifest: Manifest) -> None:
        self._write("manifest.json", manifest.as_json())

    @property
    def is_over(self) -> bool:
        """Whether the server was told that its files are not needed any more."""
        return bool(self._read("over.json"))

    def end(self) -> None:
        """The server was told."""
        self._write("over.json", data=True)

    def path(self, number: int) -> Path:
        """Where the manifest's file of that number is, or will be."""
        return self._folder / f"{number}.ndjson"

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
        manifest = self.manifest
        return [each for each in enumerate(manifest.files) if each[1].kind == kind] if manifest else []

    def forget(self) -> None:
        """As if nothing had been begun."""
        shutil.rmtree(self._folder)
        self.begin()

    def _read(self, name: str) -> Any:
        try:
            return exact_json.loads((self._folder / name).read_bytes())
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: Any) -> None:
        files.write(self._folder / name, exact_json.dumps(data), self._by)
