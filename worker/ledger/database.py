"""The ledger's database: its clock, its transactions, and what its failures mean to the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.errors import Damaged, Paused
from worker.ledger.engine import alone, disk_advice, make_engine, unusable
from worker.ledger.schema import SCHEMA, metadata, schema_table
from worker.ledger.single import single

_insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_clock = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
_by_code_point = {"sqlite": "BINARY", "postgresql": "C"}
_placeholder = {"sqlite": "?", "postgresql": "%s"}
_PUT_BACK = 3600.0  # seconds: by more than that, a clock holds nothing up for as long as it was put back
_MOST_ROWS = 512  # of a statement, which takes some 30,000 values
_STEP_ROWS = 16  # from one size of a statement to the next: drivers keep each

_MOVE_AWAY = "move it away with its -wal and -shm, and a start makes a new one"


class Database:
    """The connection to the ledger's database; its failures become ``ConfigError`` at start and ``Paused`` later."""

    def __init__(self, address: str, *, clock: Callable[[], float] | None = None) -> None:
        self._ticks = clock or time.monotonic
        self._away, self._back_at = False, float("-inf")
        self._engine = make_engine(address)
        self._dialect = self._engine.dialect.name  # sqlite or postgresql
        self.now: sa.ColumnElement[float] = (  # the database's clock, as an expression
            sa.bindparam("now", callable_=clock, type_=sa.Double, unique=True)
            if clock
            else sa.literal_column(_clock[self._dialect], sa.Double)
        )
        self._clock = clock
        self._single = single(self._engine)
        self._reading = self._engine.execution_options(longshore_reads=True)
        # SQLite lets one write at a time, and has the others look again after a nap; here they queue.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._dialect == "sqlite" else nullcontext()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def steady_for(self) -> float:
        """Seconds since the database was last away, as far as this worker has noticed."""
        return self._ticks() - self._back_at

    def is_over(self, until: sa.ColumnElement[float], most: float) -> sa.ColumnElement[bool]:
        """That time has come, or the clock has been put back by more than an hour since it was set ``most`` ahead."""
        return (until <= self.now) | (until > self.now + _PUT_BACK + most)

    def by_code_point(self, text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
        """To order by as Python does, whatever language the database speaks."""
        return sa.collate(text, _by_code_point[self._dialect])

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
        return _insert[self._dialect](table)

    def change_all(
        self,
        connection: sa.Connection,
        statement: str,
        rows: Sequence[tuple[Any, ...]],
        common: tuple[Any, ...] = (),
    ) -> int:
        """Execute a statement over rows, for many of them at once; returns how many it changed.

        ``{rows}`` in it becomes their VALUES, some of them perhaps rows of empty texts and zeros; ``{now}`` the clock,
        and each ``{value}`` after these one of ``common``. Executed for each row, it would give up and ask for Python's
        lock as often, among threads that are all busy.
        """
        now = repr(self._clock()) if self._clock else _clock[self._dialect]
        changed = 0
        for at in range(0, len(rows), _MOST_ROWS):
            some = rows[at : at + _MOST_ROWS]
            size, width = _size(len(some)), len(rows[0])
            text = _over(statement, size, width, _placeholder[self._dialect], now)
            empty = [type(value)() for value in rows[0]]  # sqlite3 takes several times as long for None
            values = *chain.from_iterable(some), *empty * (size - len(some)), *common
            changed += connection.exec_driver_sql(text, values).rowcount
        return changed

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction."""
        with self._translated(), self._turn, self._engine.begin() as connection:
            yield connection

    @contextmanager
    def single(self) -> Iterator[sa.Connection]:
        """For statements each of which is a transaction, and is durable once it is synced; ``written`` counts them.

        A transaction's begin and commit give up Python's lock as well, and wait for it among threads that are all busy.
        """
        with self._translated(), self._turn, self._single.connection() as connection:
            yield connection

    @property
    def written(self) -> int:
        """The number of the last use of ``single``."""
        return self._single.written

    def sync(self, number: int) -> None:
        """Make what ``single`` was used for, up to that number, last beyond a power cut; from any thread.

        Raises ``Paused`` where the disk does not take it.
        """
        try:
            self._single.sync(number)
        except OSError as error:
            self._away = True
            raise Paused(f"the ledger cannot be made durable: {error.strerror}; see to its disk") from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that only looks."""
        with self._translated(), self._reading.connect() as connection:
            yield connection

    def change(self, statement: sa.Executable) -> int:
        """Execute one statement in a transaction of its own; returns how many rows it changed."""
        with self.write() as connection:
            return connection.execute(statement).rowcount

    def examine(self) -> None:
        """Read all of an SQLite file; raises ``Damaged``. A server sees to its files itself."""
        if self._dialect == "sqlite":
            with self.read() as connection:
                found = str(connection.scalar(sa.text("PRAGMA quick_check(1)")))
            if found != "ok":
                raise Damaged(f"the ledger is malformed: {found.splitlines()[-1]}; stop all workers, then {_MOVE_AWAY}")

    def close(self) -> None:
        """Give the connections back."""
        self._single.close()
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            self._away = True
            what = f"the ledger cannot be used: {_reason(error)}"
            if _is_damage(error):
                raise Damaged(f"{what}; stop all workers, then {_MOVE_AWAY}") from error
            raise Paused(what) from error
        if self._away:
            self._away, self._back_at = False, self._ticks()

    def _open(self) -> None:
        where = self._engine.url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password, too
        try:
            with alone(self._engine), self._engine.begin() as connection:
                if self._dialect == "postgresql" and (fault := _claim_postgresql(connection)):
                    raise unusable(where, fault)
                schema_table.create(connection, checkfirst=True)
                found = connection.scalar(sa.select(schema_table.c.schema))
                if found is None:
                    connection.execute(schema_table.insert().values(schema=SCHEMA))
                elif found > SCHEMA:
                    what = f"has schema {found}, this program knows {SCHEMA}; use a newer Longshore or another ledger"
                    raise unusable(where, what)
                metadata.create_all(connection)
        except sa.exc.SQLAlchemyError as error:
            raise unusable(where, f"cannot be opened: {_reason(error)}; {self._advice(error)}") from error

    def _advice(self, error: sa.exc.SQLAlchemyError) -> str:
        """What to do about a database that cannot be opened."""
        if _is_damage(error):
            return f"nothing in it was changed; {_MOVE_AWAY}"
        if _name(error).startswith("SQLITE_BUSY"):
            return "another process holds it; see which one (fuser) and end it, then start again"
        at_fault = self._dialect == "sqlite" and disk_advice(Path(str(self._engine.url.database)))
        return at_fault or "nothing in it was changed"


def _size(rows: int) -> int:
    """Of the statement for so many: a power of two, or a multiple of ``_STEP_ROWS``."""
    step = min(1 << (rows - 1).bit_length(), _STEP_ROWS)
    return -(-rows // step) * step


@lru_cache(maxsize=64)
def _over(statement: str, rows: int, values: int, placeholder: str, now: str) -> str:
    row = f"({', '.join([placeholder] * values)})"
    return statement.format(rows=f"VALUES {', '.join([row] * rows)}", now=now, value=placeholder)


def _claim_postgresql(connection: sa.Connection) -> str:
    """Wait for others that make the tables just now; returns why a database is of no use, empty if it is."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(1279676243)"))
    encoding = connection.scalar(sa.text("SHOW server_encoding"))
    return "" if encoding == "UTF8" else f"is in {encoding}; make the database with ENCODING 'UTF8'"


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its values."""
    return str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).strip().split("\n")[0]


def _is_damage(error: sa.exc.SQLAlchemyError) -> bool:
    return _name(error).startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


def _name(error: sa.exc.SQLAlchemyError) -> str:
    """SQLite's name for what went wrong; empty for another database's."""
    return getattr(error.orig, "sqlite_errorname", "") if isinstance(error, sa.exc.DBAPIError) else ""
