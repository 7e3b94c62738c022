"""The ledger's database: its clock, its transactions, and what its failures mean to the worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.errors import ConfigError, Paused, Problem
from worker.files import private_folder
from worker.ledger.schema import SCHEMA, metadata, schema_table

_insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_patience = {"sqlite": {"timeout": 30}, "postgresql": {"connect_timeout": 10}}  # seconds
_clock: dict[str, sa.ColumnElement[float]] = {
    "sqlite": sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Double),
    "postgresql": sa.literal_column("extract(epoch from clock_timestamp())::double precision", sa.Double),
}


class Database:
    """The connection to the ledger's database; its failures become ``ConfigError`` at start and ``Paused`` later."""

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._url = sa.make_url(url)
        self._dialect = self._url.get_backend_name()  # sqlite or postgresql
        self._clock = clock
        self._engine = sa.create_engine(self._url, connect_args=_patience[self._dialect], pool_pre_ping=True)
        if self._dialect == "sqlite":
            self._prepare_file(Path(str(self._url.database)))
            sa.event.listen(self._engine, "connect", _tune_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._reading = self._engine.execution_options(longshore_reads=True)
        # SQLite lets one write at a time, and has the others look again after a nap; here they queue.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._dialect == "sqlite" else nullcontext()
        self._open()

    @property
    def now(self) -> sa.ColumnElement[float]:
        """The database's clock, as an expression."""
        return sa.literal(self._clock()) if self._clock else _clock[self._dialect]

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
        return _insert[self._dialect](table)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction."""
        with _translated(), self._turn, self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent look."""
        with _translated(), self._reading.connect() as connection:
            yield connection

    def change(self, statement: sa.Executable) -> int:
        """Execute one statement in a transaction of its own; returns how many rows it changed."""
        with self.write() as connection:
            return connection.execute(statement).rowcount

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _prepare_file(self, path: Path) -> None:
        try:
            private_folder(path.parent)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's side files take over this mode
        except OSError as error:
            raise _unusable(path, f"cannot be written: {error.strerror}; check the folder's permissions") from error

    def _open(self) -> None:
        where = self._url.render_as_string(hide_password=True)
        try:
            with self._engine.begin() as connection:
                if self._dialect == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(1279676243)"))  # several may start at once
                schema_table.create(connection, checkfirst=True)
                found = connection.scalar(sa.select(schema_table.c.schema))
                if found is None:
                    connection.execute(schema_table.insert().values(schema=SCHEMA))
                elif found > SCHEMA:
                    what = f"has schema {found}, this program knows {SCHEMA}; use a newer Longshore or another ledger"
                    raise _unusable(where, what)
                metadata.create_all(connection)
        except sa.exc.SQLAlchemyError as error:
            raise _unusable(where, f"cannot be opened: {_reason(error)}; nothing in it was changed") from error


def _unusable(where: object, what: str) -> ConfigError:
    return ConfigError([Problem(str(where), "", f"the ledger {what}")])


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, see _begin_sqlite
    # FULL: a commit is on disk before the delivery's source is moved; NORMAL would lose the last ones at a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE waits for its turn; a transaction that turns from reading to writing would fail at once instead.
    reads = connection.get_execution_options().get("longshore_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise Paused(f"the ledger cannot be used: {_reason(error)}") from error


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its values."""
    return str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).strip().split("\n")[0]
