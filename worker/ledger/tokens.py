"""The tokens that all workers share, sealed, and whose turn it is to fetch the next one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from worker.ledger.database import Database
from worker.ledger.schema import token_table as table
from worker.records import LONGEST_RETRY, TokenEntry


class Tokens:
    """The token store that all workers share (see ``worker.auth.store.TokenStore``); it never sees a token in clear."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, key: str) -> TokenEntry | None:
        """What is known under a key."""
        now, known = self._database.now, table.c
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
        no_lease = (table.c.lease_until <= now) | (table.c.lease_until > now + max(seconds, LONGEST_RETRY))
        no_backoff = (table.c.retry_at <= now) | (table.c.retry_at > now + LONGEST_RETRY)
        free = (table.c.key == key) & no_lease & no_backoff
        values = {"version": table.c.version + 1, "leader": owner, "lease_until": now + seconds}
        with self._database.write() as connection:
            connection.execute(self._database.insert(table).values(key=key).on_conflict_do_nothing())
            if not connection.execute(sa.update(table).where(free).values(values)).rowcount:
                return None
            return connection.scalar(sa.select(table.c.version).where(table.c.key == key))

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
        statement = sa.update(table).where(table.c.key == key, table.c.version == version)
        return self._database.change(statement.values(version=version + 1, leader="", lease_until=0.0, **values)) == 1
