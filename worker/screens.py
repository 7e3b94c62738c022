"""What people see: bars while deliveries run, tables of what became of them, and JSON for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from worker import exact_json
from worker.records import Delivery

_PIPE_WIDTH = 160  # where there is no terminal whose width would count
_STYLES = {"done": "green", "failed": "red", "running": "cyan", "waiting": "yellow", "ok": "green", "not ok": "red"}
_COUNTED = ("rows_in", "results", "rejected", "skipped")


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error; a text is taken literally: a file may be called ``[bold]``."""
    screen = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = _PIPE_WIDTH
    return screen


def say(text: str, *, stderr: bool = False) -> None:
    """One line, not folded: it may hold a path that somebody wants to copy."""
    console(stderr=stderr).print(printable(text), soft_wrap=True)


def say_json(value: Any) -> None:
    """A value for a program."""
    say(exact_json.dumps(value).decode())


def complain(what: str) -> None:
    """An error, as one line on standard error."""
    say(f"error: {what}", stderr=True)


def printable(text: str) -> str:
    """A text that does nothing to a terminal: control characters are shown as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose first column takes the room there is; numbers stand to the right, states have colours."""
    rows = list(rows)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[place], int) or row[place] == "" for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    for row in rows:
        drawn.add_row(*map(_cell, row))
    console().print(drawn)


def _cell(value: object) -> Text:
    text = f"{value:,}" if isinstance(value, int) else "\n".join(map(printable, str(value).split("\n")))
    return Text(text, style=_STYLES.get(text, ""))


def accounts(found: Iterable[Mapping[str, Any]], outbox: str) -> None:
    """What became of some files: their counts, and where the outputs are, or why there are none."""
    table(
        ("file and outcome", *(name.removesuffix("_in") for name in _COUNTED)),
        ((_story(each, outbox), *(each.get(name, "") for name in _COUNTED)) for each in found),
    )


def _story(each: Mapping[str, Any], outbox: str) -> str:
    if "outputs" not in each:
        return f"{each['source']}\n  {each['state']}: {each['error']}"
    names = [f"  {outbox}/{output['name']}" for output in each["outputs"]]
    return "\n".join([f"{each['source']} -> {each['job']}", *names])


def deliveries(lines: Iterable[Mapping[str, Any]]) -> None:
    """The deliveries of a status, each with the reason where it failed or waits."""
    table(
        ("file", "job", "state", "rows", "attempts", "delivery"),
        (
            (
                f"{each['source']}\n  {each['error']}" if each["error"] else each["source"],
                each["job"],
                each["state"],
                each["rows_done"],
                each["attempts"],
                each["delivery"],
            )
            for each in lines
        ),
    )


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Rows a second over the last half minute."""
        return Text(f"{task.speed or 0:,.0f} rows/s")


class Bars:
    """Watches deliveries (see ``runner.Watcher``) and shows a line for each that runs; nothing if not ``shown``."""

    def __init__(self, *, shown: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.completed:,.0f} rows"),
            _Speed(),
            TextColumn("{task.fields[rejected]:,} rejected"),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._tasks: dict[str, TaskID] = {}

    def began(self, delivery: Delivery) -> None:
        """A new line."""
        name = printable(delivery.source)
        self._tasks[delivery.id] = self._progress.add_task(name, total=None, rejected=0)

    def progressed(self, delivery: Delivery) -> None:
        """Its line moves on."""
        counts = delivery.counts
        self._progress.update(self._tasks[delivery.id], completed=counts.rows, rejected=counts.rejected)

    def ended(self, delivery: Delivery, error: Exception | None) -> None:  # noqa: ARG002 - the ledger tells the end
        """Its line goes."""
        self._progress.remove_task(self._tasks.pop(delivery.id))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Roll(Bars):
    """Bars that also keep the ids of what ran, for an account afterwards."""

    def __init__(self, *, shown: bool) -> None:
        super().__init__(shown=shown)
        self.ids: list[str] = []

    def ended(self, delivery: Delivery, error: Exception | None) -> None:
        """Its line goes, its id stays."""
        super().ended(delivery, error)
        self.ids.append(delivery.id)
