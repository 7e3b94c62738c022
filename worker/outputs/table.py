"""Results and rejects as files: outcomes in any order go in, rows in input order come out."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from worker import exact_json, files
from worker.records import Outcome

REJECT_COLUMNS = ("_line", "_error", "_detail")
_PIECE = 2**18  # bytes
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Indexed(Protocol):
    """Something with a place in the order."""

    @property
    def index(self) -> int:
        """Counted from 0."""


T = TypeVar("T", bound=Indexed)


class InOrder(Generic[T]):
    """Gives things back in the order of their index: holds those whose turn has not come."""

    def __init__(self) -> None:
        self._waiting: dict[int, T] = {}
        self._next = 0

    def push(self, things: Iterable[T]) -> list[T]:
        """Take some; gives back those whose turn it is now."""
        waiting, ready = self._waiting, []
        for thing in things:
            waiting[thing.index] = thing
        while (thing_next := waiting.pop(self._next, None)) is not None:
            self._next += 1
            ready.append(thing_next)
        return ready

    def __contains__(self, index: int) -> bool:
        return index < self._next or index in self._waiting

    @property
    def empty(self) -> bool:
        """Whether nothing waits for one that has not come."""
        return not self._waiting


class OutputFile:
    """A file of the outbox that nobody sees yet: counts its records and bytes, and knows its SHA-256.

    Written piece by piece: whoever writes or hashes gives up Python's lock, and waits for it among all threads of rows.
    """

    def __init__(self, target: Path, by: str) -> None:
        self.target = target
        self.rows = 0
        self._bytes = 0
        self._digest = hashlib.sha256()
        self._hidden = files.hidden(target, by)
        self._file = self._hidden.open("xb")
        self._piece: list[bytes] = []
        self._unwritten = 0

    def write(self, data: bytes, rows: int) -> None:
        """Append whole records."""
        self._piece.append(data)
        self._unwritten += len(data)
        self.rows += rows
        if self._unwritten >= _PIECE:
            self._write_piece()

    def _write_piece(self) -> None:
        data = b"".join(self._piece)
        with files.named(self._hidden):
            self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)
        self._piece, self._unwritten = [], 0

    def describe(self) -> dict[str, Any]:
        """Its line in the manifest."""
        return {
            "name": self.target.name,
            "sha256": self._digest.hexdigest(),
            "bytes": self._bytes,
            "rows": self.rows,
        }

    def close(self) -> None:
        """Make it durable, still hidden."""
        if not self._file.closed:
            self._write_piece()
            with files.named(self._hidden):
                files.sync(self._file)
                self._file.close()

    def discard(self) -> None:
        """Remove it."""
        self._hidden.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk does not take the rest, which nobody wants
            self._file.close()


class Results:
    """The results' shape, found out from the first rows: a CSV with their columns, or FHIR resources as NDJSON.

    ``columns`` are the job's own list or, once learnt, the union of the first results' keys; () for NDJSON.
    """

    def __init__(self, columns: Sequence[str] | None, *, spreadsheet_safe: bool) -> None:
        self.known = bool(columns)
        self.columns = tuple(columns or ())
        self._columns = set(self.columns)
        self.resources = False
        self._declared = bool(columns)
        self._safe = spreadsheet_safe

    def learn(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Take the shape from the first rows' results; the very first decides between CSV and NDJSON."""
        columns: dict[str, None] = {}
        for position, result in enumerate(results):
            resource = self._is_resource(result)
            if not position:
                self.resources = resource
            if not resource and not self.resources:
                columns |= dict.fromkeys(result)
        self.known, self.columns, self._columns = True, tuple(columns), set(columns)

    def misfit(self, results: Iterable[Mapping[str, Any]]) -> str:
        """Why a row's results cannot stand in this file, if so: nothing is ever dropped in silence."""
        for result in results:
            if (self.resources or not result.keys() <= self._columns) and (why := self._misfit(result)):
                return why
        return ""

    def _misfit(self, result: Mapping[str, Any]) -> str:
        if self.resources != self._is_resource(result):
            return "FHIR resources and plain results cannot stand in one file"
        if self.resources:
            return ""
        strange = ", ".join(repr(key) for key in result if key not in self.columns)
        if self._declared:
            return f"the result has a column that is not among the job's columns: {strange}; add it there"
        return f"the result has a column that the first rows did not have: {strange}; list all in @job(columns=[...])"

    def _is_resource(self, result: Mapping[str, Any]) -> bool:
        return "resourceType" in result and not self._declared

    @property
    def suffix(self) -> str:
        """``.csv`` or ``.ndjson``."""
        return ".ndjson" if self.resources else ".csv"

    def header(self) -> bytes:
        """The CSV's first line; empty for NDJSON, and where no result ever named a column."""
        return csv_lines([self.columns]) if self.columns else b""

    def render(self, results: Sequence[Mapping[str, Any]]) -> bytes:
        """Some results as lines of the file."""
        if self.resources:
            return b"".join(exact_json.dumps(result) + b"\n" for result in results)
        if self._safe:
            return csv_lines([*map(_safe_cell, map(result.get, self.columns))] for result in results)
        rows = (map(result.get, self.columns) for result in results)
        return csv_lines([value if type(value) is str else cell(value) for value in row] for row in rows)


def render_rejects(outcomes: Iterable[Outcome], columns: Sequence[str]) -> bytes:
    """Rejected rows as they came, with the line and the reason behind them."""
    return csv_lines([*map(cell, map(o.row.get, columns)), str(o.line), o.error, o.detail] for o in outcomes)


def cell(value: Any) -> str:
    """A JSON value as the text of a CSV field: strings and numbers as they are, nothing for null, JSON for the rest."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    return exact_json.dumps(value).decode()


def _safe_cell(value: Any) -> str:
    """The same, for a spreadsheet: text that it would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else cell(value)


def csv_lines(rows: Iterable[Sequence[str]]) -> bytes:
    """RFC 4180 with UTF-8 and bare line feeds."""
    rows = list(rows)
    text = _written(rows, csv.QUOTE_MINIMAL)
    if "\r" in text:  # Python's writer takes a lone carriage return for an ordinary character; most readers do not
        text = "".join(_written([row], csv.QUOTE_ALL if "\r" in "".join(row) else csv.QUOTE_MINIMAL) for row in rows)
    return text.encode()


def _written(rows: Iterable[Sequence[str]], quoting: Literal[0, 1]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue()
