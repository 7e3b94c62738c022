"""``longshore`` as a process that starts at once: forked from one that has Python and the libraries loaded already.

Each is a real process, with a real death; only the second and a half that it takes to import everything is saved.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_LOADED = ["worker.app", "worker.cli", "worker.commands.checks", "worker.commands.screens", "crash_points"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_LOADED)


class Process:
    """What the tests want of a ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str], *, point: str, out: str | Path, log: str | Path) -> None:
        self._process = _context.Process(target=_main, args=(arguments, point, str(out), str(log)), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("longshore", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


@contextmanager
def longshore(
    *arguments: object, point: str = "", out: str | Path = os.devnull, log: str | Path = os.devnull
) -> Iterator[Process]:
    """Runs the command, its output in ``out``, its log in ``log``; it dies at that ``point`` of ``crash_points``."""
    Path(log).touch()  # there is something to look into from the start
    process = Process([str(each) for each in arguments], point=point, out=out, log=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _main(arguments: Sequence[str], point: str, out: str, log: str) -> None:
    for name, descriptor in ((out, 1), (log, 2)):
        opened = os.open(name, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    from crash_points import POINTS

    from worker.cli import main

    if point:
        POINTS[point]()
    sys.argv = ["longshore", *arguments]
    main()
