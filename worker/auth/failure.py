"""Why there is no new token, as a value that threads and processes can share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from worker.errors import BackendError, Unauthorized, Unavailable
from worker.records import TokenEntry


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try; nobody tries again before ``until`` (monotonic seconds).

    ``refused``: the endpoint said no. ``since`` is when the first of the failures in a row was, for people.
    """

    auth: str
    refused: bool
    detail: str
    until: float
    since: str
    status: int | None = None

    @classmethod
    def of(cls, error: BackendError, *, until: float, since: str) -> Failure:
        """What was raised here."""
        detail = error.detail.removeprefix(f"{error.backend}: ")
        return cls(error.backend, isinstance(error, Unauthorized), detail, until, since, error.status)

    @classmethod
    def told(cls, auth: str, entry: TokenEntry, now: float) -> Failure:
        """What another process wrote into the ledger with ``text``."""
        what, _, detail = entry.failure.partition(": ")
        kind, _, since = what.partition(" since ")
        return cls(auth, kind == Unauthorized.__name__, detail, now + entry.retry_in, since)

    @property
    def text(self) -> str:
        """For the ledger."""
        return f"{(Unauthorized if self.refused else Unavailable).__name__} since {self.since}: {self.detail}"

    def error(self, now: float) -> BackendError:
        """An exception of its own for each caller: a shared one would collect all their tracebacks."""
        if self.refused:
            return Unauthorized(self.auth, self.detail, self.status)
        detail = f"{self.detail} (since {self.since})"
        return Unavailable(self.auth, detail, self.status, retry_after=max(0.0, self.until - now))


def moment(seconds: float) -> str:
    """A time of day (seconds since 1970) as people and programs read it: ``2026-11-23T02:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
