"""Statements of SQLite's that are durable once they are synced."""

import errno
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from worker.errors import Paused
from worker.ledger import single as module
from worker.ledger.database import Database
from worker.ledger.engine import make_engine
from worker.ledger.single import single


class Disk:
    """Counts the syncs, and fails where it is told to."""

    def __init__(self):
        self.syncs, self.broken = 0, False

    def sync(self, handle):
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        assert handle > 0
        self.syncs += 1


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(module, "_to_disk", disk.sync)
    return disk


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER)")
    yield engine
    engine.dispose()


@pytest.fixture
def statements(engine):
    statements = single(engine)
    yield statements
    statements.close()


def write(statements, number):
    with statements.connection() as connection:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
    return statements.written


def fail_to_sync(statements, disk):
    """Write a one that the disk does not take; afterwards the disk is well again."""
    number = write(statements, 1)
    disk.broken = True
    with pytest.raises(OSError, match="Input/output error"):
        statements.sync(number)
    disk.broken = False


def test_what_is_written_is_seen_by_others_before_it_is_synced(statements, engine, disk):
    write(statements, 1)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT number FROM numbers")) == 1
    assert disk.syncs == 0


def test_one_sync_is_for_all_that_was_written_before(statements, disk):
    first, second = write(statements, 1), write(statements, 2)
    for number in (second, first, second):
        statements.sync(number)
    assert disk.syncs == 1
    statements.sync(write(statements, 3))
    assert disk.syncs == 2


def test_of_many_threads_that_want_the_same_synced_one_does_it(statements, disk):
    number = write(statements, 1)
    threads = [threading.Thread(target=statements.sync, args=[number]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert disk.syncs == 1


def test_after_a_sync_that_failed_none_is_believed_until_all_lies_in_the_database_itself(statements, disk, tmp_path):
    fail_to_sync(statements, disk)
    with pytest.raises(OSError, match="its last sync has failed"):
        statements.sync(statements.written)
    statements.sync(write(statements, 2))
    shutil.copy(tmp_path / "state.db", tmp_path / "after.db")
    assert numbers(tmp_path / "after.db") == [1], "without the log, in which the second is"
    assert disk.syncs == 1


def numbers(database):
    with sqlite3.connect(database) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM numbers")]


def test_as_long_as_a_reader_is_in_the_way_of_that_nothing_is_said_to_be_durable(statements, engine, disk):
    with engine.execution_options(longshore_reads=True).connect() as reader:
        reader.execute(sa.text("SELECT number FROM numbers")).all()
        fail_to_sync(statements, disk)
        number = write(statements, 2)
        with pytest.raises(OSError, match="its last sync has failed"):
            statements.sync(number)
    statements.sync(write(statements, 3))
    assert disk.syncs == 1


def test_while_somebody_else_copies_nothing_is_said_to_be_durable(statements, disk, tmp_path):
    fail_to_sync(statements, disk)
    with copying(tmp_path / "state.db-shm"):
        number = write(statements, 2)
        with pytest.raises(OSError, match="its last sync has failed"):
            statements.sync(number)
    statements.sync(write(statements, 3))
    assert disk.syncs == 1


COPIER = """
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 121)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def copying(index):
    """Another process that has the lock of those who copy (https://www.sqlite.org/walformat.html, WAL_CKPT_LOCK)."""
    command = [sys.executable, "-c", COPIER, index]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        yield
        other.communicate()


def test_other_connections_wait_for_the_disk_as_ever(statements, engine, disk):
    def levels():
        reading = engine.execution_options(longshore_reads=True)
        connections = [reading.connect() for _ in range(3)]
        found = [connection.exec_driver_sql("PRAGMA synchronous").scalar() for connection in connections]
        for connection in connections:
            connection.close()
        return found

    write(statements, 1)
    assert levels() == [2, 2, 2]
    with pytest.raises(sa.exc.SQLAlchemyError), statements.connection() as connection:
        connection.exec_driver_sql("INSERT INTO nothing VALUES (1)")
    assert levels() == [2, 2, 2]


def test_after_a_statement_that_failed_the_next_one_is_written_and_synced(statements, engine, disk):
    write(statements, 1)
    with pytest.raises(sa.exc.SQLAlchemyError), statements.connection() as connection:
        connection.exec_driver_sql("INSERT INTO nothing VALUES (1)")
    assert disk.syncs == 1, "whoever asks for the first has it"
    statements.sync(1)
    assert disk.syncs == 1
    statements.sync(write(statements, 2))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT number FROM numbers")).scalars().all() == [1, 2]
    assert disk.syncs == 2


def test_a_ledger_whose_disk_fails_says_what_it_is_and_goes_on_when_that_is_over(tmp_path, disk):
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    disk.broken = True
    with database.single() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 1")
    with pytest.raises(Paused, match="the ledger cannot be made durable: Input/output error; see to its disk"):
        database.sync(database.written)
    disk.broken = False
    with database.single() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 2")
    database.sync(database.written)
    assert disk.syncs == 1
    database.close()
