"""Replies: what became of a message's rows, made into what its asker is told.

An object's outcome is held in memory, as it takes one call of the job to have it again. Those of an array or a table
are in a part file, as a file's are, so that the next attempt goes on where this one ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from worker import exact_json, files
from worker.declare import Job
from worker.errors import DeliveryError
from worker.outputs.part import PartFile
from worker.outputs.rendering import Rendering
from worker.outputs.table import InOrder, Results
from worker.records import Counts, Delivery, Outcome, Reply

JSON, CSV, NDJSON = "application/json", "text/csv", "application/fhir+ndjson"


class Replies:
    """Leaves a reply of at most ``max_bytes`` with each delivery; ``chunk_rows`` input rows are fsynced together."""

    def __init__(self, *, max_bytes: int, chunk_rows: int) -> None:
        self._max_bytes = max_bytes
        self._chunk_rows = chunk_rows

    def open(self, delivery: Delivery, job: Job[..., Any]) -> ObjectReply | ArrayReply | TableReply:
        """Begin, or go on with, a delivery's reply; raises ``OSError`` where its folder cannot be written."""
        if delivery.input.form == "object":
            return ObjectReply(delivery, self._max_bytes)
        if delivery.input.form == "array":
            return ArrayReply(delivery, self._max_bytes, sync_rows=self._chunk_rows)
        return TableReply(delivery, job, self._max_bytes, chunk_rows=self._chunk_rows)


class _Part:
    """What all kinds have in common."""

    committed = False  # a message that was answered does not come here again

    def __init__(self, delivery: Delivery, max_bytes: int) -> None:
        self._delivery = delivery
        self._max_bytes = max_bytes

    def _refuse_more_than(self, size: int) -> None:
        if size > self._max_bytes:
            raise DeliveryError(f"its reply would be larger than {self._max_bytes} bytes; send fewer rows at once")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


class ObjectReply(_Part):
    """The reply to a JSON object, which is one row."""

    _outcome: Outcome | None = None

    def is_done(self, index: int) -> bool:  # noqa: ARG002
        """Never from an earlier attempt."""
        return False

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Take the one outcome."""
        for outcome in outcomes:
            self._outcome = outcome
            _count(self._delivery.counts, outcome)

    def commit(self) -> None:
        """Leave the reply with the delivery."""
        assert self._outcome  # noqa: S101 - an object is one row
        reply = _of_one(self._outcome)
        self._refuse_more_than(len(reply.body))
        self._delivery.reply = reply


def _of_one(outcome: Outcome) -> Reply:
    if outcome.error:
        return Reply("rejected", JSON, exact_json.dumps({"error": outcome.error, "detail": outcome.detail}))
    if outcome.results == b"[]":
        return Reply("skipped", JSON, b"{}")
    return Reply("result", JSON, outcome.results if _are_several(outcome.results) else outcome.results[1:-1])


def _are_several(results: bytes) -> bool:
    """Whether there is more than one object in the array; a glance or two spare most of them the count."""
    ends_at_once = results.find(b"}") == len(results) - 2
    return not ends_at_once and b"},{" in results and exact_json.length(results) > 1


class ArrayReply(_Part):
    """The reply to a JSON array."""

    def __init__(self, delivery: Delivery, max_bytes: int, *, sync_rows: int) -> None:
        super().__init__(delivery, max_bytes)
        self._ordered: InOrder[Outcome] = InOrder()
        self._results, self._rejected = bytearray(), bytearray()
        self._part = PartFile(delivery.folder, delivery.attempts, delivery.meter, delivery.state, sync_rows=sync_rows)
        self._take(outcome for outcome in self._part.recover() if not self.is_done(outcome.index))

    def is_done(self, index: int) -> bool:
        """Whether the row's outcome is on disk from an earlier attempt."""
        return index in self._ordered

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes, in any order: to the part file first."""
        taken = list(outcomes)
        self._part.append((outcome, bool(outcome.error)) for outcome in taken)
        self._take(taken)

    def _take(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in self._ordered.push(outcomes):
            _count(self._delivery.counts, outcome)
            if outcome.error:
                rejection = {"row": outcome.index + 1, "error": outcome.error, "detail": outcome.detail}
                self._rejected += exact_json.dumps(rejection) + b","
            elif outcome.results != b"[]":
                self._results += outcome.results[1:-1] + b","
        self._refuse_more_than(len(self._results) + len(self._rejected))

    def commit(self) -> None:
        """Leave the reply with the delivery."""
        parts = bytes(self._results[:-1]), bytes(self._rejected[:-1]), self._delivery.counts.skipped
        self._part.sync()
        body = b'{"results":[%b],"rejected":[%b],"skipped":%d}' % parts
        self._refuse_more_than(len(body))
        self._delivery.reply = Reply("results", JSON, body)

    def __exit__(self, *_: object) -> None:
        self._part.close()


class TableReply(_Part):
    """The reply to a CSV message: the results' CSV, and in its headers how many rows there were of each kind."""

    def __init__(self, delivery: Delivery, job: Job[..., Any], max_bytes: int, *, chunk_rows: int) -> None:
        super().__init__(delivery, max_bytes)
        by = str(delivery.attempts)
        for left in delivery.folder.glob(".reply*"):
            left.unlink()
        self._shape = Results(job.columns, spreadsheet_safe=job.spreadsheet_safe)
        self._part = PartFile(delivery.folder, delivery.attempts, delivery.meter, delivery.state, sync_rows=chunk_rows)
        self._rendering = Rendering(
            delivery.folder, "reply", by, self._shape, chunk_rows=chunk_rows, counts=delivery.counts
        )
        self._by = by
        for outcome in self._part.recover():
            judged = self._rendering.judge(outcome)
            # A result that fits no more, as the job's columns were changed, came without its row: it is run again.
            if (judged.outcome.row or not judged.outcome.error) and not self.is_done(outcome.index):
                self._rendering.take([judged])

    def is_done(self, index: int) -> bool:
        """Whether the row's outcome is on disk from an earlier attempt."""
        return index in self._rendering.taken

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes, in any order: to the part file first."""
        judged = [self._rendering.judge(outcome) for outcome in outcomes]
        self._part.append((one.outcome, bool(one.outcome.error) or not one.final) for one in judged)
        self._rendering.take(judged)

    def commit(self) -> None:
        """Leave the reply with the delivery."""
        results = self._rendering.finish()[0]
        self._part.sync()
        self._refuse_more_than(results.describe()["bytes"])
        body = files.hidden(results.target, self._by).read_bytes()
        kind = NDJSON if self._shape.resources else CSV
        self._delivery.reply = Reply("results", kind, body, _headers(self._delivery.counts))

    def __exit__(self, *_: object) -> None:
        self._part.close()
        self._rendering.discard()


def _headers(counts: Counts) -> dict[str, int]:
    found = {"rows-in": counts.rows, "results": counts.results, "rejected": counts.rejected, "skipped": counts.skipped}
    return {f"x-longshore-{name}": count for name, count in found.items()}


def _count(counts: Counts, outcome: Outcome) -> None:
    if outcome.error:
        counts.rejected += 1
    elif outcome.results == b"[]":
        counts.skipped += 1
    else:
        counts.results += 1
