"""What a job author tests with: a job run over rows in memory, on the code that the worker runs it with.

Nothing is sent, nothing waits, and no file is left: backends are fakes, and the rows run one after the other.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from worker import exact_json, spill, tables
from worker.context import Context, DeliveryContext
from worker.declare import Job
from worker.errors import Reject
from worker.execution import Execution
from worker.fakes import Answer, FakeFhir, FakeRest, Request
from worker.outputs.table import Results, cell, csv_lines
from worker.records import Chunk, Delivery, Input, Outcome, Reading, Row
from worker.triggers.bodies import Body

__all__ = ["Answer", "FakeFhir", "FakeRest", "Request", "Run", "context", "run_job"]

Rows = Iterable[Mapping[str, Any]] | str | Path


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the rows, in input order; ``calls`` counts the requests sent by backend, ``state`` is as left."""

    outcomes: list[Outcome]
    calls: dict[str, int]
    state: dict[str, Any]

    @property
    def results(self) -> list[dict[str, Any]]:
        """All results as JSON has them: a date is text, a number with a fraction a ``Decimal``."""
        return [result for outcome in self.outcomes for result in exact_json.loads(outcome.results)]

    @property
    def rejected(self) -> list[Outcome]:
        """The rejected rows: ``line``, ``error``, ``detail`` and the ``row`` itself of each."""
        return [outcome for outcome in self.outcomes if outcome.error]

    @property
    def skipped(self) -> int:
        """How many rows the job had nothing to say about."""
        return sum(outcome.results == b"[]" and not outcome.error for outcome in self.outcomes)


# pytest's own exceptions, which are no Exception, go through.
_BUGS = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


def run_job(
    job: Job[..., Any],
    rows: Rows | None = None,
    *,
    rest: Mapping[str, FakeRest] | None = None,
    fhir: Mapping[str, FakeFhir] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Run:
    """Run a job over rows: mappings, the text of a CSV file, or the path of one; without any, over those of its source.

    Mappings become a CSV file first, so that the job gets text, and the first row's line is 2; those of a job that
    takes messages and no files become a JSON array, and keep their values. Raises what would concern the whole
    delivery: ``Unavailable``, ``DeliveryError`` (``Unauthorized`` too). A bug in the job is a rejection, as it is in
    the worker; the log has its place.
    """
    body = _body(rows, job)
    name, data, reading = ("rows.json", body.data, Reading()) if body else _file([] if rows is None else rows, job)
    trigger = "schedule" if rows is None else "queue" if body else "inbox"
    delivery = _delivery(name, data, job.name, trigger, body)
    shared = _shared(delivery, rest or {}, fhir or {}, state or {})
    execution = Execution(job, shared, bugs=_BUGS)
    outcomes: list[Outcome] = []
    for chunk in [_asked(execution)] if rows is None else delivery.read(reading):
        done = map(execution.work, execution.units(chunk))
        outcomes += sorted(chain.from_iterable(done), key=lambda outcome: outcome.index)
    fitting = outcomes if body else _fitting(outcomes, job, reading)  # what JSON replies with has no columns
    return Run(fitting, delivery.meter.read()[0], dict(shared.state))


def context(
    *,
    rest: Mapping[str, FakeRest] | None = None,
    fhir: Mapping[str, FakeFhir] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Context:
    """A context to call a job with directly, as the function that it is: ``client_summary(row, context(...))``."""
    return _shared(_delivery("rows.csv", b"", ""), rest or {}, fhir or {}, state or {}).at(line=2)


def _body(rows: Rows | None, job: Job[..., Any]) -> Body | None:
    """The rows as a message, where they can come as nothing else."""
    if rows is None or isinstance(rows, str | Path) or job.files or not job.queue:
        return None
    return Body(exact_json.dumps([dict(row) for row in rows]), "application/json")


def _file(rows: Rows, job: Job[..., Any]) -> tuple[str, bytes, Reading]:
    """A name, the content and how it is to be read."""
    if isinstance(rows, Path):
        return rows.name, rows.read_bytes(), Reading(job.encoding, job.delimiter)
    if isinstance(rows, str):
        return "rows.csv", rows.encode(), Reading("utf-8", job.delimiter)
    given = list(rows)
    columns = list(dict.fromkeys(column for row in given for column in row))
    data = csv_lines([columns, *([cell(row.get(column)) for column in columns] for row in given)])
    return "rows.csv", data, Reading("utf-8", ",")


def _asked(execution: Execution) -> Chunk:
    """The rows of the job's source, as they come back from disk."""
    asked = [exact_json.loads(spill.line(dict(row))) for row in execution.source()]
    return spill.chunk(0, [Row(values, index, index + 1) for index, values in enumerate(asked)])


def _fitting(outcomes: list[Outcome], job: Job[..., Any], reading: Reading) -> list[Outcome]:
    """The outcomes, with what could not stand in one result file rejected, as the outbox does it."""
    shape = Results(job.columns, spreadsheet_safe=job.spreadsheet_safe)
    results = [exact_json.loads(outcome.results) for outcome in outcomes]
    if not shape.known:
        shape.learn(chain.from_iterable(results[: reading.chunk_rows]))
    return [
        replace(outcome, results=b"[]", error=Reject.__name__, detail=why) if (why := shape.misfit(found)) else outcome
        for outcome, found in zip(outcomes, results, strict=True)
    ]


def _delivery(name: str, data: bytes, job: str, trigger: str = "inbox", body: Body | None = None) -> Delivery:
    return Delivery(
        id="test",
        trigger=trigger,
        source=name,
        input=Input(name, hashlib.sha256(data).hexdigest(), len(data)),
        folder=_Scratch.made(),
        attempts=1,
        started=time.time(),
        read=body.read if body else lambda reading: tables.read(Path(name), reading, io.BytesIO(data)),
        guard=lambda: None,
        settle=lambda _error: None,
        job=job,
    )


def _shared(
    delivery: Delivery, rest: Mapping[str, FakeRest], fhir: Mapping[str, FakeFhir], state: Mapping[str, Any]
) -> DeliveryContext:
    fakes = {**rest, **fhir}
    backends = {name: fake.backend(name) for name, fake in fakes.items()}
    return DeliveryContext(delivery, backends, lambda _: state, threading.Event)


class _Scratch(type(Path())):  # type: ignore[misc] # the class of this system's paths
    """The delivery's folder, made when an export needs it, and gone with the last that knows of it."""

    @classmethod
    def made(cls) -> Self:
        parent = Path(tempfile.gettempdir(), f"longshore-{secrets.token_hex(8)}")
        folder = cls(parent / "test")
        weakref.finalize(folder, shutil.rmtree, parent, ignore_errors=True)
        return folder
