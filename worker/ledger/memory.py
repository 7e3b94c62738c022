"""What jobs remember from one delivery to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from worker import exact_json
from worker.ledger.database import Database
from worker.ledger.schema import question_table as questions
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

    def ask(self, job: str) -> int:
        """The number of the question that a job's source is about to be asked; a later one has a higher number."""
        insert = self._database.insert(questions).values(job=job, asked=1, kept=0)
        again = insert.on_conflict_do_update(index_elements=["job"], set_={"asked": questions.c.asked + 1})
        with self._database.write() as connection:
            return int(connection.execute(again.returning(questions.c.asked)).scalar_one())

    def save(self, connection: sa.Connection, job: str, values: Mapping[str, Any], *, question: int = 0) -> None:
        """Remember values, within the transaction that says that their delivery is done.

        Those of a ``question`` are forgotten if what a later one found is remembered already: a watermark that went
        back would give the rows in between once more.
        """
        if values and question and not self._is_newest(connection, job, question):
            return
        for key, value in sorted(values.items()):  # two that save the same keys in two orders would block each other
            statement = self._database.insert(table).values(job=job, key=key, value=exact_json.dumps(value))
            connection.execute(
                statement.on_conflict_do_update(index_elements=["job", "key"], set_={"value": statement.excluded.value})
            )

    def _is_newest(self, connection: sa.Connection, job: str, question: int) -> bool:
        insert = self._database.insert(questions).values(job=job, asked=question, kept=question)
        # A ledger that was put back from a copy has not counted this question.
        asked = sa.case((questions.c.asked < question, question), else_=questions.c.asked)
        newer = {"asked": asked, "kept": question}
        last = questions.c.kept <= question
        statement = insert.on_conflict_do_update(index_elements=["job"], set_=newer, where=last)
        return connection.scalar(statement.returning(questions.c.kept)) is not None
