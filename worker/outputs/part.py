"""The part file: a delivery's outcomes while it is under way, and the journal that the next attempt goes on from.

One JSON array a line, in order of completion, so that after kill -9 only the rows in flight are run again, even where a
slow row holds back the ones behind it:

    [index, line, results]                            a result, or (no results) a skipped row
    [index, line, results, error, detail, row]        a rejection, or a result that may still turn into one
    {"calls": {...}, "token_requests": 1, "state": {...}}
                                                      what was sent, and what the job wants remembered, up to here

A line is written at once and fsynced some rows later. Each attempt has a file of its own, which begins with what is
whole in the one before, so that a worker that was only slow, and has lost the delivery, writes where nobody reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from worker import exact_json, files
from worker.records import Meter, Outcome

SYNC_SECONDS = 1.0


class PartFile:
    """Append-only and durable; ``recover`` comes first, and all of it."""

    def __init__(
        self,
        folder: Path,
        attempt: int,
        meter: Meter,
        state: dict[str, Any],
        *,
        sync_rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = folder / f"outcomes-{attempt}.part"
        self._attempt = attempt
        self._meter = meter
        self._state = state
        self._noted = self._facts()
        self._sync_rows = sync_rows
        self._clock = clock
        self._unsynced, self._synced_at = 0, clock()
        self._file: BinaryIO | None = None
        self._named = False  # whether its name is durable, too

    def recover(self) -> Iterator[Outcome]:
        """The outcomes of earlier attempts; what they sent is added to the meter, what they remembered to the state."""
        files.private_folder(self._path.parent)
        left = {int(path.stem.rpartition("-")[2]): path for path in self._path.parent.glob("outcomes-*.part")}
        if left:
            yield from self._begin_with(left[max(left)])
        self._file = self._path.open("ab", buffering=0)
        for attempt, path in left.items():
            if attempt < self._attempt:
                path.unlink(missing_ok=True)

    def _begin_with(self, earlier: Path) -> Iterator[Outcome]:
        facts: dict[str, Any] = {}
        with files.aside(self._path) as fresh:
            for line, entry in _whole_lines(earlier):
                fresh.write(line)
                if isinstance(entry, dict):
                    facts = json.loads(line)  # its numbers as the ledger would give them to the job
                else:
                    yield _outcome(*entry)
        files.hidden(self._path).replace(self._path)
        self._meter.add(facts.get("calls", {}), facts.get("token_requests", 0))
        self._state.update(facts.get("state", {}))

    def append(self, outcomes: Iterable[tuple[Outcome, bool]]) -> None:
        """Write outcomes at once, each with its row where the flag says so."""
        lines = [_line(outcome, with_row=with_row) for outcome, with_row in outcomes]
        self._unsynced += len(lines)
        if (facts := self._facts()) != self._noted:
            self._noted = facts
            lines.insert(0, exact_json.dumps(facts))  # no outcome is on disk without what its row remembered
        if lines:
            self._write(b"".join(line + b"\n" for line in lines))
        if self._unsynced >= self._sync_rows or self._clock() - self._synced_at >= SYNC_SECONDS:
            self.sync()

    def _facts(self) -> dict[str, Any]:
        calls, token_requests = self._meter.read()
        return {"calls": calls, "token_requests": token_requests, "state": self._state.copy()}

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise AssertionError("recover() comes first")
        view = memoryview(data)
        with files.named(self._path):
            while view:  # a disk that fills up takes a part of it first
                view = view[self._file.write(view) :]

    def sync(self) -> None:
        """Make durable what was appended."""
        if self._file:
            with files.named(self._path):
                files.sync(self._file)
            if not self._named:
                files.sync_folder(self._path.parent)
                files.sync_folder(self._path.parent.parent)
                self._named = True
        self._unsynced, self._synced_at = 0, self._clock()

    def close(self) -> None:
        """Let go of the file; it stays for the next attempt, which counts what this one sent in vain, too."""
        if self._file:
            with self._file:
                self.append([])


def _line(outcome: Outcome, *, with_row: bool) -> bytes:
    if not with_row:
        return b"[%d,%d,%b]" % (outcome.index, outcome.line, outcome.results)
    why = exact_json.dumps([outcome.error, outcome.detail, outcome.row])
    return b"[%d,%d,%b,%b" % (outcome.index, outcome.line, outcome.results, why[1:])


def _outcome(
    index: int, line: int, results: Any, error: str = "", detail: str = "", row: dict[str, Any] | None = None
) -> Outcome:
    return Outcome(index, line, exact_json.dumps(results), error, detail, row or {})


def _whole_lines(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Lines up to the first that a crash tore; what stands behind it was never fsynced and is run again."""
    with path.open("rb") as file:
        for line in file:
            try:
                entry = exact_json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if entry is None:
                return
            yield line, entry
