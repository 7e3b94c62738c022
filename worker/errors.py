"""What can go wrong, named after what the runner does about it.

    WorkerError
      ConfigError                    do not start; exit 2; every mistake at once
      Reject                         this row is wrong: to the rejects, go on         (job authors raise it)
        MissingColumn                the row has no such column
      DeliveryError                  this delivery is unusable: failed/ and the reason; never retried
      BackendError(backend, status)
        Unavailable(retry_after)     retried inside the backend; then the delivery is put back whole and waits
          ServerFault                      500 and the like: it may be the row; see execution for when that is rejected
          LeftAlone                        not asked at all: it was down a moment ago, or asked for a pause
        Refused      (also Reject)         4xx, OperationOutcome: the row is rejected with the backend's reason
          TooCostly                        the question or the answer is too big
        Unauthorized (also DeliveryError)  401 with a fresh token, 403, the token endpoint says no
      Paused                         nothing is wrong with the delivery: it is put back and goes on later
        Stopping                     the worker is shutting down
        LostLease                    another worker owns the delivery now: hands off
        Damaged                      the ledger is broken: a person has to move it away; exit 2
    NoResult                         what a job returned is none: a bug of the job, which costs its row
    Interrupted                      what a job's call ends with where the delivery is ``Paused``; no ``Exception``

An error's text is shown to people and kept in the ledger, so it never quotes a record's values, a token or a secret.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self


def storable(text: str) -> str:
    """With a question mark for what UTF-8, a database or a message does not know (half a surrogate pair, NUL)."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "?").encode(errors="replace").decode()


class WorkerError(Exception):
    """Anything that Longshore raises on purpose; its text is a sentence for a person."""

    @property
    def detail(self) -> str:
        """The sentence alone, as it can be written anywhere."""
        return storable(str(self)) or "the job gave no reason"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration: where it stands, under which key, what is wrong and what to write."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.key, self.what)))


class ConfigError(WorkerError):
    """The worker must not start; carries every mistake that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Reject(WorkerError):
    """This row is wrong: write it to the rejects with the reason, and go on with the next one."""


class MissingColumn(Reject, KeyError):
    """The job asked a row for a column that its file does not have."""

    def __init__(self, column: str, columns: Iterable[str]) -> None:
        super().__init__(f"there is no column {column!r}; there are: {', '.join(columns)}")

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show its repr


class DeliveryError(WorkerError):
    """This delivery can never work: it goes to failed/ (or the dead letters) with the reason."""


class BackendError(WorkerError):
    """A backend, or the OAuth server before it, did not do what was asked.

    ``backend`` is its name in the configuration; ``status`` the HTTP status, None where there was no answer.
    """

    def __init__(self, backend: str, detail: str, status: int | None = None) -> None:
        self.backend = backend
        self.status = status
        super().__init__(f"{backend}: {detail}")


class Unavailable(BackendError):
    """Down, overloaded or unreachable; worth trying again, after ``retry_after`` seconds where the server said so."""

    def __init__(
        self, backend: str, detail: str, status: int | None = None, *, retry_after: float | None = None
    ) -> None:
        super().__init__(backend, detail, status)
        self.retry_after = retry_after


class ServerFault(Unavailable):
    """The backend broke over a call (500 and the like): it may be down, or unable to deal with this very row."""

    line: int | None = None
    """Where the row begins that met it, if it was one."""

    @property
    def detail(self) -> str:
        """The sentence, and the line."""
        told = super().detail
        return told if self.line is None else f"{told} (line {self.line})"


class LeftAlone(Unavailable):
    """Not asked: it was down a moment ago, or asked for a pause; ``retry_after`` says when it will be tried again."""


class Refused(BackendError, Reject):
    """The backend understood the request and said no; the row is rejected with its reason.

    ``named`` is the same in our own words alone, which quote nobody's record, for the log and the ledger.
    """

    def __init__(self, backend: str, detail: str, status: int | None = None, *, named: str = "") -> None:
        super().__init__(backend, detail, status)
        self.named = f"{backend}: {named or detail}"

    def within(self, before: str, after: str = "") -> Refused:
        """The same, with more words around it."""
        detail, named = (said.removeprefix(f"{self.backend}: ") for said in (str(self), self.named))
        return Refused(self.backend, f"{before}{detail}{after}", self.status, named=f"{before}{named}{after}")


class TooCostly(Refused):
    """The question or its answer is too big; half of it may do."""


class Unauthorized(BackendError, DeliveryError):
    """We may not do this, and asking again will not change it: 401 with a fresh token, 403, a refused client."""


class Paused(WorkerError):
    """The delivery is fine but cannot go on just now; it is put back and waits."""


class Stopping(Paused):
    """The worker is shutting down; the rest of the delivery is for the next start."""


class NoResult(TypeError):
    """What a job returned cannot be written down. A bug like any other, but for its text, which names types only."""


class Interrupted(BaseException):
    """What a job called came to no end, as the delivery is to be put back, for this ``reason``.

    It is no ``Exception``, as ``asyncio.CancelledError`` is none: a job that catches whatever may go wrong, and goes on
    with something else, would make an outcome of it that does not count. For one that catches even this, see ``met``.
    """

    def __new__(cls, *args: Any) -> Self:
        """One that is the last that this thread has met."""
        _here.met = found = super().__new__(cls, *args)
        return found

    def __init__(self, reason: Paused) -> None:
        super().__init__(str(reason))
        self.reason = reason

    @staticmethod
    def met() -> Interrupted | None:
        """The last one that was raised in this thread since this was asked, whatever has become of it."""
        found = _here.met
        if found is not None:
            _here.met = None
        return found


class _Here(threading.local):
    met: Interrupted | None = None


_here = _Here()


class LostLease(Paused):
    """This worker was silent for too long and another one owns the delivery now."""


class Damaged(Paused):
    """The ledger's file is damaged: nothing can go on until a person has moved it away."""


_DISK = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EROFS: "mount that disk for writing again",
}


def sentence(error: BaseException) -> str:
    """What an error may say in the ledger and the log: our own words, the system's for its errors, else only its type.

    A library's or a job's message may quote a record.
    """
    if isinstance(error, WorkerError):
        return error.detail
    if isinstance(error, OSError) and error.strerror:
        where = " -> ".join(str(name) for name in (error.filename, error.filename2) if name)  # moved from, and to
        said = f"{error.strerror}: {where}" if where else error.strerror
        return f"{said}; {_DISK[error.errno]}" if error.errno in _DISK else said
    return f"an unexpected {type(error).__name__}; the log says where"


def is_unexpected(error: BaseException) -> bool:
    """Whether ``sentence`` has nothing to say of it, and leaves it to the log."""
    return not isinstance(error, WorkerError) and not (isinstance(error, OSError) and error.strerror)
