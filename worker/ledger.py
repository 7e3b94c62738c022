"""The durable memory: deliveries, tokens, job state. SQLite for one machine, PostgreSQL for a fleet.

Times are seconds since 1970 by the database's own clock, so that several hosts agree. Every change of hands is one
guarded UPDATE (``version``), never a lock or a transaction held while something else is waited for.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker import exact_json
from worker.errors import ConfigError, LostLease, Paused, Problem, sentence
from worker.files import private_folder
from worker.records import Delivery, Entry, TokenEntry

SCHEMA = 1

_metadata = sa.MetaData()
_schema = sa.Table("longshore", _metadata, sa.Column("schema", sa.Integer, nullable=False))
_columns: dict[str, tuple[type[sa.types.TypeEngine[Any]], Any]] = {  # by the type of Entry's field: type, default
    "str": (sa.String, ""),
    "int": (sa.BigInteger, 0),
    "float": (sa.Double, 0.0),
    "bool": (sa.Boolean, False),
    "float | None": (sa.Double, None),
}
_deliveries = sa.Table(
    "deliveries",
    _metadata,
    *(
        sa.Column(field.name, kind, primary_key=field.name == "id", nullable=default is None, default=default)
        for field in fields(Entry)
        for kind, default in [_columns[str(field.type)]]
    ),
    sa.Index("deliveries_by_state", "put_away", "state"),
)
_tokens = sa.Table(
    "tokens",
    _metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("expires", sa.Double, nullable=False, default=0.0),
    sa.Column("leader", sa.String, nullable=False, default=""),
    sa.Column("lease_until", sa.Double, nullable=False, default=0.0),
    sa.Column("failure", sa.String, nullable=False, default=""),
    sa.Column("retry_at", sa.Double, nullable=False, default=0.0),
)
_state = sa.Table(
    "job_state",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

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
        with _translated(), self._engine.begin() as connection:
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
                _schema.create(connection, checkfirst=True)
                found = connection.scalar(sa.select(_schema.c.schema))
                if found is None:
                    connection.execute(_schema.insert().values(schema=SCHEMA))
                elif found > SCHEMA:
                    what = f"has schema {found}, this program knows {SCHEMA}; use a newer Longshore or another ledger"
                    raise _unusable(where, what)
                _metadata.create_all(connection)
        except sa.exc.SQLAlchemyError as error:
            raise _unusable(where, f"cannot be opened: {_reason(error)}; nothing in it was changed") from error


class Ledger:
    """The deliveries; ``tokens`` and ``state`` beside them. ``owner`` signs what this worker takes.

    Raises ``ConfigError`` if the database cannot be opened or is newer than this program. What changes a delivery
    raises ``LostLease`` where its version is not the one that this worker took.
    """

    def __init__(
        self, url: str, *, owner: str = "", lease: float = 30.0, clock: Callable[[], float] | None = None
    ) -> None:
        self._database = Database(url, clock=clock)
        self._owner = owner
        self._lease = lease
        self.tokens = Tokens(self._database)
        self.state = JobState(self._database)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def announce(self, trigger: str, source: str, *, job: str = "") -> Entry:
        """Write down that a source is about to be claimed: a new delivery, owned by this worker."""
        values = {"trigger": trigger, "source": source, "job": job, "created": self._database.now, **self._leased()}
        values |= {"state": "waiting", "version": 1}
        while True:
            delivery = secrets.token_hex(4)
            statement = self._database.insert(_deliveries).values(id=delivery, **values).on_conflict_do_nothing()
            if self._database.change(statement):
                return self.get(delivery)

    def withdraw(self, entry: Entry) -> None:
        """Forget a delivery that could not be claimed: its source is still there, or somebody else's."""
        self._database.change(sa.delete(_deliveries).where(*_same(entry)))

    def take(self, gone: Callable[[str], bool], *, triggers: Sequence[str], limit: int) -> list[Entry]:
        """Take over what is due, oldest first: waiting long enough, or its owner is gone or was silent for too long."""
        open_ones = _deliveries.c.put_away.is_(False) & _deliveries.c.trigger.in_(triggers)
        with self._database.read() as connection:
            owners = connection.scalars(sa.select(_deliveries.c.owner).where(open_ones).distinct()).all()
            free = ["", *(owner for owner in owners if owner and gone(owner))]
            statement = sa.select(_deliveries).where(
                open_ones & (_deliveries.c.not_before <= self._database.now),
                _deliveries.c.owner.in_(free) | (_deliveries.c.lease_until < self._database.now),
            )
            due = connection.execute(statement.order_by(_deliveries.c.created, _deliveries.c.id).limit(limit)).all()
        return [taken for row in due if (taken := self._take_over(Entry(*row)))]

    def _take_over(self, entry: Entry) -> Entry | None:
        statement = sa.update(_deliveries).where(*_same(entry))
        taken = self._database.change(statement.values(version=entry.version + 1, **self._leased()))
        return self.get(entry.id) if taken else None

    def _leased(self) -> dict[str, Any]:
        return {"owner": self._owner, "lease_until": self._database.now + self._lease}

    def begin(self, entry: Entry, *, sha256: str, size: int) -> Entry:
        """One more attempt begins, on an input of that digest and size."""
        started = sa.func.coalesce(_deliveries.c.started, self._database.now)
        values = {"state": "running", "attempts": entry.attempts + 1, "error": "", "detail": ""}
        self._update(entry, sha256=sha256, bytes=size, started=started, **values)
        return self.get(entry.id)

    def guard(self, entry: Entry) -> None:
        """Renew the lease of one delivery, or raise ``LostLease``: called before anything becomes visible."""
        self._update(entry, **self._leased())

    def heartbeat(self, deliveries: Iterable[Delivery]) -> None:
        """Renew the leases of the deliveries that this worker is working on, and note how far they are."""
        with self._database.write() as connection:
            for delivery in deliveries:
                mine = (_deliveries.c.id == delivery.id) & (_deliveries.c.owner == self._owner)
                values = {**_how_far(delivery), **self._leased()}
                connection.execute(sa.update(_deliveries).where(mine).values(values))

    def release(self) -> None:
        """Let go of all that this worker owns: whoever comes first goes on with it."""
        mine = _deliveries.c.owner == self._owner
        self._database.change(sa.update(_deliveries).where(mine).values(owner="", lease_until=0.0))

    def finish(self, entry: Entry, delivery: Delivery, error: Exception | None) -> None:
        """Done, or failed with a reason; a done delivery's job state is kept in the same transaction."""
        values = {"state": "failed" if error else "done", "finished": self._database.now}
        with self._database.write() as connection:
            self._update_within(connection, entry, {**values, **_why(error), **_how_far(delivery)})
            if not error:
                self.state.save(connection, delivery.job, delivery.state)

    def give_up(self, entry: Entry, error: Exception) -> None:
        """Failed before it could be opened; there is nothing to put away."""
        self._update(entry, state="failed", finished=self._database.now, put_away=True, owner="", **_why(error))

    def put_back(self, entry: Entry, delivery: Delivery | None, error: Exception, *, hold_off: float) -> None:
        """Let go of a delivery, to be taken again, by whoever comes first, in ``hold_off`` seconds."""
        values = {"state": "waiting", "owner": "", "lease_until": 0.0, "not_before": self._database.now + hold_off}
        self._update(entry, **values, **_why(error), **_how_far(delivery))

    def put_away(self, entry: Entry) -> None:
        """The source lies where it belongs: nothing is left to do."""
        self._update(entry, put_away=True, owner="", lease_until=0.0)

    def hold(self, entry: Entry, *, detail: str, hold_off: float) -> None:
        """The end stands, but the source could not be put away yet: let somebody try again later."""
        later = self._database.now + hold_off
        self._update(entry, detail=detail, owner="", lease_until=0.0, not_before=later)

    def reopen(self, entry: Entry) -> bool:
        """Put a failed delivery back among the waiting; False if it is not failed any more."""
        statement = sa.update(_deliveries).where(*_same(entry), _deliveries.c.state == "failed")
        values = {"state": "waiting", "version": entry.version + 1, "put_away": False, "owner": "", "not_before": 0.0}
        return self._database.change(statement.values(values)) == 1

    def get(self, delivery: str) -> Entry:
        """One delivery; raises ``KeyError``."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_deliveries).where(_deliveries.c.id == delivery)).first()
        if row is None:
            raise KeyError(delivery)
        return Entry(*row)

    def entries(self, *, limit: int = 100) -> list[Entry]:
        """The newest deliveries, the unfinished ones first."""
        unfinished = _deliveries.c.state.in_(["waiting", "running"]).desc()
        order = (unfinished, _deliveries.c.created.desc(), _deliveries.c.id)
        with self._database.read() as connection:
            return [Entry(*row) for row in connection.execute(sa.select(_deliveries).order_by(*order).limit(limit))]

    def counts(self) -> dict[str, int]:
        """How many deliveries are waiting, running, done, failed."""
        statement = sa.select(_deliveries.c.state, sa.func.count()).group_by(_deliveries.c.state)
        with self._database.read() as connection:
            found: dict[str, int] = dict(connection.execute(statement).tuples().all())
        return {state: found.get(state, 0) for state in ("waiting", "running", "done", "failed")}

    def owners(self) -> set[str]:
        """Everybody who owns a delivery."""
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(_deliveries.c.owner).distinct()))

    def _update(self, entry: Entry, **values: Any) -> None:
        with self._database.write() as connection:
            self._update_within(connection, entry, values)

    def _update_within(self, connection: sa.Connection, entry: Entry, values: Mapping[str, Any]) -> None:
        if not connection.execute(sa.update(_deliveries).where(*_same(entry)).values(values)).rowcount:
            raise LostLease(f"delivery {entry.id} was taken over by another worker")


class Tokens:
    """The token store that all workers share (see ``worker.auth.store.TokenStore``); it never sees a token in clear."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, key: str) -> TokenEntry | None:
        """What is known under a key."""
        now, known = self._database.now, _tokens.c
        times = (known.expires - now, known.lease_until - now, known.retry_at - now)
        statement = sa.select(known.version, known.sealed, known.leader, known.failure, *times).where(known.key == key)
        with self._database.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        version, sealed, leader, failure, expires_in, lease_left, retry_in = row
        return TokenEntry(version, sealed, expires_in, leader, max(0.0, lease_left), failure, max(0.0, retry_in))

    def lead(self, key: str, owner: str, seconds: float) -> int | None:
        """Become the one that fetches, for some seconds; returns the lease's version, or None: not now."""
        now = self._database.now
        free = (_tokens.c.key == key) & (_tokens.c.lease_until <= now) & (_tokens.c.retry_at <= now)
        values = {"version": _tokens.c.version + 1, "leader": owner, "lease_until": now + seconds}
        with self._database.write() as connection:
            connection.execute(self._database.insert(_tokens).values(key=key).on_conflict_do_nothing())
            if not connection.execute(sa.update(_tokens).where(free).values(values)).rowcount:
                return None
            return connection.scalar(sa.select(_tokens.c.version).where(_tokens.c.key == key))

    def save(self, key: str, version: int, sealed: bytes, lifetime: float) -> bool:
        """Keep a new token for ``lifetime`` seconds; False if the lease is somebody else's by now."""
        expires = self._database.now + lifetime
        return self._end_lease(key, version, sealed=sealed, expires=expires, failure="", retry_at=0.0)

    def fail(self, key: str, version: int, failure: str, retry_in: float) -> bool:
        """Tell the others why there is no new token, and when to try again; an old one stays."""
        return self._end_lease(key, version, failure=failure, retry_at=self._database.now + retry_in)

    def forget(self, key: str, version: int) -> bool:
        """Drop the token if it is still the one of that version."""
        return self._end_lease(key, version, sealed=None)

    def _end_lease(self, key: str, version: int, **values: Any) -> bool:
        statement = sa.update(_tokens).where(_tokens.c.key == key, _tokens.c.version == version)
        return self._database.change(statement.values(version=version + 1, leader="", lease_until=0.0, **values)) == 1


class JobState:
    """What jobs remember from one delivery to the next: JSON values by job and key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, job: str) -> dict[str, Any]:
        """Everything that a job remembers."""
        statement = sa.select(_state.c.key, _state.c.value).where(_state.c.job == job)
        with self._database.read() as connection:
            return {key: json.loads(value) for key, value in connection.execute(statement)}

    def save(self, connection: sa.Connection, job: str, values: Mapping[str, Any]) -> None:
        """Remember values, within the transaction that says that their delivery is done."""
        for key, value in values.items():
            statement = self._database.insert(_state).values(job=job, key=key, value=exact_json.dumps(value))
            connection.execute(
                statement.on_conflict_do_update(index_elements=["job", "key"], set_={"value": statement.excluded.value})
            )


def _unusable(where: object, what: str) -> ConfigError:
    return ConfigError([Problem(str(where), "", f"the ledger {what}")])


def _same(entry: Entry) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return _deliveries.c.id == entry.id, _deliveries.c.version == entry.version


def _how_far(delivery: Delivery | None) -> dict[str, Any]:
    return {"job": delivery.job, "rows_done": delivery.counts.rows} if delivery else {}


def _why(error: Exception | None) -> dict[str, str]:
    return {"error": type(error).__name__ if error else "", "detail": sentence(error) if error else ""}


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
