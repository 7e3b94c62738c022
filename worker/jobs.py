"""All jobs of a project: found in the job folder, checked, and matched to deliveries."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from worker import cron, declare
from worker.config import JobSettings, mistakes, nearest
from worker.declare import Job, collected
from worker.errors import ConfigError, DeliveryError, Problem

__all__ = ["Job", "Jobs", "load"]


class Jobs(Mapping[str, Job[..., Any]]):
    """All jobs by name; only those that are enabled get deliveries."""

    def __init__(self, jobs: Iterable[Job[..., Any]]) -> None:
        self._jobs = {job.name: job for job in jobs}

    def __getitem__(self, name: str) -> Job[..., Any]:
        return self._jobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def enabled(self) -> list[Job[..., Any]]:
        """Those that get deliveries."""
        return [job for job in self._jobs.values() if job.enabled]

    @property
    def done_suffixes(self) -> tuple[str, ...]:
        """The endings of the files by which senders say that a file is complete."""
        return tuple({job.done_suffix for job in self.enabled if job.done_suffix})

    def find(self, name: str, source: str, trigger: str) -> Job[..., Any]:
        """The job of this name; if there is none such (any more), the one that takes a file called ``source``.

        Raises ``DeliveryError`` if there is none either, and for what was meant for that job alone, whatever its name
        fits: a tick, and a file that was given to ``process``.
        """
        if name and name not in self._jobs and trigger != "inbox":
            raise DeliveryError(f"no job {name} is left, which this is for; restore it, then: longshore retry")
        return self._jobs.get(name) or self.match(source)

    def match(self, name: str) -> Job[..., Any]:
        """The job for a file of this name, with or without ``.gz``; raises ``DeliveryError`` if none or several."""
        plain = _composed(name)
        names = {plain, plain.removesuffix(".gz")}
        found = [job for job in self.enabled if any(fnmatchcase(n, _composed(p)) for n in names for p in job.files)]
        if not found:
            raise DeliveryError(f"no job takes a file of this name; {self._taken(plain)}")
        if len(found) > 1:
            names_found = ", ".join(job.name for job in found)
            raise DeliveryError(f"several jobs take a file of this name: {names_found}; make their `files` disjoint")
        return found[0]

    def _taken(self, name: str) -> str:
        """What would be taken instead of a file of this name."""
        patterns = [(pattern, job.name) for job in self.enabled for pattern in job.files]
        low = name.lower()
        near = any(fnmatchcase(n, _composed(p).lower()) for n in (low, low.removesuffix(".gz")) for p, _ in patterns)
        those = ", ".join(f"{pattern} ({job})" for pattern, job in patterns) or "no files"
        return f"the jobs take: {those}{', and upper and lower case differ' if near else ''}"

    def by_queue(self, name: str) -> Job[..., Any]:
        """The job for the messages of this queue; raises ``DeliveryError`` if there is none."""
        for job in self.enabled:
            if job.queue == name:
                return job
        raise DeliveryError(f"no job takes messages of the queue {name!r}")


def _composed(text: str) -> str:
    """One spelling of what people read as one: in file names from a Mac, an accent is a character of its own."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def load(folder: Path, overrides: Mapping[str, JobSettings]) -> Jobs:
    """Import the job files of a folder, those that begin with ``_`` left out, and apply the settings to the jobs.

    A file may import its neighbours while it is loaded. Raises ``ConfigError`` with every mistake in any of them.
    """
    declared, problems = _import_all(folder)
    if not problems:
        problems += _unknown(overrides, {job.name for job in declared}, folder)
    jobs = [_overridden(job, overrides.get(job.name)) for job in declared]
    for job in jobs:
        problems += _mistakes_of(job, overrides.get(job.name))
    problems += _clashes([job for job in jobs if not [*_of_a_wrong_kind(job)]])
    if problems:
        raise ConfigError(problems)
    return Jobs(jobs)


def _import_all(folder: Path) -> tuple[list[Job[..., Any]], list[Problem]]:
    problems = []
    with _importable(folder), collected() as declared:
        for file in sorted(folder.glob("[!_]*.py")):
            try:
                _import(file)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it is somebody else's code, and reported
                problems.append(_import_problem(file, error))
    return declared, problems


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Its files as neighbours of each other, and as a test in the project's folder knows them: in ``jobs``."""
    project = str(folder.parent)
    sys.path.insert(0, str(folder))
    sys.path.append(project)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        del sys.path[-1 - sys.path[::-1].index(project)]


def _import(file: Path) -> None:
    # A name of its own, so that a job file called like a library hides nothing.
    spec = importlib.util.spec_from_file_location(f"longshore_jobs_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pydantic look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise


def _import_problem(file: Path, error: BaseException) -> Problem:
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return Problem(str(file), f"line {error.lineno}", f"{type(error).__name__}: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return Problem(str(file), f"line {lines[-1]}" if lines else "", f"{type(error).__name__}: {error}{_hint(error)}")


def _hint(error: BaseException) -> str:
    """What to write instead of an ``@job`` that Python itself refused to call."""
    if not isinstance(error, TypeError):
        return ""
    if unknown := re.fullmatch(r"job\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        return nearest(unknown[1], inspect.signature(declare.job).parameters)
    if str(error).startswith("job() takes 0 positional arguments"):
        return '; write its arguments with their names, as in @job(files="clients*.csv"), and @job() if there are none'
    return ""


def _why_empty(folder: Path) -> str:
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):  # a glob finds nothing there, and says nothing
        return "cannot be read; give this user the permission"
    what = "there is no job here" if folder.is_dir() else "there is no such folder"
    return f"{what}; write a file with a function under @job, as `longshore init` does"


def _unknown(overrides: Iterable[str], names: set[str], folder: Path) -> Iterator[Problem]:
    if not names:
        yield Problem(str(folder), "", _why_empty(folder))
    for name in overrides:
        if name not in names:
            yield Problem(f"[jobs.{name}]", "", f"there is no such job{nearest(name, names)}")


def _overridden(job: Job[..., Any], settings: JobSettings | None) -> Job[..., Any]:
    return replace(job, **settings.model_dump(exclude_none=True)) if settings else job


def _mistakes_of(job: Job[..., Any], settings: JobSettings | None) -> Iterator[Problem]:
    file = job.place.rpartition(":")[0]
    for key, what in [*_of_a_wrong_kind(job)] or _mistakes(job):
        if settings and getattr(settings, key, None) is not None:
            yield Problem(f"[jobs.{job.name}]", key, what)
        else:
            yield Problem(file, f"{job.name}: {key}", what)


def _of_a_wrong_kind(job: Job[..., Any]) -> Iterator[tuple[str, str]]:
    """Key and sentence for each setting that is not what ``[jobs.NAME]`` would take."""
    given = {field.name: getattr(job, field.name) for field in fields(job) if field.name in JobSettings.model_fields}
    yield from mistakes(JobSettings, given)
    for field in fields(job):
        if field.name in given and given[field.name] is None and field.default is not None:
            yield field.name, "must not be None; leave it out"
    if not isinstance(job.frame, bool):
        yield "frame", "must be True or False"


def _mistakes(job: Job[..., Any]) -> Iterator[tuple[str, str]]:
    """Key and sentence for each setting of a job that cannot work."""
    for pattern in job.files:
        if "/" in pattern:
            yield "files", f'{pattern!r} is no pattern for the name of a file; write e.g. "clients*.csv"'
    if job.reply_queue and not job.queue:
        yield "reply_queue", "there is no queue whose messages it would answer; write queue too"
    if job.queue and (fault := _queue_fault(job.queue)):
        yield "queue", fault
    if job.schedule and not (job.source or job.files):
        yield "schedule", "there is nothing to run at its ticks; write source or files too"
    if job.schedule is not None and (fault := _cron_fault(job.schedule)):
        yield "schedule", fault
    if job.source and not job.schedule:
        yield "source", "nothing would ask for its rows; write schedule too"
    if job.source and not _is_source(job.source):
        yield "source", "it must be a plain function of one argument, ctx, that yields mappings"
    if job.source and job.files:
        yield "source", "the ticks are for either source or files; write one of them, or make two jobs"
    if job.frame and job.model:
        yield "frame", f"the job takes frames, but its row is a {job.model.__name__}; annotate it with DataFrame"
    if job.timezone is not None and not _is_found(ZoneInfo, job.timezone):
        yield "timezone", f'{job.timezone!r} is unknown; write a name such as "Europe/Prague"'
    elif job.timezone is not None and not job.schedule:
        yield "timezone", "it is the schedule's; write schedule too"
    if job.encoding is not None and not _is_found("".encode, job.encoding):
        yield "encoding", f'{job.encoding!r} is no encoding of text; write e.g. "utf-8" or "cp1250"'
    if job.delimiter is not None and job.delimiter in '"\r\n':
        yield "delimiter", 'it must be no quote or line end; write e.g. ";"'
    if job.done_suffix is not None and re.search(r"[/\0]", job.done_suffix):
        yield "done_suffix", 'it must be what is added to a file\'s name; write e.g. ".done"'
    if job.columns is not None and (not job.columns or len({*job.columns}) < len(job.columns)):
        yield "columns", "write at least one name, and each only once"
    if job.paths is not None and (without := [name for name in job.columns or () if name not in job.paths]):
        yield "columns", f"there is no path for {', '.join(map(repr, without))} in @job(columns={{...}})"
    if job.paths is not None and job.frame:
        yield "columns", "paths look into what a row's job returns, not into frames; write names"


def _queue_fault(name: str) -> str:
    if len(name.encode()) > 240:
        return "its name is longer than 240 bytes, and those of its retry queues would be longer than the broker takes"
    return "names that begin with amq. are the broker's own" if name.startswith("amq.") else ""


def _is_source(source: Callable[..., object]) -> bool:
    if not callable(source) or inspect.iscoroutinefunction(source) or inspect.isasyncgenfunction(source):
        return False
    try:
        inspect.signature(source).bind("ctx")
    except (TypeError, ValueError):
        return False
    return True


def _cron_fault(schedule: str) -> str:
    try:
        cron.parse(schedule)
    except ValueError as error:
        return str(error)
    return ""


def _is_found(look_up: Callable[[str], object], name: str) -> bool:
    try:
        look_up(name)
    except (LookupError, ValueError, OSError):
        return False
    return True


def _clashes(jobs: list[Job[..., Any]]) -> Iterator[Problem]:
    names: dict[str, Job[..., Any]] = {}
    queues: dict[str, Job[..., Any]] = {}
    for job in jobs:
        file = job.place.rpartition(":")[0]
        other = names.setdefault(job.name, job)
        if other is not job:
            what = f"{other.place} has a job of this name too; rename one, and share code in a file that begins with _"
            yield Problem(file, job.name, what)
        elif job.enabled and job.queue and (rival := queues.setdefault(job.queue, job)) is not job:
            yield Problem(file, f"{job.name}: queue", f"{rival.name} takes its messages already; write another queue")
    patterns: dict[str, Job[..., Any]] = {}
    for job in [job for job in jobs if job.enabled]:
        for pattern in job.files:
            if (rival := patterns.setdefault(pattern, job)).name != job.name:
                what = (
                    f"{rival.name} takes {pattern!r} already, and only one job may take a name; write another pattern"
                )
                yield Problem(job.place.rpartition(":")[0], f"{job.name}: files", what)
        if job.reply_queue in queues:
            what = f"{queues[job.reply_queue].name} would take its replies for requests; write another queue"
            yield Problem(job.place.rpartition(":")[0], f"{job.name}: reply_queue", what)
        for key in ("queue", "reply_queue"):
            if what := _kept_for_itself(getattr(job, key) or "", queues):
                yield Problem(job.place.rpartition(":")[0], f"{job.name}: {key}", what)


def _kept_for_itself(name: str, queues: Mapping[str, Job[..., Any]]) -> str:
    """Why a queue is not free: it is one of those that the worker declares beside a job's own."""
    beside = re.fullmatch(r"(.+)\.(dead|retry\.\d+)", name, re.DOTALL)
    if not beside or beside[1] not in queues:
        return ""
    owner = queues[beside[1]].name
    use = f"the dead letters of {owner} go there" if beside[2] == "dead" else f"messages of {owner} wait there"
    return f"{use}; write another queue"
