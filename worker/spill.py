"""A tick's rows on disk: asked of their source once, and the same at every attempt.

One JSON object a line, and a last line that says what else has to be kept with them: ``[columns, state,
question]``, all columns that any row has, what the source wants remembered, and the number of the question that it was
asked. The file appears whole, or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from worker import exact_json, files, tables
from worker.errors import DeliveryError
from worker.records import Chunk, Row

COLUMNS_LIMIT = 10_000
CHUNK_BYTES = 16 * 2**20  # very long rows end a chunk before its number of rows does


@dataclass(frozen=True, slots=True)
class Seal:
    """What is known of a complete spill: its digest and size, all rows' columns, the source's state and question."""

    sha256: str
    bytes: int
    columns: tuple[str, ...]
    state: dict[str, Any]
    question: int


class Spill:
    """The file at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(
        self,
        rows: Iterable[Mapping[str, Any]],
        state: Mapping[str, Any],
        *,
        question: int,
        attempt: int,
        guard: Callable[[], None],
    ) -> None:
        """Take all rows, and then what ``state`` has become; ``guard`` is asked before the file appears.

        What earlier attempts left half written is removed.
        """
        for earlier in range(1, attempt):
            files.hidden(self._path, str(earlier)).unlink(missing_ok=True)
        columns: dict[str, None] = {}
        with files.aside(self._path, str(attempt)) as file:
            for row in rows:
                columns |= dict.fromkeys(row)
                if len(columns) > COLUMNS_LIMIT:
                    raise DeliveryError(f"its rows have more than {COLUMNS_LIMIT} columns; give fewer to all of them")
                file.write(line(dict(row)))
            file.write(line([list(columns), dict(state), question]))
            guard()
        files.publish(self._path, str(attempt))

    @property
    def is_there(self) -> bool:
        """Whether the file has appeared."""
        return self._path.exists()

    def seal(self) -> Seal | None:
        """What is known of the rows; None if they are not there, or damaged."""
        digest, size, last = hashlib.sha256(), 0, b""
        try:
            with self._path.open("rb") as file:
                for last in file:
                    digest.update(last)
                    size += len(last)
            end = json.loads(last)  # its numbers as the ledger gives them to a job
        except (FileNotFoundError, ValueError):
            return None
        match end:
            case [list(columns), dict(state), int(question)]:
                return Seal(digest.hexdigest(), size, tuple(columns), state, question)
        return None

    def read(self, chunk_rows: int) -> Iterator[Chunk]:
        """The rows; ``line`` is where one stands in the file. No rows make one chunk of none."""
        start, size = 0, 0
        batch: list[Row] = []
        with self._path.open("rb") as file:
            for text in file:
                values = exact_json.loads(text)
                if isinstance(values, list):  # the last line
                    break
                batch.append(Row(values, start + len(batch), start + len(batch) + 1))
                size += len(text)
                if len(batch) >= chunk_rows or size >= CHUNK_BYTES:
                    yield chunk(start, batch)
                    start, batch, size = start + len(batch), [], 0
        if batch or not start:
            yield chunk(start, batch)


def chunk(start: int, rows: list[Row]) -> Chunk:
    """Consecutive rows as a chunk."""
    return Chunk(
        start, tuple(dict.fromkeys(name for row in rows for name in row)), rows, [], partial(tables.frame_of, rows)
    )


def line(value: Any) -> bytes:
    """A value as a line of JSON; raises ``DeliveryError`` if it has no JSON form."""
    try:
        return exact_json.dumps(value) + b"\n"
    except TypeError as error:
        raise DeliveryError(
            "its source gave a row with a value that has no JSON form; let it give text instead, or None for NaN"
        ) from error
