"""What ``longshore check`` looks at: everything that a worker will need."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import auth, backends, files
from worker.amqp import probe
from worker.auth import Credential, MemoryTokenStore, TokenStore
from worker.commands.accounts import takes
from worker.config import AmqpSettings, AuthSettings, Settings
from worker.declare import Job
from worker.errors import ConfigError, Unavailable, WorkerError
from worker.ledger import Ledger
from worker.project import Project, folders
from worker.records import Meter
from worker.triggers.adoption import orphans
from worker.triggers.requests import Consumed


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what kind it is, its name, whether it is good, and a sentence."""

    what: str
    name: str
    ok: bool
    detail: str


def check(config: Path | None) -> Iterator[Check]:
    """Look at everything, each as soon as the one before is done; a mistake in one hides no other's."""
    try:
        project = Project.load(config)
    except ConfigError as error:
        for problem in error.problems:
            yield Check("configuration", problem.key or problem.where, ok=False, detail=str(problem))
        return
    yield Check("configuration", project.settings.path.name, ok=True, detail=str(project.settings.path))
    for job in project.jobs.values():
        yield Check("job", job.name, ok=True, detail=takes(job))
    yield from _folders(project.settings)
    yield from _connections(project.settings)
    if project.settings.amqp:
        yield from _broker(project.settings.amqp, project.jobs.enabled)


def _folders(settings: Settings) -> Iterator[Check]:
    worker = settings.worker
    named = {"inbox": worker.inbox, "outbox": worker.outbox, "archive": worker.archive, "failed": worker.failed}
    for name, folder in (named | {"work": settings.work}).items():
        yield Check("folder", name, *_usable(folder))


def _usable(folder: Path) -> tuple[bool, str]:
    there = next(path for path in (folder, *folder.parents) if _is_seen(path))
    if not there.is_dir():
        return False, f"{there} is no folder; move it away, or name another folder"
    if fault := files.disk_fault(there):
        return False, f"the disk of {there} {fault}"
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return False, f"{there} cannot be written; give this user the permission"
    return True, str(folder) if there == folder else f"{folder} (will be made)"


def _is_seen(path: Path) -> bool:
    with contextlib.suppress(PermissionError):  # where a parent does not let anybody look
        return path.exists()
    return False


def _open_to_others(settings: Settings) -> str:
    """What to do where others may look at the worker's own files: they hold records, and tokens, if sealed ones."""
    ours = [settings.home]
    if settings.ledger_file:
        ours.append(settings.ledger_file)
    wide = [str(path) for path in ours if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    return f"others may look into {' and '.join(wide)}; run chmod go= {' '.join(wide)}" if wide else ""


def _connections(settings: Settings) -> Iterator[Check]:
    owner = secrets.token_hex(8)
    with ExitStack() as closing:
        tokens: TokenStore = MemoryTokenStore()
        try:
            ledger = closing.enter_context(contextlib.closing(Ledger(settings.worker.state)))
            ledger.examine()
            known = sum(ledger.counts().values())
        except WorkerError as error:
            yield Check("ledger", "state", ok=False, detail=error.detail)
        else:
            tokens = ledger.tokens
            wide = _open_to_others(settings)
            yield Check("ledger", "state", ok=not wide, detail=wide or f"{known} deliveries")
            yield from _orphans(ledger, settings)
        credentials: dict[str, Credential] = {}
        for name in settings.auth:
            yield _auth(name, settings, tokens, owner, credentials)
        for name in settings.backends:
            yield _backend(name, settings, credentials)


def _broker(settings: AmqpSettings, jobs: Iterable[Job[..., Any]]) -> Iterator[Check]:
    topologies = [Consumed.of(job, threads=1, max_body=1, clock=time.time).topology for job in jobs if job.queue]
    try:
        found = probe(settings, topologies)
    except ConfigError as error:
        for problem in error.problems:
            yield Check(
                "broker", "amqp", ok=False, detail=f"{problem.key}: {problem.what}" if problem.key else problem.what
            )
        return
    except WorkerError as error:
        yield Check("broker", "amqp", ok=False, detail=error.detail)
        return
    where = f"{found.product} at {found.address}"
    if waited_for := sorted({each.queue for each in topologies if each.passive} & set(found.missing)):
        yield Check("broker", "amqp", ok=False, detail=f"{where} has no queue {', '.join(waited_for)}; declare it")
        return
    made = f"; `longshore run` will declare {', '.join(found.missing)}" if found.missing else ""
    yield Check("broker", "amqp", ok=True, detail=where + made)
    for what in found.unlike:
        yield Check("broker", "warning", ok=True, detail=what)


def _orphans(ledger: Ledger, settings: Settings) -> Iterator[Check]:
    where = folders(settings)
    if where.work.is_dir() and (found := orphans(ledger, where)):
        ids = ", ".join(sorted(orphan.id for orphan in found)[:5])
        detail = (
            f"{len(found)} under way that the ledger does not know ({ids}); the next `longshore run` goes on with them"
        )
        yield Check("ledger", "work", ok=True, detail=detail)


def _auth(name: str, settings: Settings, tokens: TokenStore, owner: str, credentials: dict[str, Credential]) -> Check:
    each = settings.auth[name]
    try:
        credential = auth.open_credential(name, each, tokens, owner=owner)
        credential.reload()  # who asks by hand may have mended what was refused
        detail = credential.check(Meter())
    except WorkerError as error:
        advice = _sandbox_advice(each) if isinstance(error, Unavailable) else ""
        return Check("auth", name, ok=False, detail=_said(name, error) + advice)
    credentials[name] = credential
    return Check("auth", name, ok=True, detail=detail)


def _sandbox_advice(each: AuthSettings) -> str:
    """What a newcomer lacks whose settings are still those of ``longshore init``."""
    from worker.sandbox import DEFAULT_PORTS, Addresses

    is_its = getattr(each, "token_url", None) == Addresses(*DEFAULT_PORTS).token_url
    return "; it is the sandbox's, which `longshore sandbox` starts" if is_its else ""


def _said(name: str, error: WorkerError) -> str:
    return error.detail.removeprefix(f"{name}: ")


def _backend(name: str, settings: Settings, credentials: Mapping[str, Credential]) -> Check:
    each = settings.backends[name]
    if each.auth and each.auth not in credentials:
        return Check("backend", name, ok=False, detail=f"cannot be asked without its auth, {each.auth}")
    credential = credentials[each.auth] if each.auth else None
    backend = backends.open_backend(name, each, credential, threads=1)
    try:
        return Check("backend", name, ok=True, detail=backend.check())
    except WorkerError as error:
        return Check("backend", name, ok=False, detail=_said(name, error))
    finally:
        backend.close()
