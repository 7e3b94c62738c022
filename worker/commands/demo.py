"""The demo: a sandbox, a project made anew, and the sample files on their way through it."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker import files
from worker.app import App
from worker.commands import publish
from worker.commands.scaffold import EXAMPLES, make_project
from worker.errors import ConfigError, Problem, WorkerError

_MARK = ".longshore-demo"
_MESSAGE = b'{"client_id": "000001", "practitioner_id": "6bfde1a2-b4fe-3ef0-a2e7-c1719bc64aee"}'
_BETWEEN_FILES = 0.3  # seconds
_LONG_ENOUGH = 120.0  # seconds


def make(folder: Path, connections: str) -> Path:
    """The demo's project, in place of one that an earlier demo made; returns its settings' file.

    Raises ``ConfigError`` if the folder is somebody else's.
    """
    try:
        if (folder / _MARK).exists():
            shutil.rmtree(folder)
        folder.mkdir()
        (folder / _MARK).write_text("The next `longshore demo` makes this folder anew.\n")
        return make_project(folder, connections, tuple(file.name for file in (EXAMPLES / "jobs").glob("*.py")))
    except FileExistsError:
        what = "exists, and no demo made it; move it away, or start the demo in another folder"
    except OSError as error:
        what = f"the demo cannot be made there: {error.strerror}; start it in another folder"
    raise ConfigError([Problem(str(folder), "", what)])


@contextmanager
def running(worker: App) -> Iterator[None]:
    """The worker runs in a thread meanwhile."""
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        yield
    finally:
        worker.stop.set()
        thread.join()


def drop_samples(worker: App) -> None:
    """Drop one sample file after another into the inbox; returns when all are settled, or the worker is stopped."""
    samples = sorted(file for file in (EXAMPLES / "sample_inbox").iterdir() if file.suffix != ".md")
    for sample in samples:
        drop(sample, worker.settings.worker.inbox)
        worker.stop.wait(_BETWEEN_FILES)
    end = time.monotonic() + _LONG_ENOUGH
    while not worker.stop.wait(0.1):
        settled = (entry.trigger == "inbox" and entry.finished for entry in worker.ledger.entries())
        if sum(map(bool, settled)) >= len(samples):
            return
        if time.monotonic() > end:
            raise WorkerError(f"not all files are settled after {_LONG_ENOUGH:.0f} s; `longshore status` says why")


def ask(worker: App) -> str:
    """Where a broker is configured: send a message, and say what it was and what came back; else empty."""
    job, amqp = worker.jobs["client_summary"], worker.settings.amqp
    if not amqp or not job.queue:
        return ""
    reply = publish.ask(amqp, job.queue, _MESSAGE, timeout=_LONG_ENOUGH)
    return f"A message to the queue {job.queue}:  {_MESSAGE.decode()}\nwas answered:  {reply}"


def drop(file: Path, inbox: Path) -> None:
    """Let a copy of a file appear whole in an inbox, as a careful sender does."""
    target = inbox / file.name
    shutil.copyfile(file, files.hidden(target))
    files.hidden(target).rename(target)


def totals(accounts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows, calls by backend and token requests of all deliveries together."""
    calls: Counter[str] = Counter()
    sums: Counter[str] = Counter(rows_in=0, token_requests=0)
    for each in accounts:
        calls.update(each.get("calls", {}))
        sums.update({name: each.get(name, 0) for name in sums})
    return {**sums, "calls": dict(sorted(calls.items()))}
