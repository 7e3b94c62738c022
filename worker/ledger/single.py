"""Statements of the ledger's that are transactions each, and are made durable later: one sync is for many of them.

Everybody sees such a statement at once, and the death of a process takes nothing back. A power cut might, until then.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import sqlalchemy as sa

_to_disk = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Single(Protocol):
    """Connections for such statements."""

    @property
    def written(self) -> int:
        """How many uses of a connection are over."""

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """One of them."""

    def sync(self, number: int) -> None:
        """Make durable what was written by the use with that number, and before; from any thread.

        Raises ``OSError`` where that cannot be; the next use tries to make good for it.
        """

    def close(self) -> None:
        """Give back what is open."""


def single(engine: sa.Engine) -> Single:
    """Connections of this engine."""
    return _File(engine) if engine.dialect.name == "sqlite" else _Server(engine)


class _Server:
    """A server's; the pool looks at each, as it may have been cut. They commit to disk (``synchronous_commit``)."""

    written = 0

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            yield connection

    def sync(self, number: int) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing stays open."""


class _File:
    """One connection to SQLite, for one thread at a time, which stays open: the pool winds each up at its end, with a
    hundred calls of functions.

    Its commits do not wait for the disk (``synchronous=NORMAL``, https://www.sqlite.org/pragma.html#pragma_synchronous):
    they are durable when the write-ahead log is synced, which is done here.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(longshore_single=True)
        self._path = f"{engine.url.database}-wal"
        self._kept: sa.Connection | None = None
        self._log = -1  # the open file: the same one for as long as the connection holds it
        self._syncing = threading.Lock()
        self._synced = 0
        self._failed = False  # the kernel may have dropped what it could not write: further syncs would prove nothing
        self.written = 0

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        try:
            connection = self._kept or self._open()
            if self._failed:
                self._copy(connection)
            yield connection
        except BaseException:
            self.close()
            raise
        self.written += 1

    def _open(self) -> sa.Connection:
        self._kept = connection = self._engine.connect()
        connection.detach()  # from the pool, whose connections are durable by themselves
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        connection.exec_driver_sql("PRAGMA user_version").all()  # a read opens the log
        return connection

    def _copy(self, connection: sa.Connection) -> None:
        """Move all that the log has into the database, which is synced then, so that nothing hangs on the log."""
        is_busy, written, copied = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
        self._failed = bool(is_busy) or copied < written  # somebody else is at it, or still reads what was there before

    def sync(self, number: int) -> None:
        if number <= self._synced:
            return
        with self._syncing:
            if number <= self._synced:  # somebody else's was for this one as well
                return
            self._sync()

    def _sync(self) -> None:
        written = self.written
        try:
            if self._failed or not self._kept:
                raise OSError(0, "its last sync has failed")
            if self._log < 0:
                self._log = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            _to_disk(self._log)
        except OSError:
            self._failed = True
            raise
        self._synced = written

    def close(self) -> None:
        with self._syncing:
            if self.written > self._synced:
                with suppress(OSError):  # of which ``sync`` tells whoever asks
                    self._sync()
            if self._log >= 0:
                os.close(self._log)
                self._log = -1
            if self._kept:
                self._kept.close()
                self._kept = None
