"""Why there is no new token, as a value that threads and processes can share."""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import BackendError, Unauthorized, Unavailable
from worker.records import TokenEntry


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try; nobody tries again before ``until`` (monotonic seconds). ``refused``: the endpoint said no."""

    auth: str
    refused: bool
    detail: str
    until: float
    status: int | None = None
    cause: BaseException | None = None

    @classmethod
    def of(cls, error: BackendError, until: float) -> Failure:
        """What was raised here."""
        detail = error.detail.removeprefix(f"{error.backend}: ")
        return cls(error.backend, isinstance(error, Unauthorized), detail, until, error.status, error.__cause__)

    @classmethod
    def told(cls, auth: str, entry: TokenEntry, now: float) -> Failure:
        """What another process wrote into the ledger with ``text``."""
        kind, _, detail = entry.failure.partition(": ")
        return cls(auth, kind == Unauthorized.__name__, detail, now + entry.retry_in)

    @property
    def text(self) -> str:
        """For the ledger."""
        return f"{(Unauthorized if self.refused else Unavailable).__name__}: {self.detail}"

    def error(self, now: float) -> BackendError:
        """An exception of its own for each caller: a shared one would collect all their tracebacks."""
        if self.refused:
            error: BackendError = Unauthorized(self.auth, self.detail, self.status)
        else:
            error = Unavailable(self.auth, self.detail, self.status, retry_after=max(0.0, self.until - now))
        error.__cause__ = self.cause
        return error
