"""The ledger's tables; ``SCHEMA`` grows with every change that an older program would not understand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from worker.errors import storable
from worker.records import Attempt, Entry, Scheduled

SCHEMA = 1

metadata = sa.MetaData()


class Text(sa.types.TypeDecorator[str]):
    """Any text, as far as it is storable."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """As it is stored, or compared with what is."""
        return None if value is None else storable(value)


schema_table = sa.Table("longshore", metadata, sa.Column("schema", sa.Integer, nullable=False))
_kinds: dict[str, tuple[type[sa.types.TypeEngine[Any]], Any]] = {  # by the type of a record's field: type, default
    "str": (Text, ""),
    "int": (sa.BigInteger, 0),
    "float": (sa.Double, 0.0),
    "bool": (sa.Boolean, False),
    "float | None": (sa.Double, None),
}


def _columns(record: type[Entry | Attempt | Scheduled], *key: str) -> Iterator[sa.Column[Any]]:
    """A column for each of a record's fields, so that a row is the record."""
    for field in fields(record):
        kind, default = _kinds[str(field.type)]
        yield sa.Column(field.name, kind, primary_key=field.name in key, nullable=default is None, default=default)


delivery_table = sa.Table(
    "deliveries", metadata, *_columns(Entry, "id"), sa.Index("deliveries_by_state", "put_away", "state")
)
attempt_table = sa.Table("attempts", metadata, *_columns(Attempt, "delivery", "number"))
schedule_table = sa.Table("schedules", metadata, *_columns(Scheduled, "job"))
fire_table = sa.Table(
    "fires",
    metadata,
    sa.Column("job", Text, primary_key=True),
    sa.Column("time", sa.Double, primary_key=True),
    sa.Column("delivery", Text, nullable=False),
)
token_table = sa.Table(
    "tokens",
    metadata,
    sa.Column("key", Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("expires", sa.Double, nullable=False, default=0.0),
    sa.Column("leader", Text, nullable=False, default=""),
    sa.Column("lease_until", sa.Double, nullable=False, default=0.0),
    sa.Column("failure", Text, nullable=False, default=""),
    sa.Column("retry_at", sa.Double, nullable=False, default=0.0),
)
pause_table = sa.Table(
    "pauses",
    metadata,
    sa.Column("backend", Text, primary_key=True),
    sa.Column("owner", Text, primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("is_down", sa.Boolean, nullable=False),
    sa.Column("reason", Text, nullable=False),
)
state_table = sa.Table(
    "job_state",
    metadata,
    sa.Column("job", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
question_table = sa.Table(
    "questions",
    metadata,
    sa.Column("job", Text, primary_key=True),
    sa.Column("asked", sa.BigInteger, nullable=False),
    sa.Column("kept", sa.BigInteger, nullable=False),
)
message_table = sa.Table(
    "messages",
    metadata,
    sa.Column("queue", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("delivery", Text, nullable=False),
    sa.Column("job", Text, nullable=False),
    sa.Column("sha256", Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("state", Text, nullable=False),
    sa.Column("owner", Text, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False, default=0),
    sa.Column("rows_done", sa.BigInteger, nullable=False, default=0),
    sa.Column("error", Text, nullable=False, default=""),
    sa.Column("detail", Text, nullable=False, default=""),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("finished", sa.Double),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("reply", sa.LargeBinary),
    sa.Index("messages_by_state", "state", "expires"),
)
