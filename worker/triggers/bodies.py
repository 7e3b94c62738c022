"""From a message's body to its rows: a JSON object is one, a JSON array and CSV are many."""

from __future__ import annotations

import io
import json
import re
import zlib
from codecs import BOM_UTF8  # may be passed over (RFC 8259 section 8.1)
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from worker import exact_json, tables
from worker.errors import DeliveryError, Reject
from worker.records import Chunk, Outcome, Reading, Row

_JSON = {"", "application/json", "text/json", "application/fhir+json"}
_CSV = {"text/csv", "application/csv"}
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# Those of text that is not folded: where AMQP has the encoding of the content, Spring and kombu write its charset.
_UNFOLDED = {"", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary"}
_PIECE = 2**13  # of a folded body: what comes after a part's end is copied, for each of perhaps a million parts
_SPACE = re.compile(r"[ \t\r\n]*")
_WHITE = b" \t\r\n"


@dataclass(slots=True)
class Body:
    """What came as a message, with its content type (parameters are ignored) and content encoding.

    All methods raise ``DeliveryError`` for what is no such thing; its text quotes nothing of the body.
    """

    data: bytes
    content_type: str = ""
    content_encoding: str = ""
    _form: Literal["", "table", "array", "object"] = ""

    @property
    def is_small(self) -> bool:
        """Whether it is one row that need not be unfolded first."""
        return not self._folded and self.form == "object"

    def unfolded(self, limit: int) -> Body:
        """Without its content encoding, at most ``limit`` bytes."""
        encoding = self._folded
        if not encoding:
            return self
        if encoding not in _WINDOW:
            raise DeliveryError(
                f"its content encoding is {_shown(encoding)}; send it as it is, or with gzip or deflate"
            )
        try:
            return Body(_unfold(self.data, _WINDOW[encoding], limit), self.content_type)
        except zlib.error as error:
            raise DeliveryError(f"its body is no {encoding} data, or damaged; send it again") from error

    @property
    def _folded(self) -> str:
        """How it is folded, "" if it is not."""
        encoding = self.content_encoding.strip().lower() if self.content_encoding else ""
        return "" if encoding in _UNFOLDED else encoding

    @property
    def _json(self) -> bytes:
        return self.data.removeprefix(BOM_UTF8)

    @property
    def form(self) -> Literal["table", "array", "object"]:
        """How its rows stand in it."""
        if not self._form:
            self._form = self._look()
        return self._form

    def _look(self) -> Literal["table", "array", "object"]:
        is_table = self.content_type not in _JSON and _is_table(self.content_type)  # the usual ones are spared the rest
        first = self._json.lstrip(_WHITE)[:1]
        if not first:
            raise DeliveryError("its body is empty; send a JSON object, a JSON array, or CSV with a header")
        if is_table:
            return "table"
        return "array" if first == b"[" else "object"

    def read(self, reading: Reading) -> Iterator[Chunk]:
        """Its rows."""
        form = self.form
        if form == "table":
            return tables.read(Path("message.csv"), reading, io.BytesIO(self.data))
        return self._array(reading) if form == "array" else iter([self._object()])

    def _object(self) -> Chunk:
        try:
            value = exact_json.loads(self._json)
        except ValueError:
            raise _not_json(self._json) from None
        if not isinstance(value, dict):
            raise DeliveryError("its body is a single JSON value; send a JSON object, or a JSON array of them")
        row = Row(value, 0, 1)
        rows = [row]
        return Chunk(0, tuple(row), rows, [], lambda: tables.frame_of(rows))

    def _array(self, reading: Reading) -> Iterator[Chunk]:
        try:
            text = self._json.decode()
            for _ in _elements(text):  # all of it, before any backend hears of it
                pass
        except (ValueError, RecursionError):
            raise _not_json(self._json) from None
        found = _elements(text)
        start = 0
        while values := list(islice(found, reading.chunk_rows)):
            yield _chunk(start, values)
            start += len(values)


def _is_table(content_type: str) -> bool:
    named = content_type.partition(";")[0].strip().lower()
    if named in _CSV:
        return True
    if named in _JSON or named.endswith("+json"):
        return False
    raise DeliveryError(f"its content type is {_shown(named)}; send application/json or text/csv")


def _unfold(data: bytes, window: int, limit: int) -> bytes:
    unfolded, rest = bytearray(), memoryview(data)
    while rest:  # gzip data may consist of several parts
        unpacker = zlib.decompressobj(window)
        while not unpacker.eof:
            if not rest:
                raise DeliveryError("its compressed body is cut off; send it again")
            piece = rest[:_PIECE]
            unfolded += unpacker.decompress(piece, limit + 1 - len(unfolded))
            if len(unfolded) > limit:
                raise DeliveryError(f"its body unfolds to more than {limit} bytes; send fewer rows at once")
            rest = rest[len(piece) - len(unpacker.unused_data) :]
    return bytes(unfolded)


def _chunk(start: int, values: list[Any]) -> Chunk:
    rows, wrong = [], []
    for index, value in enumerate(values, start):
        if isinstance(value, dict):
            rows.append(Row(value, index=index, line=index + 1))
        else:
            wrong.append(Outcome(index, index + 1, error=Reject.__name__, detail="the row is no JSON object"))
    columns = tuple(rows[0]) if rows else ()
    return Chunk(start, columns, rows, wrong, partial(tables.frame_of, rows))


def _not_json(data: bytes) -> DeliveryError:
    return DeliveryError(f"its body {exact_json.fault(data)}; correct it, or say in its content type what it is")


def _elements(text: str) -> Iterator[Any]:
    """The values of a JSON array, one after the other; raises ``ValueError``."""
    at = _space(text, _space(text, 0) + 1)
    if text[at : at + 1] == "]":
        at += 1
    else:
        while True:
            value, at = exact_json.read_value(text, at)
            yield value
            at = _space(text, at)
            if text[at : at + 1] != ",":
                break
            at = _space(text, at + 1)
        if text[at : at + 1] != "]":
            raise json.JSONDecodeError("no end", "", 0)
        at += 1
    if _space(text, at) != len(text):
        raise json.JSONDecodeError("more than an array", "", 0)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _shown(name: str) -> str:
    """What a sender wrote, if it looks like a name: it might hold anything."""
    return name if re.fullmatch(r"[a-z0-9.+/_-]{1,80}", name) else "one that is not known"
