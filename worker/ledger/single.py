"""Statements of the ledger's that are transactions each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


class Single:
    """Connections of an engine for such statements; those of SQLite are for one thread at a time.

    Of these, one stays open: the pool winds each up at its end, with a hundred calls of functions. It also looks at
    each at its begin, which a server's need, as they may have been cut.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._keeps = engine.dialect.name == "sqlite"
        options = {"longshore_single": True} if self._keeps else {"isolation_level": "AUTOCOMMIT"}
        self._engine = engine.execution_options(**options)
        self._kept: sa.Connection | None = None

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """One of them."""
        connection, self._kept = self._kept or self._engine.connect(), None
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self._keeps:
            self._kept = connection
        else:
            connection.close()

    def close(self) -> None:
        """Give back the one that stays open."""
        if self._kept:
            self._kept.close()
            self._kept = None
