"""Deliveries without a trigger, and outcomes without a job."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from worker import exact_json
from worker.records import Chunk, Delivery, Input, Meter, Outcome, Row

DIGEST = "ab" * 32
STARTED = datetime(2026, 11, 23, 2, 0, 0, tzinfo=UTC)


def delivery(folder: Path = Path(), chunks: Iterable[Chunk] = (), **changes) -> Delivery:
    """A first attempt at ``clients.csv``."""
    values = {
        "id": "3f9a1c2b",
        "trigger": "inbox",
        "source": "clients.csv",
        "input": Input("clients.csv", DIGEST, 1234),
        "folder": folder,
        "attempts": 1,
        "started": STARTED.timestamp(),
        "read": lambda reading: iter(chunks),
        "guard": lambda: None,
        "settle": lambda error: None,
        "meter": Meter(),
    }
    return Delivery(**{**values, **changes})


def result(index: int, *results: object) -> Outcome:
    """A result row of line ``index + 2``; skipped where no results are given."""
    return Outcome(index, index + 2, exact_json.dumps(list(results)), row={"id": str(index)})


def rejection(index: int, detail: str = "no", **row: str) -> Outcome:
    return Outcome(index, index + 2, error="Reject", detail=detail, row=row or {"id": str(index)})


def chunk(start: int, size: int) -> Chunk:
    """``size`` good rows with one column, ``id``, which is the row's index."""
    rows = [Row({"id": str(index)}, index=index, line=index + 2) for index in range(start, start + size)]
    return Chunk(start, ("id",), rows, [], lambda: None)
