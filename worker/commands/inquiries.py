"""The commands that look: at the configuration, at what was done, at the backends."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.arguments import (
    FAILED,
    MISUSED,
    Config,
    DeliveryId,
    Json,
    check_files,
    check_name,
    load_project,
    load_settings,
    load_worker,
    misused,
    short,
)

if TYPE_CHECKING:
    from worker.commands.accounts import Absent
    from worker.config import Settings
    from worker.declare import Job
    from worker.jobs import Jobs
    from worker.ledger import Ledger
    from worker.project import Project
    from worker.records import Entry


def check(config: Config = None, json: Json = False) -> None:
    """Is everything as a worker needs it? Configuration, jobs, folders, ledger, tokens, backends."""
    from worker.commands import checks, screens

    looked_at = []
    for each in checks.check(config):
        looked_at.append(each)
        if not json:
            screens.check(each)
    ok = all(each.ok for each in looked_at)
    if json:
        screens.say_json({"ok": ok, "checks": looked_at})
    raise typer.Exit(0 if ok else MISUSED)


def status(config: Config = None, json: Json = False) -> None:
    """What is running, waiting, done and failed, and why."""
    from worker.commands import places, screens

    settings = load_worker(config)
    known = _known(settings) | {"disks": places.full_disks(settings), "inbox": _lying_in(settings)}
    if json:
        screens.say_json(known)
    else:
        screens.status(known.pop("deliveries"), known.pop("counts"), **known)


def _known(settings: Settings) -> dict[str, Any]:
    """What the ledger tells."""
    from worker.commands import accounts, screens
    from worker.records import STATES

    if nobody_ran := _without_ledger(settings):
        screens.say(nobody_ran, stderr=True)
        return {"deliveries": [], "counts": dict.fromkeys(STATES, 0), "backends": [], "broker": [], "waits": []}
    with closing(_open(settings)) as ledger:
        absent, entries, counts = _absent(ledger, settings), ledger.entries(), ledger.counts()
        backends, broker = accounts.pauses(ledger.pauses.current())
    lines, waits = [accounts.line(entry, absent) for entry in entries], accounts.waits(entries)
    return {"deliveries": lines, "counts": counts, "backends": backends, "broker": broker, "waits": waits}


def _without_ledger(settings: Settings) -> str:
    """A sentence, if there is none. Whoever looks makes none: a mistyped ``state`` would look like a quiet day."""
    said = f"{settings.ledger_file}: there is no ledger, as no worker has run with these settings yet"
    return said if settings.lacks_ledger else ""


def _open(settings: Settings) -> Ledger:
    from worker.ledger import Ledger

    if nobody_ran := _without_ledger(settings):
        misused(nobody_ran)
    return Ledger(settings.worker.state, lease=settings.worker.lease_seconds)


def _absent(ledger: Ledger, settings: Settings) -> Absent:
    from worker.commands.accounts import Absent
    from worker.owner import is_gone

    def died(owner: str) -> bool:
        with suppress(PermissionError):  # who may not look at the worker's own files is told when its lease is over
            return is_gone(settings.home / "workers", owner)
        return False

    return Absent(ledger.silent(), died)


def _lying_in(settings: Settings) -> dict[str, Any]:
    from worker.commands import places, screens

    inbox = settings.worker.inbox
    try:
        return places.in_the_inbox(inbox)
    except FileNotFoundError:
        screens.complain(f"{inbox}: there is no such folder, so nothing can come in; make it")
    except OSError as error:
        screens.complain(f"{inbox}: cannot be looked into: {error.strerror}; check the permissions")
    return {"files": None, "since": None}


def show(delivery: DeliveryId, config: Config = None, json: Json = False) -> None:
    """Everything that is known of a delivery."""
    from worker.commands import accounts, screens

    settings = load_worker(config)
    with closing(_open(settings)) as ledger:
        entry = _find(ledger, delivery)
        found = accounts.full(entry, ledger.attempts(entry.id), settings.worker.outbox, _absent(ledger, settings))
    if json:
        screens.say_json(found)
    else:
        screens.show(found, short(settings.worker.outbox))


def retry(
    delivery: DeliveryId,
    config: Config = None,
    json: Json = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only the rejected rows, as a new delivery.")] = False,
) -> None:
    """Put a failed delivery back among the waiting, or the rejected rows of a done one into the inbox."""
    from worker.commands import screens

    settings = load_worker(config)
    with closing(_open(settings)) as ledger:
        entry = _find(ledger, delivery)
        name = _drop_rejected(entry, load_project(config)) if rejected else _reopen(entry, ledger, settings)
    if json:
        screens.say_json({"delivery": entry.id, "state": "waiting", "source": name})
    else:
        what = f"{screens.printable(name)} waits again"
        screens.say(f"{what}: a running worker takes it when it is its turn, else `longshore run`")


def _reopen(entry: Entry, ledger: Ledger, settings: Settings) -> str:
    from worker.project import settlement

    if entry.state != "failed":
        misused(f"delivery {entry.id} is {entry.state}; only a failed one can be run again")
    if entry.trigger == "queue":
        dead = f"it lies in the queue {entry.source}.dead"
        misused(f"delivery {entry.id} is a message: {dead}; mend the cause, then move it back to {entry.source}")
    if not settlement(entry.trigger, ledger, settings).reopen(entry):
        where = settings.worker.failed
        misused(f"delivery {entry.id}: {entry.source} is no longer in {where}; drop it into the inbox again")
    return entry.source


def _drop_rejected(entry: Entry, project: Project) -> str:
    """Copy the rejects into the inbox, under their own name, if that is for the job that rejected them."""
    from worker import files

    worker = project.settings.worker
    if not (rejects := next(_seen(worker.outbox).glob(f"*-{entry.id}.rejected.csv"), None)):
        misused(f"delivery {entry.id}: it has no rejected rows in {worker.outbox}")
    if fault := files.name_fault(rejects.name):
        misused(f"{rejects}: the inbox cannot take it, {fault}; copy it there under a shorter name")
    if not (job := _job_of(rejects.name, project.jobs)) or job.name != entry.job:
        how = f"longshore process {short(rejects)} --job {entry.job}"
        misused(f"{rejects.name}: the inbox takes no file of this name for {entry.job}; to run its rows: {how}")
    copy, is_there = worker.inbox / rejects.name, False
    try:
        files.copy(rejects, copy)
    except FileExistsError:
        is_there = True
    if job.done_suffix:  # also for a copy that a crash left without it
        copy.with_name(f"{copy.name}{job.done_suffix}").touch()
    if is_there:
        misused(f"{copy}: is there already; it will be taken")
    return copy.name


def _job_of(name: str, jobs: Jobs) -> Job[..., Any] | None:
    from worker.errors import DeliveryError

    try:
        return jobs.match(name)
    except DeliveryError:
        return None


def verify(
    manifests: Annotated[list[Path] | None, typer.Argument(metavar="[MANIFEST...]", help="Else the outbox's.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Is what lies in the outbox still what its manifests say? Stops at the first difference."""
    from worker.commands import screens, verification

    check_files(manifests or ())
    found = manifests or sorted(_seen(load_worker(config).worker.outbox).glob("*.manifest.json"))
    for manifest in found:
        if difference := next(verification.differences(manifest), None):
            if json:
                screens.say_json({"ok": False, "manifest": str(manifest), "difference": difference})
            else:
                screens.complain(f"{manifest}: {difference}")
            raise typer.Exit(FAILED)
    if json:
        screens.say_json({"ok": True, "manifests": len(found)})
    else:
        screens.say(f"{len(found)} manifests, and all that they name is as they say")


def _seen(folder: Path) -> Path:
    """The folder, if it can be looked into: ``glob`` would take a share that is not mounted for an empty one."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        misused(f"{folder}: cannot be looked into: {error.strerror}; see to it, and whether it is the right one")
    return folder


def jobs(config: Config = None, json: Json = False) -> None:
    """The project's jobs, what they take, and when their next tick comes."""
    from worker.commands import accounts, screens
    from worker.ledger import Ledger

    project = load_project(config)
    with closing(Ledger(project.settings.worker.state)) as ledger:
        found = [accounts.job(each, ledger) for each in project.jobs.values()]
    if json:
        screens.say_json(found)
    else:
        screens.jobs(found)


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An [auth.NAME].")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Get a token as a backend would, through the shared cache; it is shown masked."""
    from worker.commands import calls, screens

    settings = load_settings(config)
    check_name("auth", name, settings.auth)
    with calls.connected(settings) as connections:
        found = calls.token(connections.credentials[name])
    if json:
        screens.say_json(found)
    else:
        screens.say(found["detail"])


def call(
    name: Annotated[str, typer.Argument(metavar="BACKEND", help="A [backends.NAME].")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Below its URL, e.g. Practitioner?name=x.")],
    config: Config = None,
    json: Json = False,
    method: Annotated[str, typer.Option(help="The HTTP method.")] = "GET",
    json_body: Annotated[str, typer.Option(metavar="JSON", help="What to send.")] = "",
) -> None:
    """Call a backend the way a job would, and print its answer."""
    from worker.commands import calls, screens

    settings = load_settings(config)
    check_name("backend", name, settings.backends)
    with calls.connected(settings) as connections:
        answer = calls.call(connections.backends[name], method, path, _parsed(json_body), indent=not json)
    screens.say(answer)


def _find(ledger: Ledger, delivery: str) -> Entry:
    from worker.commands import accounts

    found = accounts.matching(ledger, delivery)
    if not found:
        misused(f"delivery {delivery}: there is none; `longshore status` lists them")
    if len(found) > 1:
        misused(f"delivery {delivery}: several ids begin so: {', '.join(sorted(entry.id for entry in found)[:5])}")
    return found[0]


def _parsed(text: str) -> Any:
    from worker import exact_json

    try:
        return exact_json.loads(text) if text else None
    except ValueError:
        misused("--json-body: is not JSON")
