"""The command line: arguments and exit codes.

0 is done, 1 at least one delivery failed or a backend said no, 2 usage or configuration. What a command needs is
imported inside it, so that `longshore --help` does not wait for pandas.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

from worker.commands.arguments import (
    CONFIG,
    FAILED,
    JSON,
    MISUSED,
    Config,
    Json,
    check_files,
    check_name,
    load_project,
    misused,
    prints_aside,
    short,
)
from worker.commands.inquiries import call, check, jobs, retry, show, status, token, verify
from worker.commands.keys import keys
from worker.commands.publish import publish
from worker.errors import ConfigError, Damaged, WorkerError, sentence
from worker.files import name_fault
from worker.held import release

if TYPE_CHECKING:
    from worker.app import App
    from worker.commands.screens import Bars
    from worker.project import Project

app = typer.Typer(
    help="A worker for files, queues and schedules: rows in, backends asked, combined results out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The ``longshore`` command."""
    try:
        app(prog_name="longshore")
    except ConfigError as error:
        _fail(*map(str, error.problems), code=MISUSED)
    except Damaged as error:  # a restart would find it so again
        _fail(sentence(error), code=MISUSED)
    except (WorkerError, OSError) as error:
        _fail(sentence(error), code=FAILED)


def _fail(*complaints: str, code: int) -> NoReturn:
    from worker.commands import screens

    for complaint in complaints:
        screens.complain(complaint)
    sys.exit(code)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"longshore {version('longshore')}")
        raise typer.Exit


@app.callback()
def everywhere(
    context: typer.Context,
    config: Annotated[  # noqa: ARG001 - see arguments._or_before
        Path | None, typer.Option("--config", metavar="PATH", envvar="LONGSHORE_CONFIG", help=CONFIG)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,  # noqa: ARG001
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """What may stand before every command."""
    from worker import log

    if context.invoked_subcommand != "run":  # whose signals wait until it has said what they do
        release()
    log.configure("warning", stream=sys.stderr)


@app.command()
def demo(
    json: Json = False,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up until Ctrl-C, for files of your own.")] = False,
) -> None:
    """See it work: sample files, run through a sandbox's backends, in the new folder ./demo."""
    from worker.commands import accounts, screens
    from worker.commands import demo as tour
    from worker.sandbox import Sandbox
    from worker.stopping import wait_until_stopped

    with Sandbox() as sandbox:
        project = load_project(tour.make(Path("demo"), sandbox.settings_toml()))
        log_file = project.settings.root / "worker.log"
        with (
            log_file.open("w") as stream,
            screens.Bars(shown=_is_watched(json)) as bars,
            _worker(project, bars, log_to=stream) as worker,
            tour.running(worker),
        ):
            tour.drop_samples(worker)
            entries = sorted(worker.ledger.entries(), key=lambda entry: entry.created)
            found = [accounts.account(entry, project.settings.worker.outbox) for entry in entries]
            totals = tour.totals(found)
            answered = tour.ask(worker)
            if json:
                screens.say_json({"folder": str(project.settings.root), "deliveries": found, **totals})
            else:
                if answered:
                    screens.say(f"{answered}\n")
                screens.demo(found, totals, short(project.settings.root), kept=keep)
            if keep:
                wait_until_stopped(worker.stop)


@app.command()
def init(name: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make.")], json: Json = False) -> None:
    """Make a project folder with a job that works against `longshore sandbox`."""
    from worker.commands import scaffold, screens
    from worker.sandbox import DEFAULT_PORTS, Addresses

    scaffold.init(name, Addresses(*DEFAULT_PORTS).settings_toml())
    if json:
        screens.say_json({"folder": str(name.resolve())})
    else:
        screens.say(f"{name} is a new project. Next:\n\n    cd {name}\n{scaffold.NEXT_STEPS}")


@app.command()
def sandbox(
    json: Json = False,
    port: Annotated[int, typer.Option(min=1, max=65533, help="The first of three ports in a row.")] = 8801,
    latency: Annotated[float, typer.Option(min=0.0, max=3600.0, help="Seconds that every answer takes.")] = 0.0,
) -> None:
    """An OAuth server and two backends on this machine, until Ctrl-C."""
    from worker.commands import screens
    from worker.sandbox import Sandbox
    from worker.stopping import stopped_by_signals, wait_until_stopped

    stop = threading.Event()
    with stopped_by_signals(stop), Sandbox((port, port + 1, port + 2), latency=latency) as servers:
        addresses = {"oauth": servers.oauth_url, "billing": servers.billing_url, "fhir": servers.fhir_url}
        if json:
            screens.say_json(addresses)
        else:
            screens.say("\n".join(f"{name:<8}{url}" for name, url in addresses.items()))
            screens.say(f"\nFor longshore.toml:\n\n{servers.settings_toml()}\nCtrl-C ends it.")
        wait_until_stopped(stop)


@app.command()
def run(
    config: Config = None,
    json: Json = False,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then exit.")] = False,
) -> None:
    """The worker: watches the inbox until SIGTERM or Ctrl-C, then finishes the rows under way."""
    from worker.commands import screens
    from worker.stopping import ended_by_signals

    cut_off = FAILED if once else 0
    ended_by_signals(cut_off)
    project = load_project(config)
    with (
        screens.Bars(shown=once and _is_watched(json)) as bars,
        _worker(project, bars, json=json, cut_off=cut_off) as worker,
    ):
        if not once:
            worker.run()
            return
        failed_before = worker.ledger.counts()["failed"]
        worker.run_once()
        counts, unsettled = worker.ledger.counts(), worker.ledger.unsettled()
    _end(failed=counts["failed"] - failed_before, waiting=counts["waiting"] + unsettled)


@app.command()
def process(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files; they stay where they are.")],
    config: Config = None,
    json: Json = False,
    job: Annotated[str, typer.Option("--job", metavar="NAME", help="Instead of the one that takes such files.")] = "",
) -> None:
    """Run a job over some files, as if they had been dropped into the inbox."""
    from worker.commands import accounts, screens

    project = load_project(config)
    check_files(files)
    _check_names(files)
    if job:
        check_name("--job", job, project.jobs)
    with prints_aside(), screens.Roll(shown=_is_watched(json)) as roll, _worker(project, roll) as worker:
        worker.process(files, job=job)
        entries = sorted(map(worker.ledger.get, roll.ids), key=lambda entry: entry.created)
    outbox = project.settings.worker.outbox
    found = [accounts.account(entry, outbox) for entry in entries]
    if json:
        screens.say_json(found)
    else:
        screens.accounts(found, short(outbox))
    states = [entry.state for entry in entries]
    _end(failed=states.count("failed"), waiting=len(files) - states.count("done") - states.count("failed"))


def _check_names(paths: list[Path]) -> None:
    """Before the first one is begun, which would have to be left where it is."""
    for path in paths:
        if fault := name_fault(path.name):
            misused(f"{path}: {fault}")


def _end(*, failed: int, waiting: int) -> None:
    """Say what did not work, and exit with 1 if anything did not."""
    from worker.commands import screens

    if failed > 0:
        screens.say(f"{_deliveries(failed)} failed: `longshore status` says why", stderr=True)
    if waiting:
        what = f"{_deliveries(waiting)} {'is' if waiting == 1 else 'are'} waiting"
        screens.say(f"{what}: `longshore status` says why; `longshore run` goes on when it can", stderr=True)
    if failed > 0 or waiting:
        raise typer.Exit(FAILED)


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"


def _is_watched(json: bool) -> bool:
    return not json and sys.stderr.isatty()


@contextmanager
def _worker(
    project: Project, bars: Bars, *, json: bool = False, log_to: TextIO | None = None, cut_off: int = FAILED
) -> Iterator[App]:
    """A worker that SIGTERM and Ctrl-C stop; it logs to standard error, and between the bars only what is wrong.

    The signals are ours before it is built and until it is closed, so that a stop finds it neither half made nor
    kills it while it finishes its rows. If it does not come to its end, the exit code is ``cut_off``.
    """
    from worker import log
    from worker.stopping import LAST_SECONDS, Stop, reloaded_by_signals, stopped_by_signals

    stop = Stop()
    at_the_latest = project.settings.worker.stop_seconds + LAST_SECONDS
    with stopped_by_signals(stop, at_the_latest=at_the_latest, code=cut_off):
        from worker.app import App

        level = "warning" if bars.shown and not log_to else project.settings.worker.log_level
        log.configure(level, stream=log_to or sys.stderr, json=json)
        log.tell_what_python_prints()
        with App(project, bars, stop=stop) as worker, reloaded_by_signals(worker.reload):
            yield worker


for command in (publish, check, status, show, retry, verify, jobs, token, call):
    app.command()(command)
app.add_typer(keys, name="keys")
