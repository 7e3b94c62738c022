"""A way to the ledger's database: what SQLite and what PostgreSQL need to keep the same promises."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from worker.errors import ConfigError, Problem
from worker.files import disk_fault, private_folder

PATIENCE_SECONDS = 10  # for another worker's transaction in PostgreSQL; each should take milliseconds

_options: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 30},  # seconds
    # A server that went away without a word is noticed within 20 seconds, as the kernel asks after it.
    "postgresql": {
        "connect_timeout": 10,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # milliseconds
        "client_encoding": "utf8",
    },
}


def make_engine(address: str) -> sa.Engine:
    """An engine for the address in the settings; raises ``ConfigError`` where there can be none."""
    try:
        url = sa.make_url(address)
        if "@" in (url.host or ""):
            raise ValueError("the rest of a password")
        options = _options[url.get_backend_name()].items()
        ours = {name: value for name, value in options if name not in url.query}
        can_go_away = url.get_backend_name() == "postgresql"
        engine = sa.create_engine(url, connect_args=ours, pool_pre_ping=can_go_away)
    except ImportError as error:
        what = 'needs the driver of PostgreSQL, which is not installed: pip install "longshore[postgresql]"'
        raise unusable("worker.state", what) from error
    except (sa.exc.ArgumentError, ValueError):  # whose words may quote a password
        what = "has an address that cannot be read; write postgresql+psycopg://USER:PASSWORD@HOST:5432/DATABASE"
        raise unusable("worker.state", f"{what}, with %40 for an @ in the password") from None
    if engine.dialect.name == "sqlite":
        _prepare_file(Path(str(url.database)))
        sa.event.listen(engine, "connect", _tune_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "connect", _tune_postgresql)
    return engine


@contextmanager
def alone(engine: sa.Engine) -> Iterator[None]:
    """Nobody else opens this SQLite file meanwhile: of two that turn a new one to WAL at once, one would fail."""
    if engine.dialect.name != "sqlite":
        yield
        return
    folder = os.open(Path(str(engine.url.database)).parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def unusable(where: object, what: str) -> ConfigError:
    """The worker cannot start with this ledger."""
    return ConfigError([Problem(str(where), "", f"the ledger {what}")])


def disk_advice(file: Path) -> str:
    """What to do, if it is the disk that nothing can be written on; else empty."""
    fault = disk_fault(file.parent)
    return fault and f"its disk {fault}"


def _prepare_file(path: Path) -> None:
    try:
        private_folder(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's side files take over this mode
    except OSError as error:
        advice = disk_advice(path) or "check the folder's permissions"
        raise unusable(path, f"cannot be written: {error.strerror}; {advice}") from error


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, see _begin_sqlite
    # FULL: a commit is on disk before the delivery's source is moved; NORMAL would lose the last ones at a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE waits for its turn; a transaction that turns from reading to writing would fail at once instead.
    options = connection.get_execution_options()
    if "longshore_single" not in options:
        connection.exec_driver_sql("BEGIN" if "longshore_reads" in options else "BEGIN IMMEDIATE")


def _tune_postgresql(connection: Any, _record: Any) -> None:
    # A worker that is stopped, or cut off, in the middle of a transaction must not hold up the others.
    for timeout in ("lock_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(f"SET {timeout} = '{PATIENCE_SECONDS}s'")
    # A worker that was told "done" has it on disk, as with SQLite, whatever is usual at that server.
    connection.execute("SET synchronous_commit = on")
    connection.commit()
