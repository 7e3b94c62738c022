"""The life of every delivery, from its announcement to the day its source is put away."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from worker.errors import LostLease, sentence
from worker.ledger.database import Database
from worker.ledger.memory import JobState
from worker.ledger.schema import attempt_table
from worker.ledger.schema import delivery_table as table
from worker.ledger.tokens import Tokens
from worker.records import Attempt, Delivery, Entry


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
        self._put_away: set[str] = set()
        self._in_hand: set[str] = set()
        self.tokens = Tokens(self._database)
        self.state = JobState(self._database)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def announce(self, trigger: str, source: str, *, job: str = "") -> Entry:
        """Write down that a source is about to be claimed: a new delivery, owned by this worker."""
        values = {"trigger": trigger, "source": source, "job": job, "created": self._database.now, **self._leased()}
        insert = self._database.insert(table).values(state="waiting", version=1, **values)
        while True:
            statement = insert.values(id=secrets.token_hex(4)).on_conflict_do_nothing().returning(*table.c)
            with self._write() as connection:
                if row := connection.execute(statement).first():
                    return Entry(*row)

    def withdraw(self, entry: Entry) -> None:
        """Forget a delivery that could not be claimed: its source is still there, or somebody else's."""
        self._database.change(sa.delete(table).where(*_same(entry)))

    def take(self, gone: Callable[[str], bool], *, triggers: Sequence[str], limit: int) -> list[Entry]:
        """Take over what is due, oldest first: waiting long enough, or its owner is gone or was silent for too long."""
        ours = self._in_hand.copy()  # after a long stop this may come before the heartbeat that renews their leases
        open_ones = table.c.put_away.is_(False) & table.c.trigger.in_(triggers) & table.c.id.not_in(ours)
        with self._database.read() as connection:
            owners = connection.scalars(sa.select(table.c.owner).where(open_ones).distinct()).all()
        free: sa.ColumnElement[bool] = table.c.owner.in_(["", *(owner for owner in owners if owner and gone(owner))])
        if self._database.steady_for >= self._lease:  # else whoever was silent had perhaps no ledger to talk to
            free |= table.c.lease_until < self._database.now
        statement = sa.select(table).where(open_ones, table.c.not_before <= self._database.now, free)
        with self._database.read() as connection:
            due = connection.execute(statement.order_by(table.c.created, table.c.id).limit(limit)).all()
        return [taken for row in due if (taken := self._take_over(Entry(*row)))]

    def _take_over(self, entry: Entry) -> Entry | None:
        try:
            return self._update(entry, version=entry.version + 1, **self._leased())
        except LostLease:
            return None

    def _leased(self) -> dict[str, Any]:
        return {"owner": self._owner, "lease_until": self._database.now + self._lease}

    def begin(self, entry: Entry, *, sha256: str, size: int) -> Entry:
        """One more attempt begins, on an input of that digest and size."""
        started = sa.func.coalesce(table.c.started, self._database.now)
        values = {"state": "running", "attempts": entry.attempts + 1, "error": "", "detail": "", **self._leased()}
        with self._write() as connection:
            begun = _change(connection, entry, {"sha256": sha256, "bytes": size, "started": started, **values})
            attempt = {"delivery": entry.id, "number": begun.attempts, "started": self._database.now}
            connection.execute(self._database.insert(attempt_table).values(owner=self._owner, **attempt))
        return begun

    @contextmanager
    def in_hand(self, delivery: str) -> Iterator[None]:
        """This worker is at that delivery: heartbeats renew its lease, however long it takes; it is not taken anew."""
        self._in_hand.add(delivery)
        try:
            yield
        finally:
            self._in_hand.discard(delivery)

    def guard(self, entry: Entry) -> None:
        """Raise ``LostLease`` unless the lease is good for a while: called before anything becomes visible."""
        left = table.c.lease_until - self._database.now
        with self._database.read() as connection:
            good = connection.scalar(sa.select(left > self._lease / 2).where(*_same(entry)))
        if not good:
            self._update(entry, **self._leased())

    def heartbeat(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases of what this worker is at, note how far ``deliveries`` are, and return those it has lost."""
        opening = self._in_hand.difference(delivery.id for delivery in deliveries)
        if not deliveries and not opening and not self._put_away:
            return []
        with self._write() as connection:
            for each in opening:
                self._renew(connection, each, None)
            return [delivery for delivery in deliveries if not self._renew(connection, delivery.id, delivery)]

    def _renew(self, connection: sa.Connection, delivery: str, progress: Delivery | None) -> bool:
        mine = (table.c.id == delivery) & (table.c.owner == self._owner)
        statement = sa.update(table).where(mine).values(**_how_far(progress), **self._leased())
        return connection.execute(statement).rowcount == 1

    def release(self) -> None:
        """Let go of all that this worker owns: whoever comes first goes on with it."""
        mine = table.c.owner == self._owner
        with self._write() as connection:
            connection.execute(sa.update(table).where(mine).values(owner="", lease_until=0.0))

    def finish(self, entry: Entry, delivery: Delivery, error: Exception | None) -> Entry:
        """Done, or failed with a reason; a done delivery's job state is kept in the same transaction."""
        values = {"state": "failed" if error else "done", "finished": self._database.now}
        with self._write() as connection:
            finished = _change(connection, entry, {**values, **_why(error), **_how_far(delivery)})
            self._end_attempt(connection, finished)
            if not error:
                self.state.save(connection, delivery.job, delivery.state)
        return finished

    def give_up(self, entry: Entry, error: Exception) -> None:
        """Failed before it could be opened; there is nothing to put away."""
        self._update(entry, state="failed", finished=self._database.now, put_away=True, owner="", **_why(error))

    def put_back(self, entry: Entry, delivery: Delivery | None, error: Exception, *, hold_off: float) -> None:
        """Let go of a delivery, to be taken again, by whoever comes first, in ``hold_off`` seconds."""
        values = {"state": "waiting", "owner": "", "lease_until": 0.0, "not_before": self._database.now + hold_off}
        with self._write() as connection:
            waiting = _change(connection, entry, {**values, **_why(error), **_how_far(delivery)})
            if delivery:  # else it was not even opened, and no attempt began
                self._end_attempt(connection, waiting)

    def _end_attempt(self, connection: sa.Connection, entry: Entry) -> None:
        this = (attempt_table.c.delivery == entry.id) & (attempt_table.c.number == entry.attempts)
        values = {"rows_done": entry.rows_done, "error": entry.error, "detail": entry.detail}
        connection.execute(sa.update(attempt_table).where(this).values(ended=self._database.now, **values))

    def put_away(self, entry: Entry) -> None:
        """The source lies where it belongs: nothing is left to do. Written down with the next change, a second later
        at the most; who finds it missing after a crash has nothing to move."""
        self._put_away.add(entry.id)

    def hold(self, entry: Entry, *, detail: str, hold_off: float) -> None:
        """The end stands, but the source could not be put away yet: let somebody try again later."""
        later = self._database.now + hold_off
        self._update(entry, detail=detail, owner="", lease_until=0.0, not_before=later)

    def reopen(self, entry: Entry) -> bool:
        """Put a failed delivery back among the waiting; False if it is not failed any more."""
        statement = sa.update(table).where(*_same(entry), table.c.state == "failed")
        values = {"state": "waiting", "version": entry.version + 1, "put_away": False, "owner": "", "not_before": 0.0}
        return self._database.change(statement.values(values)) == 1

    def get(self, delivery: str) -> Entry:
        """One delivery; raises ``KeyError``."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == delivery)).first()
        if row is None:
            raise KeyError(delivery)
        return Entry(*row)

    def attempts(self, delivery: str) -> list[Attempt]:
        """All runs of a delivery, in order."""
        statement = sa.select(attempt_table).where(attempt_table.c.delivery == delivery)
        with self._database.read() as connection:
            return [Attempt(*row) for row in connection.execute(statement.order_by(attempt_table.c.number))]

    def entries(self, *, limit: int = 100) -> list[Entry]:
        """The newest deliveries, the unfinished ones first."""
        unfinished = table.c.state.in_(["waiting", "running"]).desc()
        order = (unfinished, table.c.created.desc(), table.c.id)
        with self._database.read() as connection:
            return [Entry(*row) for row in connection.execute(sa.select(table).order_by(*order).limit(limit))]

    def counts(self) -> dict[str, int]:
        """How many deliveries are waiting, running, done, failed."""
        statement = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
        with self._database.read() as connection:
            found = {str(state): int(count) for state, count in connection.execute(statement)}
        return {state: found.get(state, 0) for state in ("waiting", "running", "done", "failed")}

    def owners(self) -> set[str]:
        """Everybody who owns a delivery."""
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(table.c.owner).distinct()))

    def _update(self, entry: Entry, **values: Any) -> Entry:
        with self._write() as connection:
            return _change(connection, entry, values)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._database.write() as connection:
            over = self._put_away.copy()
            mine = table.c.id.in_(over) & (table.c.owner == self._owner)
            if over:
                connection.execute(sa.update(table).where(mine).values(put_away=True, owner="", lease_until=0.0))
            yield connection
        self._put_away -= over


def _change(connection: sa.Connection, entry: Entry, values: Mapping[str, Any]) -> Entry:
    row = connection.execute(sa.update(table).where(*_same(entry)).values(values).returning(*table.c)).first()
    if row is None:
        raise LostLease(f"delivery {entry.id} was taken over by another worker")
    return Entry(*row)


def _same(entry: Entry) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return table.c.id == entry.id, table.c.version == entry.version


def _how_far(delivery: Delivery | None) -> dict[str, Any]:
    return {"job": delivery.job, "rows_done": delivery.counts.rows} if delivery else {}


def _why(error: Exception | None) -> dict[str, str]:
    return {"error": type(error).__name__ if error else "", "detail": sentence(error) if error else ""}
