"""An export's files: lines of JSON, looked at as they come, written down, and read again."""

from __future__ import annotations

from codecs import BOM_UTF8  # may be passed over (RFC 8259 section 8.1)
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import requests

from worker import exact_json
from worker.backends.answers import tells_its_end
from worker.backends.bulk.manifest import File
from worker.errors import BackendError, Refused, ServerFault, Unavailable

MOST_BYTES = 2**36
"""Of one file, 64 GiB: what is longer is no file but a trap."""

_PIECE = 2**16


class Fetched:
    """Writes an answer's lines into a file; ``longest`` is how many bytes one may have, ``look`` is called meanwhile.

    What arrives is believed only if it is what the manifest says: every line whole, of that type, and so many of them.
    """

    def __init__(self, file: File, longest: int, look: Callable[[], None]) -> None:
        self._file = file
        self._longest = longest
        self._look = look

    def save(self, backend: str, response: requests.Response, write: Callable[[bytes], Any]) -> None:
        """Take the whole body; raises ``Unavailable`` where it broke off, ``Refused`` for what it must not be."""
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise Unavailable(backend, "answered a web page instead of an export's file (a log-in page?)")
        lines = _Lines(backend, self._file, self._longest, tells_its_end=tells_its_end(response.headers))
        for piece in self._pieces(backend, response):
            self._look()
            lines.take(piece)
            write(piece)
        self._look()  # a body without a length seems whole if the worker's own end has cut it off
        lines.end()

    def _pieces(self, backend: str, response: requests.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_content(_PIECE)
        except requests.RequestException as error:
            self._look()  # it may be the worker's own end that has cut it off
            raise Unavailable(backend, "broke off within an export's file") from error


def read(backend: str, path: Path) -> Iterator[Any]:
    """The resources of a file that was fetched, numbers exact.

    Raises ``Refused`` for one that no number can be as exact as: to look for that in all lines as they come would take
    several times as long.
    """
    with path.open("rb") as file:
        for line in file:
            if text := _text(line):
                yield _exact(backend, text)


def _exact(backend: str, text: bytes) -> Any:
    try:
        return exact_json.loads(text)
    except ValueError:
        raise Refused(backend, f"an export's file has a line that {exact_json.fault(text)}") from None


def _text(line: bytes) -> bytes:
    """Without what may stand around it, and the mark that some write at a file's beginning."""
    return line.removeprefix(BOM_UTF8).strip()


class _Lines:
    """Looks at each line; ``tells_its_end``: that all have come is known without looking at them."""

    def __init__(self, backend: str, file: File, longest: int, *, tells_its_end: bool) -> None:
        self._backend = backend
        self._file = file
        self._longest = longest
        self._tells_its_end = tells_its_end
        self._rest: list[bytes] = []
        self._pending = 0
        self._bytes = 0
        self._count = 0

    def take(self, piece: bytes) -> None:
        self._bytes += len(piece)
        first, *others = piece.split(b"\n")
        for line in others:
            self._check(b"".join([*self._rest, first]))
            self._rest, self._pending, first = [], 0, line
        self._rest.append(first)
        self._pending += len(first)
        if self._pending > self._longest or self._bytes > MOST_BYTES:
            raise self._refused(f"has more than {self._longest} bytes in a line, or {MOST_BYTES} in all")

    def end(self) -> None:
        """There is no more: the last line need not have an end, if it is whole."""
        self._check(b"".join(self._rest))
        if not self._bytes and not self._tells_its_end:
            raise self._broken("has no end, nor a beginning")
        promised = self._file.count
        if promised is not None and self._count < promised:
            raise self._broken(f"has {self._count} of the {promised} lines that the manifest counts")

    def _check(self, line: bytes) -> None:
        if not (text := _text(line)):
            return
        self._count += 1
        if self._file.count is not None and self._count > self._file.count:
            raise self._refused(f"has more than the {self._file.count} lines that the manifest counts")
        try:
            resource = orjson.loads(text)
        except ValueError as error:
            raise self._broken(f"has a line that is cut or no JSON, number {self._count}") from error
        if not isinstance(resource, dict) or resource.get("resourceType") != self._file.type:
            raise self._refused(f"has something else in line {self._count}")

    def _refused(self, what: str) -> BackendError:
        return Refused(self._backend, f"an export's file of {self._file.type} {what}")

    def _broken(self, what: str) -> BackendError:
        """It may be whole the next time: it has broken off, or else the server has made it so."""
        kind = ServerFault if self._tells_its_end else Unavailable
        return kind(self._backend, f"an export's file of {self._file.type} {what}")
