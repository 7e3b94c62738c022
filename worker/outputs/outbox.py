"""The outbox: a delivery's results, its rejects and, last, the manifest, each appearing whole under its own name.

Until then they have a hidden name of the attempt's own, which the next attempt removes: a worker that was only slow,
and has lost the delivery, finds nothing to publish.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from worker import exact_json, files
from worker.declare import Job
from worker.errors import DeliveryError
from worker.outputs.part import PartFile
from worker.outputs.rendering import Rendering
from worker.outputs.table import Results
from worker.records import Delivery, Outcome


def utc_now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


class Outbox:
    """A folder of finished work; ``chunk_rows`` input rows decide the results' columns and are fsynced together."""

    def __init__(self, folder: Path, *, chunk_rows: int, clock: Callable[[], datetime] = utc_now) -> None:
        self._folder = folder
        self._chunk_rows = chunk_rows
        self._clock = clock

    def open(self, delivery: Delivery, job: Job[..., Any]) -> OutboxPart:
        """Begin, or go on with, a delivery's outcomes; raises ``OSError`` where the folders cannot be written."""
        return OutboxPart(self._folder, delivery, job, chunk_rows=self._chunk_rows, clock=self._clock)


class OutboxPart:
    """The outcomes of one delivery on their way to the outbox; ``committed``: an earlier attempt got all the way."""

    def __init__(
        self, folder: Path, delivery: Delivery, job: Job[..., Any], *, chunk_rows: int, clock: Callable[[], datetime]
    ) -> None:
        stem, self._by = f"{files.split_name(delivery.source)[0]}-{delivery.id}", str(delivery.attempts)
        self._delivery, self._job, self._clock = delivery, job, clock
        self._manifest = folder / f"{stem}.manifest.json"
        self.committed = self._is_committed()
        if delivery.attempts > 1:
            self._clear(folder, stem)
        shape = Results(job.columns, spreadsheet_safe=job.spreadsheet_safe)
        self._part = PartFile(delivery.folder, delivery.attempts, delivery.meter, delivery.state, sync_rows=chunk_rows)
        self._rendering = Rendering(
            folder,
            stem,
            self._by,
            shape,
            chunk_rows=chunk_rows,
            counts=delivery.counts,
            columns=lambda: delivery.columns,
        )
        try:
            self._go_on()
        except BaseException:
            self._rendering.discard()  # a full disk has no room for half a file
            raise

    def _clear(self, folder: Path, stem: str) -> None:
        """Remove what earlier attempts left: hidden files, and names that were reserved and got no content."""
        for path in folder.glob(f"*{glob.escape(stem)}.*"):
            if path.name.startswith(".") or not (self.committed or path.stat().st_size):
                path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Take the outcomes of earlier attempts."""
        for outcome in self._part.recover():
            judged = self._rendering.judge(outcome)
            # A result that fits no more, as the job's columns were changed, came without its row: it is run again.
            rejectable = judged.outcome.row or not judged.outcome.error
            if rejectable and not self.is_done(outcome.index):
                self._rendering.take([judged])

    def _is_committed(self) -> bool:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            manifest = exact_json.loads(self._manifest.read_bytes())
            return bool(manifest["input"]["sha256"] == self._delivery.input.sha256)
        return False

    def is_done(self, index: int) -> bool:
        """Whether the row's outcome is on disk from an earlier attempt."""
        return index in self._rendering.taken

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes, in any order: to the part file first, then to the files that will be seen."""
        judged = [self._rendering.judge(outcome) for outcome in outcomes]
        self._part.append((one.outcome, bool(one.outcome.error) or not one.final) for one in judged)
        self._rendering.take(judged)

    def commit(self) -> None:
        """Make results, rejects and, last, the manifest appear; raises ``LostLease`` if the delivery is not ours."""
        outputs = self._rendering.finish()
        self._part.sync()
        self._delivery.guard()
        for output in outputs:
            self._publish(output.target)
        manifest = self._describe([output.describe() for output in outputs])
        try:
            files.write(self._manifest, exact_json.dumps(manifest) + b"\n", self._by)
        except FileExistsError:
            if not self._is_committed():  # else a worker that was only slow was faster after all
                raise _taken(self._manifest) from None

    def _publish(self, target: Path) -> None:
        """Give a file its name; if a crash came right after that last time, the same file stands there already."""
        try:
            files.publish(target, self._by)
        except FileExistsError:
            if _sha256(target) != _sha256(files.hidden(target, self._by)):
                raise _taken(target) from None

    def _describe(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        delivery, counts = self._delivery, self._delivery.counts
        calls, token_requests = delivery.meter.read()
        source = delivery.input
        return {
            "delivery": delivery.id,
            "job": self._job.name,
            "trigger": delivery.trigger,
            "source": delivery.source,
            "input": {"name": source.name, "sha256": source.sha256, "bytes": source.bytes},
            "rows_in": counts.rows,
            "results": counts.results,
            "rejected": counts.rejected,
            "skipped": counts.skipped,
            "outputs": outputs,
            "started": stamp(datetime.fromtimestamp(delivery.started, UTC)),
            "finished": stamp(self._clock()),
            "attempts": delivery.attempts,
            "calls": calls,
            "token_requests": token_requests,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._part.close()
        self._rendering.discard()


def stamp(moment: datetime) -> str:
    """A time as the contracts write it: ``2026-11-23T02:00:04Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _taken(target: Path) -> DeliveryError:
    return DeliveryError(f"{target} exists with other content; move it away, then: longshore retry")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
