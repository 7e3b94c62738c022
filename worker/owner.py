"""Who works on a delivery: this process's identity, and whether another's process is gone.

A worker holds a lock (flock) on a file of its own for as long as it lives; the kernel lets go of it at any death,
kill -9 too. So a worker of the same machine knows at once that an owner is gone; another machine's waits for the lease.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from worker import files


def _machine() -> str:
    """The same for all processes under one kernel, containers too, and new after each boot."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    return socket.gethostname()


def is_gone(folder: Path, name: str, *, machine: str | None = None) -> bool:
    """Whether the owner of that name, with a file in ``folder``, surely lives no more, as far as this machine can tell.

    Asked by somebody else; raises ``OSError`` where the file may not be opened.
    """
    if name.split(".")[0] != (machine or _machine()):
        return False
    try:
        handle = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)


class Owner:
    """One worker's identity, ``machine.pid.nonce``, and the proof that it lives."""

    def __init__(self, folder: Path, *, machine: str | None = None) -> None:
        self._folder = files.private_folder(folder)
        self._machine = machine or _machine()
        self.name = f"{self._machine}.{os.getpid()}.{secrets.token_hex(4)}"
        self._handle = os.open(self._folder / self.name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        """A process that a job has forked may outlive the worker, whose lock it would hold."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def gone(self, name: str) -> bool:
        """Whether that owner surely lives no more. One on another machine, or without a trace here, is not judged."""
        return name != self.name and is_gone(self._folder, name, machine=self._machine)

    def sweep(self, wanted: Container[str]) -> None:
        """Remove the traces of dead workers that nothing refers to any more."""
        for path in self._folder.iterdir():
            if path.name not in wanted and self.gone(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave in good order."""
        (self._folder / self.name).unlink(missing_ok=True)
        self._let_go()
