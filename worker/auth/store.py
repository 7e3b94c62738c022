"""Where a fleet keeps its tokens, and who may ask for a new one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from worker.errors import Paused
from worker.log import get_logger
from worker.records import LONGEST_RETRY, TokenEntry

log = get_logger()
_Answer = TypeVar("_Answer")
_Alone = TypeVar("_Alone")


class TokenStore(Protocol):
    """Sealed tokens and leases by key; times are seconds by the store's own clock. Raises ``Paused`` while it is down.

    ``version`` grows with every change. A lease is a row, never a lock or a transaction held while somebody asks the
    OAuth server.
    """

    def read(self, key: str) -> TokenEntry | None:
        """What is known under a key."""

    def lead(self, key: str, owner: str, seconds: float) -> int | None:
        """Become the one that asks the server: the lease's version, or None while a lease or a backoff runs.

        One that would run longer than it can does not count: the store's clock was put back.
        """

    def save(self, key: str, version: int, sealed: bytes, lifetime: float) -> bool:
        """Keep a token and end the lease; False, and nothing kept, unless the row still has that version."""

    def fail(self, key: str, version: int, failure: str, retry_in: float) -> bool:
        """End the lease and say why; an older token stays. False unless the row still has that version."""

    def forget(self, key: str, version: int) -> bool:
        """Drop the token; False unless the row still has that version."""


@dataclass(slots=True)
class _Record:
    version: int = 0
    sealed: bytes | None = None
    expires: float = 0.0
    leader: str = ""
    lease_until: float = float("-inf")
    failure: str = ""
    retry_at: float = float("-inf")


class MemoryTokenStore:
    """A ``TokenStore`` that lives as long as the process: for tests, and for a worker without a ledger."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}

    def read(self, key: str) -> TokenEntry | None:
        """What is known under a key."""
        with self._lock:
            record, now = self._records.get(key), self._clock()
            if record is None:
                return None
            return TokenEntry(
                version=record.version,
                sealed=record.sealed,
                expires_in=record.expires - now,
                leader=record.leader,
                lease_left=max(0.0, record.lease_until - now),
                failure=record.failure,
                retry_in=max(0.0, record.retry_at - now),
            )

    def lead(self, key: str, owner: str, seconds: float) -> int | None:
        """Become the one that asks for a new token, unless a lease or a backoff runs."""
        with self._lock:
            record, now = self._records.setdefault(key, _Record()), self._clock()
            if (
                now < record.lease_until <= now + max(seconds, LONGEST_RETRY)
                or now < record.retry_at <= now + LONGEST_RETRY
            ):
                return None
            record.version += 1
            record.leader, record.lease_until = owner, now + seconds
            return record.version

    def save(self, key: str, version: int, sealed: bytes, lifetime: float) -> bool:
        """Keep a token and end the lease."""
        return self._change(key, version, sealed=sealed, expires=self._clock() + lifetime, failure="", retry_at=0.0)

    def fail(self, key: str, version: int, failure: str, retry_in: float) -> bool:
        """End the lease and say why."""
        return self._change(key, version, failure=failure, retry_at=self._clock() + retry_in)

    def forget(self, key: str, version: int) -> bool:
        """Drop the token."""
        return self._change(key, version, sealed=None)

    def _change(self, key: str, version: int, **values: object) -> bool:
        with self._lock:
            record = self._records.get(key)
            if record is None or record.version != version:
                return False
            record.version += 1
            record.leader, record.lease_until = "", float("-inf")
            for name, value in values.items():
                setattr(record, name, value)
            return True


class SteadyStore:
    """A ``TokenStore`` that never raises: while the one behind it is down, this process goes on as if it were alone."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._down = False

    def read(self, key: str) -> TokenEntry | None:
        """What is known under a key: nothing, while the store is down."""
        return self._ask(lambda: self._store.read(key), None)

    def lead(self, key: str, owner: str, seconds: float) -> int | None:
        """Become the one that asks for a new token: always, while the store is down."""
        return self._ask(lambda: self._store.lead(key, owner, seconds), 0)

    def save(self, key: str, version: int, sealed: bytes, lifetime: float) -> bool:
        """Keep a token and end the lease."""
        return self._ask(lambda: self._store.save(key, version, sealed, lifetime), False)

    def fail(self, key: str, version: int, failure: str, retry_in: float) -> bool:
        """End the lease and say why."""
        return self._ask(lambda: self._store.fail(key, version, failure, retry_in), False)

    def forget(self, key: str, version: int) -> bool:
        """Drop the token."""
        return self._ask(lambda: self._store.forget(key, version), False)

    def _ask(self, question: Callable[[], _Answer], alone: _Alone) -> _Answer | _Alone:
        try:
            answer = question()
        except Paused as error:
            if not self._down:
                log.warning("tokens are not shared while the ledger is down", reason=error.detail)
            self._down = True
            return alone
        self._down = False
        return answer
