"""Up to when each job's ticks were seen to, and which delivery became of each."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from worker.ledger.database import Database
from worker.ledger.schema import delivery_table as deliveries
from worker.ledger.schema import fire_table as fires
from worker.ledger.schema import schedule_table as table
from worker.records import Scheduled

KEPT_SECONDS = 90 * 86_400.0  # how long it is remembered what became of a tick
AHEAD_SECONDS = 60.0  # ticks that were seen to for longer than this from now were made by a clock that went wrong


class Schedules:
    """The jobs that have a schedule; times are seconds since 1970 by the ledger's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> float:
        """The time by the clock that all workers share."""
        with self._database.read() as connection:
            return float(connection.scalar(sa.select(self._database.now)) or 0.0)

    def begin(self, job: str, definition: str) -> None:
        """This is the job's schedule from now on; a new or changed one has no past, and no tick is made for it."""
        now = self._database.now
        insert = self._database.insert(table).values(job=job, definition=definition, seen_to=now, released=0.0)
        unknown = (table.c.definition != definition) | (table.c.seen_to > now + AHEAD_SECONDS)
        anew = {"definition": definition, "seen_to": now}
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["job"], set_=anew, where=unknown))

    def read(self) -> dict[str, Scheduled]:
        """What is known of each job's schedule."""
        with self._database.read() as connection:
            return {row.job: Scheduled(*row) for row in connection.execute(sa.select(*table.c))}

    def see_to(
        self,
        seen: Scheduled,
        until: float,
        ticks: Mapping[float, str],
        *,
        run: Collection[float],
        release: bool = False,
    ) -> bool:
        """Move on: ``ticks`` (time -> name) are over, and those to ``run`` are waiting deliveries from now on.

        With ``release`` the job's files that are there by now may be taken. False, and nothing is done, if another
        worker was faster, or the schedule is another one by now.
        """
        same = (table.c.job == seen.job, table.c.definition == seen.definition, table.c.seen_to == seen.seen_to)
        values: dict[str, Any] = {"seen_to": until} | ({"released": self._database.now} if release else {})
        with self._database.write() as connection:
            if connection.execute(sa.update(table).where(*same).values(values)).rowcount != 1:
                return False
            its = fires.c.job == seen.job
            known = set(connection.scalars(sa.select(fires.c.time).where(its, fires.c.time.in_(ticks))))
            for time, name in ticks.items():
                if time not in known:  # else it was made before the ledger's clock was put back
                    made = self._make(connection, seen.job, name) if time in run else ""
                    connection.execute(sa.insert(fires).values(job=seen.job, time=time, delivery=made))
            connection.execute(sa.delete(fires).where(its, fires.c.time < until - KEPT_SECONDS))
        return True

    def _make(self, connection: sa.Connection, job: str, name: str) -> str:
        insert = self._database.insert(deliveries).values(
            trigger="schedule", source=name, job=job, state="waiting", version=1, created=self._database.now
        )
        anew = insert.on_conflict_do_nothing().returning(deliveries.c.id)
        while True:
            if made := connection.scalar(anew.values(id=secrets.token_hex(4))):
                return str(made)

    def is_busy(self, job: str) -> bool:
        """Whether a tick of the job is not finished yet."""
        with self._database.read() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(unfinished(deliveries, job)))))

    def failed(self, job: str) -> list[str]:
        """The ids of the job's ticks that failed."""
        its = (deliveries.c.trigger == "schedule", deliveries.c.job == job, deliveries.c.state == "failed")
        with self._database.read() as connection:
            return list(connection.scalars(sa.select(deliveries.c.id).where(*its)))

    def ticks(self, job: str, *, limit: int = 100) -> dict[float, str]:
        """What became of the job's last ticks: the time of each, and the delivery's id, "" where it was left out."""
        statement = sa.select(fires.c.time, fires.c.delivery).where(fires.c.job == job).order_by(fires.c.time.desc())
        with self._database.read() as connection:
            found = connection.execute(statement.limit(limit)).all()
        return {row.time: row.delivery for row in reversed(found)}


def unfinished(deliveries: Any, job: Any) -> sa.ColumnElement[bool]:
    """The ticks of a job that wait or run."""
    open_ones = deliveries.c.state.in_(["waiting", "running"])
    return sa.and_(deliveries.c.trigger == "schedule", deliveries.c.job == job, open_ones)


def out_of_turn() -> sa.ColumnElement[bool]:
    """A tick that has to wait: another one of its job came before it, or is running."""
    other = deliveries.alias()
    earlier = sa.tuple_(other.c.created, other.c.source) < sa.tuple_(deliveries.c.created, deliveries.c.source)
    before = unfinished(other, deliveries.c.job) & ((other.c.state == "running") | earlier)
    return sa.exists().where(other.c.id != deliveries.c.id, before).correlate(deliveries)
