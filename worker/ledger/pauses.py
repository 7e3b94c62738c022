"""Which backends are left alone just now, by whom, and why."""

from __future__ import annotations

import sqlalchemy as sa

from worker.ledger.database import Database
from worker.ledger.schema import pause_table as table
from worker.records import Pause

LONGEST = 3600.0
"""Seconds; a pause, a wait or a lease that seems to last for longer tells that the database's clock was put back, and
does not count. The settings allow no longer lease."""


class Pauses:
    """What the workers of a fleet tell each other about backends; times are by the database's clock."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    def tell(self, pause: Pause) -> None:
        """This worker's pause of a backend begins, goes on for another time, or is over."""
        now = self._database.now
        mine = (table.c.backend == pause.backend) & (table.c.owner == self._owner)
        with self._database.write() as connection:
            connection.execute(sa.delete(table).where(mine | (table.c.until < now)))
            if pause.seconds > 0:
                until = now + min(pause.seconds, LONGEST)
                values = {"backend": pause.backend, "is_down": pause.is_down, "reason": pause.reason, "until": until}
                connection.execute(sa.insert(table).values(owner=self._owner, **values))

    def current(self) -> list[Pause]:
        """Every worker's pauses that are not over."""
        left = table.c.until - self._database.now
        statement = sa.select(table.c.backend, left, table.c.is_down, table.c.reason, table.c.owner)
        with self._database.read() as connection:
            rows = connection.execute(statement.where(left > 0, left <= LONGEST).order_by(table.c.backend, left))
            return [Pause(*row) for row in rows]
