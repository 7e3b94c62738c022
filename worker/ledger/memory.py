"""What jobs remember from one delivery to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from worker import exact_json
from worker.ledger.database import Database
from worker.ledger.schema import state_table as table


class JobState:
    """What jobs remember from one delivery to the next: JSON values by job and key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, job: str) -> dict[str, Any]:
        """Everything that a job remembers."""
        statement = sa.select(table.c.key, table.c.value).where(table.c.job == job)
        with self._database.read() as connection:
            return {key: json.loads(value) for key, value in connection.execute(statement)}

    def save(self, connection: sa.Connection, job: str, values: Mapping[str, Any]) -> None:
        """Remember values, within the transaction that says that their delivery is done."""
        for key, value in sorted(values.items()):  # two that save the same keys in two orders would block each other
            statement = self._database.insert(table).values(job=job, key=key, value=exact_json.dumps(value))
            connection.execute(
                statement.on_conflict_do_update(index_elements=["job", "key"], set_={"value": statement.excluded.value})
            )
