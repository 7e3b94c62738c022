"""Outcomes in any order become the two files of the outbox, in input order, while the delivery is still running."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker import exact_json
from worker.outputs.table import REJECT_COLUMNS, InOrder, OutputFile, Results, csv_lines, render_rejects
from worker.records import Counts, Outcome


@dataclass(slots=True)
class Judged:
    """An outcome with its results parsed; ``final``: the results' columns were known, so it stays what it is."""

    index: int
    outcome: Outcome
    results: list[dict[str, Any]]
    final: bool


class Rendering:
    """Writes hidden files beside their names in ``folder``, as ``by``; ``counts`` grows with each outcome ``taken``.

    The first chunk of input rows that has any results decides the results' columns. ``columns`` are the input's, asked
    for at the first rejection; () where every row has the same.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        by: str,
        shape: Results,
        *,
        chunk_rows: int,
        counts: Counts,
        columns: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._folder, self._stem, self._by = folder, stem, by
        self._shape = shape
        self._chunk_rows = chunk_rows
        self._counts = counts
        self._columns = columns
        self._reject_columns: tuple[str, ...] = ()
        self.taken: InOrder[Judged] = InOrder()
        self._first: list[Judged] = []  # from the first results on, until the columns are taken from them
        self._results: OutputFile | None = None
        self._rejects: OutputFile | None = None
        if shape.known:
            self._results = self._begin_results()

    def judge(self, outcome: Outcome) -> Judged:
        """See whether a result fits the file; one that does not becomes a rejection."""
        results = exact_json.loads(outcome.results)
        why = self._shape.misfit(results) if self._shape.known else ""
        if why:
            return Judged(outcome.index, replace(outcome, results=b"[]", error="Reject", detail=why), [], final=True)
        return Judged(outcome.index, outcome, results, final=self._shape.known or not results)

    def take(self, judged: Iterable[Judged]) -> None:
        """Take outcomes; those whose turn it is are written."""
        judged = list(judged)
        self._count(judged)
        ready = self.taken.push(judged)
        if self._shape.known:
            self._write(ready)
            return
        for position, one in enumerate(ready):
            if self._first and one.index // self._chunk_rows > self._first[0].index // self._chunk_rows:
                self._learn()
                self._write(ready[position:])
                return
            if self._first or one.results:
                self._first.append(one)
            else:
                self._write([one])

    def _learn(self) -> None:
        self._shape.learn(result for one in self._first for result in one.results)
        self._results = self._begin_results()
        first, self._first = self._first, []
        self._write(first)

    def _write(self, ready: Sequence[Judged]) -> None:
        final = [one if one.final else self._judge_again(one) for one in ready]
        rejected = [one.outcome for one in final if one.outcome.error]
        with_results = [one for one in final if one.results]
        if rejected:
            self._write_rejects(rejected)
        if with_results and self._results:
            results = [result for one in with_results for result in one.results]
            self._results.write(self._shape.render(results), rows=len(results))

    def _judge_again(self, one: Judged) -> Judged:
        """Once the columns are known: a result may turn into a rejection."""
        again = self.judge(one.outcome)
        if again.outcome.error:
            self._counts.results -= 1
            self._counts.rejected += 1
        return again

    def _count(self, judged: Sequence[Judged]) -> None:
        results = sum(bool(one.results) for one in judged)
        rejected = sum(bool(one.outcome.error) for one in judged)
        self._counts.results += results
        self._counts.rejected += rejected
        self._counts.skipped += len(judged) - results - rejected

    def _begin_results(self) -> OutputFile:
        file = OutputFile(self._folder / f"{self._stem}{self._shape.suffix}", self._by)
        file.write(self._shape.header(), rows=0)
        return file

    def _write_rejects(self, rejected: list[Outcome]) -> None:
        if self._rejects is None:
            self._rejects = OutputFile(self._folder / f"{self._stem}.rejected.csv", self._by)
            self._reject_columns = self._columns() or tuple(rejected[0].row)
            self._rejects.write(csv_lines([[*self._reject_columns, *REJECT_COLUMNS]]), rows=0)
        self._rejects.write(render_rejects(rejected, self._reject_columns), rows=len(rejected))

    def finish(self) -> list[OutputFile]:
        """The files, complete and durable, still hidden; the results' always, the rejects' if there are any."""
        if not self.taken.empty:
            raise AssertionError("a row has no outcome")
        if self._results is None:
            self._learn()
        files = [file for file in (self._results, self._rejects) if file]
        for file in files:
            file.close()
        return files

    def discard(self) -> None:
        """Remove what was not published; the part file knows it all."""
        for file in (self._results, self._rejects):
            if file:
                file.discard()
