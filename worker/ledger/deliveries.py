"""The life of every delivery, from its announcement to the day its source is put away."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from worker.errors import LostLease, sentence
from worker.ledger.changes import Changes, of
from worker.ledger.database import Database
from worker.ledger.memory import JobState
from worker.ledger.messages import Messages
from worker.ledger.pauses import LONGEST, Pauses
from worker.ledger.schedules import Schedules, out_of_turn
from worker.ledger.schema import attempt_table
from worker.ledger.schema import delivery_table as table
from worker.ledger.tokens import Tokens
from worker.records import STATES, Attempt, Delivery, Entry

_ENDED = table.c.state.in_(["done", "failed"])


class Ledger:
    """The deliveries; ``messages``, ``tokens``, ``state`` and ``pauses`` beside them.

    ``owner`` signs what this worker takes.

    Raises ``ConfigError`` if the database cannot be opened or is newer than this program. What changes a delivery
    raises ``LostLease`` where its version is not the one that this worker took.
    """

    def __init__(
        self, url: str, *, owner: str = "", lease: float = 30.0, clock: Callable[[], float] | None = None
    ) -> None:
        self._database = Database(url, clock=clock)
        self._changes = Changes(self._database, owner, lease)
        self._owner = owner
        self._lease = lease
        self._put_away: dict[str, str] = {}
        self._in_hand: set[str] = set()
        self._held: set[str] = set()
        self.tokens = Tokens(self._database)
        self.state = JobState(self._database)
        self.messages = Messages(self._database, self.state, owner, lease)
        self.schedules = Schedules(self._database)
        self.pauses = Pauses(self._database, owner)

    def examine(self) -> None:
        """Read all of it, where it is a file; raises ``Damaged``."""
        self._database.examine()

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def announce(self, trigger: str, source: str, *, job: str = "") -> Entry:
        """Write down that a source is about to be claimed: a new delivery, owned by this worker."""
        values = {"trigger": trigger, "source": source, "job": job}
        while True:
            with self._write() as connection:
                row = connection.execute(self._changes.announce, {"id": secrets.token_hex(4), **values}).first()
                if row:
                    return Entry(*row)

    def adopt(self, delivery: str, trigger: str, source: str, *, attempts: int) -> None:
        """Write down a delivery that a lost ledger knew: it waits, and was begun so often already."""
        values = {"id": delivery, "trigger": trigger, "source": source, "attempts": attempts}
        insert = self._database.insert(table).values(state="waiting", version=1, created=self._database.now, **values)
        self._database.change(insert.on_conflict_do_nothing())

    def known(self, deliveries: Iterable[str]) -> set[str]:
        """Which of these it knows."""
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(table.c.id).where(table.c.id.in_(list(deliveries)))))

    def withdraw(self, entry: Entry) -> bool:
        """Forget a delivery that could not be claimed; False if another worker has taken it over."""
        return self._database.change(sa.delete(table).where(*_same(entry))) == 1

    def take(self, gone: Callable[[str], bool], *, triggers: Sequence[str], limit: int) -> list[Entry]:
        """Take over what is due, oldest first: waiting long enough, or its owner is gone or was silent for too long.

        The ticks of a job come one after the other. What another worker, or an earlier start, could not put away is due
        at once: what was in the way then need not be so here and now.
        """
        ours = self._in_hand.copy()  # after a long stop this may come before the heartbeat that renews their leases
        open_ones = table.c.put_away.is_(False) & table.c.trigger.in_(triggers) & table.c.id.not_in(ours)
        with self._database.read() as connection:
            owners = connection.scalars(sa.select(table.c.owner).where(open_ones).distinct()).all()
        free: sa.ColumnElement[bool] = table.c.owner.in_(["", *(owner for owner in owners if owner and gone(owner))])
        if self._database.steady_for >= self._lease:  # else whoever was silent had perhaps no ledger to talk to
            free |= self._database.is_over(table.c.lease_until, self._lease)
        due = self._database.is_over(table.c.not_before, 0.0) | (_ENDED & table.c.id.not_in(self._held.copy()))
        statement = sa.select(table).where(open_ones, due, free)
        if "schedule" in triggers:
            statement = statement.where(_ENDED | ~out_of_turn())
        with self._database.read() as connection:
            found = connection.execute(statement.order_by(table.c.created, table.c.id).limit(limit)).all()
        return [taken for row in found if (taken := self._take_over(Entry(*row)))]

    def _take_over(self, entry: Entry) -> Entry | None:
        try:
            return self._change(self._changes.take, entry)
        except LostLease:
            return None

    def begin(self, entry: Entry, *, sha256: str, size: int) -> Entry:
        """One more attempt begins, on an input of that digest and size."""
        attempts = entry.attempts + 1
        values = {"state": "running", "attempts": attempts, "error": "", "detail": "", "sha256": sha256, "bytes": size}
        with self._write() as connection:
            begun = _change(connection, self._changes.begin, entry, **values)
            connection.execute(self._changes.begin_attempt, {"delivery": entry.id, "number": attempts})
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
        with self._database.read() as connection:
            good = connection.scalar(self._changes.guard, of(entry))
        if not good:
            self._change(self._changes.keep, entry)

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
        return connection.execute(self._changes.renew, {"this": delivery, **_how_far(progress)}).rowcount == 1

    def release(self) -> None:
        """Let go of all that this worker owns: whoever comes first goes on with it."""
        mine = table.c.owner == self._owner
        state = sa.case((table.c.state == "running", "waiting"), else_=table.c.state)
        with self._write() as connection:
            connection.execute(sa.update(table).where(mine).values(owner="", lease_until=0.0, state=state))
        self.messages.release()

    def finish(self, entry: Entry, delivery: Delivery, error: Exception | None) -> Entry:
        """Done, or failed with a reason; a done delivery's job state is kept in the same transaction."""
        end = {"state": "failed" if error else "done", **_why(error), **_how_far(delivery)}
        with self._write() as connection:
            finished = _change(connection, self._changes.finish, entry, **end)
            self._end_attempt(connection, finished)
            if not error:
                self.state.save(connection, delivery.job, delivery.state, question=delivery.question)
        return finished

    def give_up(self, entry: Entry, error: Exception) -> None:
        """Failed before it could be opened; there is nothing to put away."""
        self._change(self._changes.finish, entry, state="failed", put_away=True, owner="", **_why(error))

    def put_back(self, entry: Entry, delivery: Delivery | None, error: Exception, *, hold_off: float) -> None:
        """Let go of a delivery, to be taken again, by whoever comes first, in ``hold_off`` seconds."""
        values = {"state": "waiting", "hold_off": min(hold_off, LONGEST), **_why(error), **_how_far(delivery)}
        with self._write() as connection:
            waiting = _change(connection, self._changes.let_go, entry, **values)
            if delivery:  # else it was not even opened, and no attempt began
                self._end_attempt(connection, waiting)

    def _end_attempt(self, connection: sa.Connection, entry: Entry) -> None:
        values = {"rows_done": entry.rows_done, "error": entry.error, "detail": entry.detail}
        connection.execute(self._changes.end_attempt, {"this": entry.id, "run": entry.attempts, **values})

    def put_away(self, entry: Entry) -> None:
        """The source lies where it belongs: nothing is left to do. Written down with the next change, a second later
        at the most; who finds it missing after a crash has nothing to move."""
        self._put_away[entry.id] = entry.detail

    def hold(self, entry: Entry, *, detail: str, hold_off: float) -> None:
        """The end stands, but the source could not be put away yet: try again later, unless somebody else does."""
        self._held.add(entry.id)
        self._change(self._changes.let_go, entry, detail=detail, hold_off=min(hold_off, LONGEST))

    def reopen(self, entry: Entry) -> bool:
        """Put a failed delivery back among the waiting; False if it is not failed any more."""
        statement = sa.update(table).where(*_same(entry), table.c.state == "failed")
        values = {"state": "waiting", "version": entry.version + 1, "put_away": False, "owner": "", "not_before": 0.0}
        return self._database.change(statement.values(**values, **_why(None))) == 1

    def get(self, delivery: str) -> Entry:
        """One delivery; raises ``KeyError``."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == delivery)).first()
        return Entry(*row) if row else self.messages.get(delivery)

    def attempts(self, delivery: str) -> list[Attempt]:
        """All runs of a delivery, in order."""
        statement = sa.select(attempt_table).where(attempt_table.c.delivery == delivery)
        with self._database.read() as connection:
            return [Attempt(*row) for row in connection.execute(statement.order_by(attempt_table.c.number))]

    def entries(self, *, limit: int = 100) -> list[Entry]:
        """The newest deliveries, messages among them, the unfinished ones first."""
        unfinished = table.c.state.in_(["waiting", "running"]).desc()
        order = (unfinished, table.c.created.desc(), table.c.id)
        with self._database.read() as connection:
            found = [Entry(*row) for row in connection.execute(sa.select(table).order_by(*order).limit(limit))]
        return sorted(found + self.messages.entries(limit=limit), key=_unfinished_and_new_first)[:limit]

    def silent(self) -> set[str]:
        """The deliveries, messages among them, that a worker is at, as far as known, whose lease is over."""
        over = self._database.is_over(table.c.lease_until, self._lease)
        with self._database.read() as connection:
            found = set(connection.scalars(sa.select(table.c.id).where(table.c.state == "running", over)))
        return found | self.messages.silent()

    def counts(self) -> dict[str, int]:
        """How many deliveries are waiting, running, done, failed."""
        statement = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
        with self._database.read() as connection:
            found = Counter({str(state): int(count) for state, count in connection.execute(statement)})
        found.update(self.messages.counts())
        return {state: found[state] for state in STATES}

    def unsettled(self) -> int:
        """How many deliveries of files and ticks this worker has begun, and not been able to write the end of."""
        statement = sa.select(sa.func.count()).where(table.c.owner == self._owner, table.c.state == "running")
        with self._database.read() as connection:
            return int(connection.scalar(statement) or 0)

    def owners(self) -> set[str]:
        """Everybody who owns a delivery."""
        with self._database.read() as connection:
            found = set(connection.scalars(sa.select(table.c.owner).distinct()))
        return found | self.messages.owners()

    def _change(self, change: sa.Update, entry: Entry, **values: Any) -> Entry:
        with self._write() as connection:
            return _change(connection, change, entry, **values)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._database.write() as connection:
            if over := self._put_away.copy():
                found = [{"this": delivery, "ended_as": detail} for delivery, detail in over.items()]
                connection.execute(self._changes.put_away, found)
            yield connection
        for delivery in over:
            self._put_away.pop(delivery, None)


def _change(connection: sa.Connection, change: sa.Update, entry: Entry, **values: Any) -> Entry:
    row = connection.execute(change, {**of(entry), **values}).first()
    if row is None:
        raise LostLease(f"delivery {entry.id} was taken over by another worker")
    return Entry(*row)


def _same(entry: Entry) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return table.c.id == entry.id, table.c.version == entry.version


def _unfinished_and_new_first(entry: Entry) -> tuple[bool, float, str]:
    return entry.state not in ("waiting", "running"), -entry.created, entry.id


def _how_far(delivery: Delivery | None) -> dict[str, Any]:
    if not delivery:
        return {}
    known = {"sha256": delivery.input.sha256, "bytes": delivery.input.bytes}
    return {"job": delivery.job, "rows_done": delivery.counts.rows, **known}


def _why(error: Exception | None) -> dict[str, str]:
    return {"error": type(error).__name__ if error else "", "detail": sentence(error) if error else ""}
