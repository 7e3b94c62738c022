"""From a CSV file to rows, chunk by chunk, with memory that does not grow with the file; and back from frames."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from worker.decoding import open_text, shown
from worker.errors import DeliveryError, Reject
from worker.lines import Header, Lines, Record, fields, read_header, records
from worker.records import Chunk, Outcome, Reading, Row

CHUNK_CHARACTERS = 16 * 2**20  # very long rows end a chunk before its number of rows does

_REJECTS = ["_line", "_error", "_detail"]  # what a rejects file has behind the original columns
_REJECTS_SUFFIX = ".rejected.csv"  # UTF-8, and a delimiter of its own, whatever the file was that its rows came from


def read(path: Path, reading: Reading, opened: BinaryIO | None = None) -> Iterator[Chunk]:
    """The rows of a CSV file as strings exactly as written, in chunks of ``reading.chunk_rows``, wrong ones included.

    A header alone makes one chunk of no rows. A row that is not well-formed or not decodable becomes a rejected
    outcome. Reads ``opened`` where given, once from start to end, and closes it; one that counts or hashes what it
    hands out says that it is not seekable, as a gzip file is read twice. A rejects file is read as it was written,
    without its ``_line``, ``_error`` and ``_detail``. Raises ``DeliveryError`` if the file cannot be read as CSV.
    """
    if path.name.endswith(_REJECTS_SUFFIX):
        reading = replace(reading, encoding=None, delimiter=None)
    with open_text(path, opened, reading.encoding) as text:
        lines = Lines(text)
        header = read_header(lines, reading.delimiter)
        columns = _columns(header)
        start = 0
        for batch in _batches(records(lines, header.delimiter, len(header.names)), reading.chunk_rows):
            yield _chunk(start, batch, header, columns)
            start += len(batch)
        if not start:
            yield _chunk(0, [], header, columns)


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """A frame of rows that came as JSON, indexed by line, like a file's; values are as JSON gave them."""
    index = pd.Index([row.line for row in rows], dtype="int64", name="line")
    return pd.DataFrame([dict(row) for row in rows], index=index, dtype=object)


def frame_rows(frame: object, lines: Collection[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a job's frame says of the given input lines, as plain Python values, with None for what is missing.

    A line may come several times or not at all. Raises ``DeliveryError`` if the frame's index or columns cannot be
    told apart.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DeliveryError(f"a job with frame=True must give back a DataFrame, not a {type(frame).__name__}")
    columns = [str(name) for name in frame.columns]
    _refuse_repeated(columns, "the job's frame")
    index = frame.index.tolist()
    unknown = len(set(index).difference(lines))
    if unknown:
        raise DeliveryError(
            f"the job's frame has {unknown} index values that are no lines of its input; keep the frame's index "
            "(no reset_index, and ignore_index=False), as it says which row a result belongs to"
        )
    cells = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    for line, values in zip(index, cells, strict=True):
        yield int(line), dict(zip(columns, map(_plain, values), strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime(warn=False)
    return value


def _columns(header: Header) -> tuple[str, ...]:
    names = header.names
    if names[-3:] == _REJECTS and len(names) > 3:  # of a file that may have had columns of these names itself
        names = names[:-3]
    unnamed = [str(position) for position, name in enumerate(names, 1) if not name.strip()]
    if unnamed:
        raise DeliveryError(f"the header has no name for column {', '.join(unnamed)} of {len(names)}; name each column")
    _refuse_repeated(names, "the header")
    return tuple(names)


def _refuse_repeated(names: Iterable[str], where: str) -> None:
    """By position, not by name: the first line of a file without a header is a record."""
    names = list(names)
    times = Counter(names)
    repeated = [str(position) for position, name in enumerate(names, 1) if times[name] > 1]
    if repeated:
        what = f"{where} gives columns {', '.join(repeated)} of {len(names)} a name that another has, too"
        raise DeliveryError(f"{what}; give each a name of its own")


def _batches(found: Iterable[Record], rows: int) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in found:
        batch.append(record)
        size += len(record.text)
        if len(batch) >= rows or size >= CHUNK_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _chunk(start: int, batch: list[Record], header: Header, columns: tuple[str, ...]) -> Chunk:
    good = [(index, record) for index, record in enumerate(batch, start) if not record.fault]
    wrong = [_rejected(index, record, header, columns) for index, record in enumerate(batch, start) if record.fault]
    # Not by way of a frame: the csv module needs half the time for a thousand rows, and a hundredth for one.
    fields_of_each = csv.reader((record.text for _, record in good), delimiter=header.delimiter, strict=True)
    rows = [
        Row(zip(columns, values, strict=False), index=index, line=record.line)
        for (index, record), values in zip(good, fields_of_each, strict=True)
    ]
    return Chunk(start, columns, rows, wrong, partial(_frame, [record for _, record in good], header, columns))


def _frame(good: list[Record], header: Header, columns: tuple[str, ...]) -> pd.DataFrame:
    # The header goes along, because pandas would take a U+FEFF at the very start for a byte order mark.
    frame = pd.read_csv(
        io.StringIO("".join((header.text, *(record.text for record in good)))),
        sep=header.delimiter,
        header=0,
        names=range(len(header.names)),
        usecols=range(len(columns)),
        index_col=False,
        dtype=object,
        na_filter=False,
        skip_blank_lines=False,
        low_memory=False,
    )
    frame.columns = pd.Index(columns, dtype=object)
    frame.index = pd.Index([record.line for record in good], dtype="int64", name="line")
    return frame


def _rejected(index: int, record: Record, header: Header, columns: tuple[str, ...]) -> Outcome:
    found = fields(shown(record.text), header.delimiter)
    last = len(header.names) - 1
    values = [*found[:last], header.delimiter.join(found[last:])]
    values += [""] * (len(columns) - len(values))
    row = dict(zip(columns, values, strict=False))
    return Outcome(index, record.line, error=Reject.__name__, detail=record.fault, row=row)
