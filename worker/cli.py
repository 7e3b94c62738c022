"""The command line: arguments, signals, exit codes.

0 is done, 1 at least one delivery failed (or a backend said no), 2 usage or configuration.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from worker.app import App, Project
    from worker.config import Settings

FAILED, MISUSED = 1, 2
ONE_WISH_SECONDS = 1.0  # supervisors signal a process and its group, so one wish may arrive twice

app = typer.Typer(
    help="A worker for files, queues and schedules: rows in, backends asked, combined results out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The ``longshore`` command."""
    from worker import screens
    from worker.errors import ConfigError, WorkerError, sentence

    try:
        app(prog_name="longshore")
    except ConfigError as error:
        for problem in error.problems:
            screens.complain(str(problem))
        sys.exit(MISUSED)
    except (WorkerError, OSError) as error:
        screens.complain(sentence(error))
        sys.exit(FAILED)


def _or_before(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """The option stands after the command, or before it."""
    return value or (context.parent and context.parent.params.get(str(parameter.name)))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"longshore {version('longshore')}")
        raise typer.Exit


Config = Annotated[Path | None, typer.Option("--config", callback=_or_before, help="The project's longshore.toml.")]
Json = Annotated[bool, typer.Option("--json", callback=_or_before, help="Write JSON, for programs.")]


@app.callback()
def everywhere(
    config: Annotated[  # noqa: ARG001 - read by _or_before, as is json
        Path | None, typer.Option("--config", envvar="LONGSHORE_CONFIG", help="The project's longshore.toml.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,  # noqa: ARG001
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")] = False,
) -> None:
    """What may stand before every command."""
    from worker import log

    log.configure("warning", stream=sys.stderr)


@app.command()
def run(
    config: Config = None,
    json: Json = False,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then exit.")] = False,
) -> None:
    """The worker: watches the inbox until SIGTERM or Ctrl-C, then finishes the rows under way."""
    from worker import checks, screens

    project = _load(config)
    checks.refuse_unsupported(project)
    with screens.Bars(shown=once and not json and sys.stderr.isatty()) as bars, _worker(project, bars, json) as worker:
        if not once:
            worker.run()
            return
        failed_before = worker.ledger.counts()["failed"]
        worker.run_once()
        counts = worker.ledger.counts()
    _end(failed=counts["failed"] - failed_before, waiting=counts["waiting"])


@app.command()
def process(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files; they stay where they are.")],
    config: Config = None,
    json: Json = False,
    job: Annotated[str, typer.Option("--job", help="The job to run; else the one that takes such names.")] = "",
) -> None:
    """Run a job over some files, as if they had been dropped into the inbox."""
    from worker import accounts, screens

    project = _load(config)
    _check_arguments(project, files, job)
    shown = not json and sys.stderr.isatty()
    with screens.Roll(shown=shown) as roll, _worker(project, roll, json) as worker:
        worker.process(files, job=job)
        entries = sorted(map(worker.ledger.get, roll.ids), key=lambda entry: entry.created)
    outbox = project.settings.worker.outbox
    found = [accounts.account(entry, outbox) for entry in entries]
    screens.say_json(found) if json else screens.accounts(found, _short(outbox))
    states = [entry.state for entry in entries]
    _end(failed=states.count("failed"), waiting=len(files) - states.count("done") - states.count("failed"))


def _check_arguments(project: Project, files: list[Path], job: str) -> None:
    from worker.config import nearest

    for file in files:
        if not file.is_file():
            _misused(f"{file}: there is no such file")
    if job and job not in project.jobs:
        _misused(f"--job {job}: there is no such job{nearest(job, project.jobs)}")


def _end(*, failed: int, waiting: int) -> None:
    """Say what did not work, and exit with 1 if anything did not."""
    from worker import screens

    if failed > 0:
        screens.say(f"{_deliveries(failed)} failed: `longshore status` says why", stderr=True)
    if waiting:
        what = f"{_deliveries(waiting)} {'is' if waiting == 1 else 'are'} waiting"
        screens.say(f"{what}: `longshore status` says why; `longshore run` goes on when it can", stderr=True)
    if failed > 0 or waiting:
        raise typer.Exit(FAILED)


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"


@app.command()
def status(config: Config = None, json: Json = False) -> None:
    """What is running, waiting, done and failed, and why."""
    from worker import accounts, screens
    from worker.app import open_ledger

    settings = _settings(config)
    with open_ledger(settings) as ledger:
        entries, counts = ledger.entries(), ledger.counts()
    lines = [accounts.line(entry) for entry in entries]
    if json:
        screens.say_json({"deliveries": lines, "counts": counts})
        return
    if not settings.worker.inbox.is_dir():
        screens.complain(f"{settings.worker.inbox}: there is no such folder, so nothing can come in; make it")
    screens.deliveries(lines)
    screens.say(", ".join(f"{count} {state}" for state, count in counts.items()))


def _load(config: Path | None) -> Project:
    from worker.app import Project

    return Project.load(config)


def _settings(config: Path | None) -> Settings:
    from worker import config as configuration

    return configuration.load(config)


@contextmanager
def _worker(project: Project, watcher: Any, json: bool) -> Iterator[App]:
    """A worker that SIGTERM and Ctrl-C stop."""
    from worker import log
    from worker.app import App

    with App(project, watcher) as worker, _stopped_by_signals(worker.stop):
        log.configure(project.settings.worker.log_level, stream=sys.stderr, json=json)
        yield worker


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first signal sets ``stop``, a later one ends the process at once."""
    asked_at: float | None = None

    def handle(number: int, _frame: object) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            # In a thread, as the interrupted one may be inside the event, whose lock it would wait for without end.
            threading.Thread(target=stop.set, name="stop").start()
        elif time.monotonic() - asked_at > ONE_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _misused(what: str) -> NoReturn:
    from worker import screens

    screens.complain(what)
    raise typer.Exit(MISUSED)


def _short(path: Path) -> str:
    """A path as one would write it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
