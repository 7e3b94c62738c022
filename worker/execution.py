"""From a row to its outcome: what a job returns or raises, turned into what is written down."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from worker import exact_json, log, tables
from worker.context import MOST_FAULTS, DeliveryContext
from worker.declare import Job
from worker.errors import DeliveryError, Interrupted, NoResult, Refused, Reject, ServerFault, WorkerError
from worker.fhirpath import Columns
from worker.forks import end, forks
from worker.records import Chunk, Delivery, Outcome, Row, nothing

T = TypeVar("T")

Bugs = tuple[type[BaseException], ...]

Unit = Row | Outcome | Chunk
"""What a thread works on: a row, one that could not be read and so is an outcome already, or a chunk as a frame."""


class Execution:
    """One job over the rows of one delivery; called from many threads.

    Raises what concerns more than a row: ``Unavailable``, ``DeliveryError`` (``Unauthorized`` too), ``Paused``, also in
    place of the ``Interrupted`` that only a job gets to see, be it that a bare ``except`` has caught it. Anything else
    that it raises is a bug, if it is of ``bugs``: asyncio's cancellation is no ``Exception``, nor is a panic of a
    library written in Rust.

    ``is_done`` says of a row, by its index, whether its outcome is known from an earlier attempt.
    """

    __slots__ = ("_bugs", "_context", "_encode", "_forks", "_is_done", "_job", "_kinds_of_bugs")

    def __init__(
        self,
        job: Job[..., Any],
        context: DeliveryContext,
        is_done: Callable[[int], bool] = lambda _: False,
        *,
        bugs: Bugs = (BaseException,),
    ) -> None:
        self._job = job
        self._is_done = is_done
        self._forks = forks.count
        self._kinds_of_bugs = bugs
        columns = {name: job.paths[name] for name in job.columns or ()} if job.paths else None
        self._encode = _encode if columns is None else partial(_encode_columns, columns)
        self._context = context
        self._bugs: dict[str, object] = {}

    def units(self, chunk: Chunk) -> Sequence[Unit]:
        """What of a chunk is still to be worked on, in pieces that are independent of each other."""
        is_done = self._is_done
        if self._job.frame:
            return [] if all(map(is_done, range(chunk.start, chunk.start + chunk.size))) else [chunk]
        rows: Sequence[Row | Outcome] = [*chunk.wrong, *chunk.rows] if chunk.wrong else chunk.rows
        return [row for row in rows if not is_done(row.index)]

    def work(self, unit: Unit) -> list[Outcome]:
        """The outcomes of a unit that are not known yet."""
        Interrupted.met()  # before, which is no matter of this one's
        try:
            if isinstance(unit, Row):
                return [self.row(unit)]
            if isinstance(unit, Outcome):
                return [unit]
            outcomes = *unit.wrong, *self.chunk(unit)
            return [outcome for outcome in outcomes if not self._is_done(outcome.index)]
        finally:
            if met := Interrupted.met():
                raise met.reason from None

    def source(self) -> Iterator[Mapping[str, Any]]:
        """The rows that the job's own source gives; raises ``DeliveryError`` for whatever it does wrong."""
        ask = self._job.source
        if ask is None:
            raise DeliveryError(f"the job {self._job.name} has no source; restore it, then: longshore retry")
        given = self._of_source(lambda: ask(self._context.at(0)))
        if not isinstance(given, Iterable):
            raise _no_mapping(given)
        rows = self._of_source(lambda: iter(given))
        while (row := self._of_source(lambda: next(rows, _END))) is not _END:
            if not isinstance(row, Mapping):
                raise _no_mapping(row)
            yield row

    def _of_source(self, step: Callable[[], T]) -> T:
        Interrupted.met()
        try:
            return self._step_of_source(lambda: self._call(step))
        finally:
            if met := Interrupted.met():
                raise met.reason from None

    def _step_of_source(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except Reject as reject:  # there is no row that it could cost
            said = reject.named if isinstance(reject, Refused) else reject.detail
            raise DeliveryError(f"the job's source was refused: {said}") from reject
        except ServerFault as fault:
            if not self._context.row_is_at_fault(fault):
                raise
            what = f"{fault.detail}, and that in {MOST_FAULTS} attempts{_MEANWHILE}"
            raise DeliveryError(f"the job's source breaks its backend: {what}") from fault
        except (WorkerError, Interrupted):
            raise
        except self._kinds_of_bugs as bug:
            self._log_bug(bug, 0)
            raise DeliveryError(
                f"the job's source has a bug ({type(bug).__name__}); the worker's log says where"
            ) from bug

    def row(self, row: Row) -> Outcome:
        """Run the job on a row."""
        try:
            returned = self._call(self._job.function, self._job.bind(row), self._context.at(row.line))
            return Outcome(row.index, row.line, self._encode(returned), "", "", row)
        except Reject as reject:
            return Outcome(row.index, row.line, error=type(reject).__name__, detail=reject.detail, row=row)
        except ServerFault as fault:
            if self._context.row_is_at_fault(fault):
                return _rejected(row, type(fault).__name__, f"{fault}, and that in {MOST_FAULTS} attempts{_MEANWHILE}")
            fault.line = row.line
            raise
        except (WorkerError, Interrupted):
            raise
        except self._kinds_of_bugs as bug:  # it costs its row only
            return _rejected(row, type(bug).__name__, self._log_bug(bug, row.line))

    def chunk(self, chunk: Chunk) -> list[Outcome]:
        """Run a ``frame=True`` job on a chunk; a rejection or a bug rejects all of its rows."""
        if not chunk.rows:
            return []
        try:
            returned = self._call(self._job.function, chunk.frame(), self._context.at(chunk.rows[0].line))
            results: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
            for line, result in tables.frame_rows(returned, {row.line for row in chunk.rows}):
                results[line].append(result)
            return [self._of_frame(row, results[row.line]) for row in chunk.rows]
        except Reject as reject:
            return [_rejected(row, type(reject).__name__, reject.detail) for row in chunk.rows]
        except (WorkerError, Interrupted):
            raise
        except self._kinds_of_bugs as bug:  # it costs its chunk only
            detail = self._log_bug(bug, chunk.rows[0].line)
            return [_rejected(row, type(bug).__name__, detail) for row in chunk.rows]

    def _of_frame(self, row: Row, results: list[dict[str, Any]]) -> Outcome:
        try:
            return Outcome(row.index, row.line, _encode(results), row=row)
        except NoResult as bug:  # in a cell of this row's
            return _rejected(row, type(bug).__name__, self._log_bug(bug, row.line))

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function of the job's gives. A process that it has forked ends here: its rows are the worker's."""
        try:
            returned = function(*arguments)
        except BaseException as raised:
            if forks.count != self._forks:
                end(_exit_code(raised), partial(_tell, raised, self._context.delivery))
            raise
        if forks.count != self._forks:
            end(0, nothing)
        return returned

    def _log_bug(self, bug: BaseException, line: int) -> str:
        """Log it, once for each place in the code, as one that every row meets is still one bug; say what is known."""
        where, said = log.location(bug), {"reason": str(bug)} if isinstance(bug, _TOLD) else {}
        mine = object()
        if self._bugs.setdefault(f"{type(bug).__name__} {where} {said}", mine) is mine:  # the first, of all threads'
            self._context.at(line).log.error("the job has a bug", error=type(bug).__name__, where=where, **said)
        return f"the job has a bug: {bug}" if said else _BUG


_TOLD = (NoResult, exact_json.NoJson)
"""Bugs whose text says nothing of anybody."""

_MEANWHILE = ", while it answers other calls"
_END = object()  # of a source's rows, among which None is a mistake
_BUG = "the job has a bug; the worker's log says where"


def _no_mapping(given: object) -> DeliveryError:
    what = "None" if given is None else f"a {type(given).__name__}"
    return DeliveryError(f"the job's source gave {what}; let it yield mappings")


def _rejected(row: Row, error: str, detail: str) -> Outcome:
    return Outcome(row.index, row.line, error=error, detail=detail, row=row)


def _encode(returned: Any) -> bytes:
    """A job's return value as a JSON array of objects; raises ``NoResult``, a bug, for what is neither."""
    return _dumps([returned] if type(returned) is dict else _results(returned))


def _encode_columns(columns: Columns, returned: Any) -> bytes:
    """The same of what the paths find in it."""
    return _dumps([{name: value(result) for name, value in columns.items()} for result in _results(returned)])


def _dumps(results: Sequence[Any]) -> bytes:
    try:
        return exact_json.dumps(results)
    except exact_json.NoJson as unfit:
        raise NoResult(f"its result cannot be written as JSON ({unfit})") from unfit


def _results(returned: Any) -> Sequence[Any]:
    if returned is None:
        return []
    results = [returned] if isinstance(returned, Mapping | BaseModel) else returned
    if not isinstance(results, list | tuple) or not all(isinstance(each, Mapping | BaseModel) for each in results):
        kind = type(returned).__name__
        raise NoResult(f"it returned what is no result ({kind}); let it return a mapping, a list of mappings, or None")
    return results


def _exit_code(raised: BaseException) -> int:
    """What Python makes of it where a program ends by it."""
    if not isinstance(raised, SystemExit):
        return 1
    return 0 if raised.code is None else raised.code if isinstance(raised.code, int) else 1


def _tell(raised: BaseException, delivery: Delivery) -> None:
    """What Python prints of it, but for a bug's message, which may quote the row."""
    if not isinstance(raised, SystemExit):
        its = log.get_logger().bind(delivery=delivery.id, job=delivery.job, error=type(raised).__name__)
        its.error("a process that a job has forked ends by an error", where=log.location(raised))
    elif raised.code is not None and not isinstance(raised.code, int):
        sys.stderr.write(f"{raised.code}\n")
