"""What people see: bars while deliveries run, tables of what became of them, and JSON for programs."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from worker import exact_json

if TYPE_CHECKING:
    from worker.commands.checks import Check
    from worker.records import Delivery, Outcome

_PIPE_WIDTH = 160  # where there is no terminal whose width would count
_STYLES = {"done": "green", "failed": "red", "running": "cyan", "waiting": "yellow", "ok": "green", "not ok": "red"}
_PLACES = {
    "results, rejected rows, and a manifest for each file": "/outbox/",
    "the file that no job takes, beside the reason": "/failed/",
    "the files that are done": "/archive/",
    "the jobs: a function each": "/jobs/",
    "the connections to the backends": "/longshore.toml",
    "what the worker said meanwhile": "/worker.log",
}
_NEXT = """
Next:
  longshore demo --keep   stays up for files of your own
  longshore init NAME     makes a project"""
_IS = {"failed": "failed", "waiting": "is waiting", "running": "is still running", "done": "is done"}
_COUNTED = ("rows_in", "results", "rejected", "skipped")


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error; a text is taken literally: a file may be called ``[bold]``."""
    screen = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = _PIPE_WIDTH
    return screen


def say(text: str, *, stderr: bool = False) -> None:
    """Lines, not folded: they may hold a path that somebody wants to copy."""
    console(stderr=stderr).print("\n".join(map(printable, text.split("\n"))), soft_wrap=True)


def say_json(value: Any) -> None:
    """A value for a program."""
    say(as_json(value))


def as_json(value: Any, *, indent: bool = False) -> str:
    """JSON that does nothing to a terminal, and stays JSON: what cannot be shown stands in it by JSON's own escape."""
    text, only_ascii = exact_json.dumps(value, indent=indent).decode(), not console().encoding.startswith("utf")

    def shown(each: str) -> bool:
        return each == "\n" or (each.isprintable() and (each.isascii() or not only_ascii))

    return "".join(each if shown(each) else json.dumps(each)[1:-1] for each in text)


def complain(what: str) -> None:
    """An error, as one line on standard error."""
    say(f"error: {printable(what)}", stderr=True)


def printable(text: str) -> str:
    """A text that does nothing to a terminal: control characters are shown as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose first column takes the room there is; numbers stand to the right, states have colours."""
    rows = list(rows)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[place], int) or row[place] == "" for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    for row in rows:
        drawn.add_row(*map(_cell, row))
    console().print(drawn)


def _cell(value: object) -> Text:
    text = f"{value:,}" if isinstance(value, int) else "\n".join(map(printable, _lines(value)))
    return Text(text, style=_STYLES.get(text, ""))


def _lines(value: object) -> list[str]:
    return value if isinstance(value, list) else [str(value)]


def accounts(found: Iterable[Mapping[str, Any]], outbox: str) -> None:
    """What became of some files: their counts, then where the outputs are, or why there are none."""
    found = list(found)
    table(
        ("file", *(name.removesuffix("_in") for name in _COUNTED)),
        ((each["source"], *(each.get(name, "") for name in _COUNTED)) for each in found),
    )
    for each in found:
        say(_story(each, outbox))


def _story(each: Mapping[str, Any], outbox: str) -> str:
    source = printable(each["source"])
    if "outputs" not in each:
        return f"{source} {_IS[each['state']]}:\n  {printable(each['error'])}"
    names = [f"  {outbox}/{printable(output['name'])}" for output in each["outputs"]]
    return "\n".join([f"{source} went through {each['job']}:", *names])


def status(
    lines: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    *,
    backends: Iterable[Mapping[str, Any]] = (),
    broker: Iterable[Mapping[str, Any]] = (),
    disks: Iterable[Mapping[str, Any]] = (),
    inbox: Mapping[str, Any] | None = None,
    waits: Iterable[Mapping[str, Any]] = (),
) -> None:
    """The deliveries, why some failed or wait, how many there are; then what is not as it should be around them."""
    columns = ("source", "job", "state", "rows_done", "attempts", "delivery")
    table([name.removesuffix("_done") for name in columns], ([each[name] for name in columns] for each in lines))
    times = {each["delivery"]: f", and is not tried again before {each['not_before']}" for each in waits}
    for each in lines:
        if each["error"]:
            what = f"{printable(each['source'])} {_IS[each['state']]}{times.get(each['delivery'], '')}"
            say(f"{each['delivery']} {what}:\n  {printable(each['error'])}")
    shown = f" (the newest {len(lines)} are shown)" if sum(counts.values()) > len(lines) else ""
    say(", ".join(f"{count:,} {state}" for state, count in counts.items()) + shown)
    for each in backends:
        left = round(each["seconds"])
        how_long = f"left alone for {left:,} s more" if left else "asked again just now"
        say(f"backend {each['backend']} is {each['state']}, {how_long} by {each['worker']}: {each['reason']}")
    for each in broker:
        say(f"the broker {each['reason']} (told by {each['worker']})")
    for each in disks:
        say(f"the disk of {', '.join(each['folders'])} {each['reason']}: what waits for it goes on by itself")
    if inbox and inbox["files"]:
        lying = f"{_many(inbox['files'], 'file')} in the inbox, the first since {inbox['since']}"
        say(f"{lying}: where a worker runs, it takes them in turn, or its log says why it leaves one alone")
    _say_how_to_run_again(lines, counts["failed"])


def _say_how_to_run_again(lines: Iterable[Mapping[str, Any]], count: int) -> None:
    failed = [each for each in lines if each["state"] == "failed"]
    messages = [each for each in failed if each["trigger"] == "queue"]
    if count > len(messages):
        say(f"`longshore retry ID` runs a failed {'file or tick' if messages else 'one'} again")
    for queue in sorted({each["source"] for each in messages}):
        queue = printable(queue)
        say(f"failed messages lie in {queue}.dead: mend the cause, then move them back to {queue}")


def show(found: Mapping[str, Any], outbox: str) -> None:
    """All that is known of one delivery, a line each."""
    manifest = found["manifest"] or {}
    apart = ("manifest", "history")
    facts = {name: value for name, value in found.items() if name not in apart and value not in (None, "")}
    facts |= {name: manifest[name] for name in (*_COUNTED, "token_requests") if manifest}
    facts |= {f"calls of {name}": count for name, count in manifest.get("calls", {}).items()}
    for name, value in facts.items():
        say(f"{name:<18}{printable(str(value))}")
    for output in manifest.get("outputs", ()):
        say(f"{'output':<18}{outbox}/{printable(output['name'])} ({_many(output['rows'], 'row')})")
    for attempt in found["history"]:
        over = f"to {attempt['ended']}" if attempt["ended"] else "without an end: it runs, or its worker died"
        done = f": {_many(attempt['rows_done'], 'row')} done" if attempt["ended"] else ""
        why = f"; {printable(attempt['error'])}" if attempt["error"] else ""
        say(f"{'attempt':<10}{attempt['attempt']:<8}{attempt['started']} {over} on {attempt['worker']}{done}{why}")


def jobs(found: Iterable[Mapping[str, Any]]) -> None:
    """The jobs, each with what it takes and its first sentence."""
    table(("job", "takes and does"), ((each["job"], list(_takes_and_does(each))) for each in found))


def _takes_and_does(job: Mapping[str, Any]) -> Iterator[str]:
    yield job["takes"]
    if job["next_tick"]:
        left_out = " (left out)" if job["last_delivery"] == "" else ""
        last = f"; the last one was {job['last_tick']}{left_out}" if job["last_tick"] else ""
        yield f"next tick {job['next_tick']}{last}"
    yield job["doc"]


def check(each: Check) -> None:
    """One thing that was looked at, in a line."""
    verdict = Text("ok      " if each.ok else "not ok  ", style="green" if each.ok else "red")
    console().print(verdict, printable(f"{each.what:<14}{each.name}: {each.detail}"), sep="", soft_wrap=True)


def demo(found: Iterable[Mapping[str, Any]], totals: Mapping[str, Any], folder: str, *, kept: bool) -> None:
    """What the demo did, where it lies, and what to do next."""
    accounts(found, f"{folder}/outbox")
    calls = "".join(f", {_many(count, 'call')} of {name}" for name, count in totals["calls"].items())
    say("")
    say(f"{_many(totals['rows_in'], 'row')}{calls}, {_many(totals['token_requests'], 'token request')}:")
    say("equal reads are shared, others travel together, and one token serves them all.")
    say("")
    for what, place in _PLACES.items():
        say(f"  {folder + place:<22}{what}")
    say(f"\nNow drop a file:  cp YOUR.csv {folder}/inbox/   (Ctrl-C ends the demo)" if kept else _NEXT)


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Rows a second over the last half minute."""
        return Text(f"{task.speed or 0:,.0f} rows/s")


@contextmanager
def counting(total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar for so many messages; what it yields is called for each that is done. Nothing is seen if not ``shown``."""
    columns = TextColumn("{task.completed:,.0f} of {task.total:,.0f} messages"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console(stderr=True), transient=True, disable=not shown) as progress:
        bar = progress.add_task("", total=total)
        yield lambda: progress.advance(bar)


class Bars:
    """Watches deliveries (see ``runner.Watcher``) and shows a line for each that runs; nothing if not ``shown``."""

    def __init__(self, *, shown: bool) -> None:
        self.shown = shown
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
        self._rejected: Counter[str] = Counter()

    def began(self, delivery: Delivery) -> None:
        """A new line."""
        if not self.shown:
            return
        name = printable(delivery.source)
        self._tasks[delivery.id] = self._progress.add_task(name, total=None, rejected=0)

    def progressed(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """Its line moves on."""
        if not self.shown:
            return
        self._rejected[delivery.id] += sum(bool(outcome.error) for outcome in outcomes)
        rejected = self._rejected[delivery.id]
        self._progress.update(self._tasks[delivery.id], advance=len(outcomes), rejected=rejected)

    def ended(self, delivery: Delivery, error: Exception | None) -> None:  # noqa: ARG002 - the ledger tells the end
        """Its line goes."""
        if self.shown:
            del self._rejected[delivery.id]
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
