"""What a server says that it has made (Bulk Data Access IG 2.0.0, "Response - Complete Status")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urljoin

from worker.errors import Refused
from worker.http_terms import origin_of

Kind = Literal["output", "deleted", "error"]

_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_TYPES: dict[Kind, str] = {"output": "", "deleted": "Bundle", "error": "OperationOutcome"}


@dataclass(frozen=True, slots=True)
class File:
    """One file of an export: lines of JSON, each a resource of the type.

    ``count`` is how many the server says there are, None if it says nothing; ``public``: no token is needed for it.
    """

    kind: Kind
    type: str
    url: str
    count: int | None
    public: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """An export that is done: its files, and the server's time of it (``transactionTime``), as it is written there.

    ``next`` is where the manifest goes on, "" at its end (IG 3.0.0 has such links).
    """

    time: str
    files: tuple[File, ...]
    next: str = ""

    @classmethod
    def read(cls, backend: str, parsed: Any, url: str, types: Sequence[str]) -> Manifest:
        """The manifest that was found at ``url``; raises ``Refused`` for one that cannot be believed or followed."""
        reader = _Reader(backend, parsed, url)
        files = _each_once(reader.files())
        if others := sorted({file.type for file in files if file.kind == "output"} - set(types or _all(files))):
            raise Refused(
                backend, f"was asked to export {', '.join(types)} only, and exported {', '.join(others)}, too"
            )
        return cls(reader.time(), files, reader.next())

    @classmethod
    def from_json(cls, parsed: Any) -> Manifest:
        """What ``as_json`` has made."""
        return cls(parsed["time"], tuple(File(**each) for each in parsed["files"]))

    def as_json(self) -> dict[str, Any]:
        """All of it but ``next``."""
        return {"time": self.time, "files": [asdict(each) for each in self.files]}

    def joined(self, more: Manifest) -> Manifest:
        """This one and what follows it; the earlier time counts, so that nothing is lost in between."""
        first = min(self.time, more.time, key=datetime.fromisoformat)
        return replace(self, time=first, files=_each_once(self.files + more.files))


def _each_once(files: Iterable[File]) -> tuple[File, ...]:
    """Servers list a file again, say on the next page: its resources must not be given twice."""
    return tuple({(file.kind, file.url): file for file in files}.values())


def _all(files: Sequence[File]) -> set[str]:
    return {file.type for file in files}


class _Reader:
    """Takes a manifest apart."""

    def __init__(self, backend: str, parsed: Any, url: str) -> None:
        if not isinstance(parsed, dict) or parsed.get("resourceType"):
            raise Refused(backend, "answered the end of an export with something that is no manifest")
        self._backend = backend
        self._given = parsed
        self._url = url
        # What is not said plainly is not public: then no other origin is asked.
        self._public = parsed.get("requiresAccessToken") is False

    def time(self) -> str:
        given = self._given.get("transactionTime")
        try:
            if datetime.fromisoformat(str(given)).tzinfo:
                return str(given)
        except ValueError:
            pass
        raise self._wrong("a transactionTime with a time zone")

    def next(self) -> str:
        links = self._list("link")
        return next((self._joined(link) for link in links if link.get("relation") == "next"), "")

    def files(self) -> Iterator[File]:
        for kind, of in _TYPES.items():
            for item in self._list(kind):
                yield self._file(kind, of or item.get("type"), item)

    def _file(self, kind: Kind, type_: Any, item: dict[str, Any]) -> File:
        url, count = self._joined(item), item.get("count")
        if not isinstance(type_, str) or not _TYPE.fullmatch(type_):
            raise self._wrong("a type for each file")
        if not self._public and origin_of(url) != origin_of(self._url):
            what = "an export's file is on another origin, which gets no token (requiresAccessToken is not false)"
            raise Refused(self._backend, what)
        return File(kind, type_, url, count if type(count) is int and count >= 0 else None, self._public)

    def _joined(self, item: dict[str, Any]) -> str:
        given = item.get("url")
        try:
            if isinstance(given, str) and given:
                origin_of(url := urljoin(self._url, given))
                return url
        except ValueError:
            pass
        raise self._wrong("an http URL for each file and link")

    def _list(self, name: str) -> list[dict[str, Any]]:
        given = self._given.get(name)
        if given is None and name != "output":  # an export of nothing says so
            return []
        if isinstance(given, list) and all(isinstance(each, dict) for each in given):
            return given
        raise self._wrong(f"a list of {name}")

    def _wrong(self, what: str) -> Refused:
        return Refused(self._backend, f"answered with an export's manifest without {what}")
