"""The three nouns of the pipe: a delivery, its rows, and what became of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

from worker.errors import MissingColumn


class Row(dict[str, Any]):
    """One record of a delivery: column -> value, as it stands in the file.

    ``index`` counts the delivery's rows from 0; ``line`` is where the row begins in the file, counted from 1.
    """

    __slots__ = ("index", "line")

    def __init__(self, values: Mapping[str, Any] | Iterable[tuple[str, Any]], index: int = 0, line: int = 0) -> None:
        dict.__init__(self, values)  # faster than by way of super()
        self.index = index
        self.line = line

    def __missing__(self, column: str) -> Any:
        raise MissingColumn(column, self)

    def __reduce__(self) -> tuple[type[Row], tuple[dict[str, Any], int, int]]:
        """What ``copy`` and ``pickle`` make it anew from, as they would set its values one by one."""
        return Row, (dict(self), self.index, self.line)

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise ``TypeError``: a row is what came in."""
        raise TypeError("a row is what came in; make a dict(row) to change it")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse


@dataclass(slots=True)  # not frozen, which would cost a row several microseconds
class Outcome:
    """What became of a row: results, a rejection, or (neither) nothing to say.

    ``results`` is a JSON array of objects, ``error`` the name of an error's class, ``detail`` a sentence for a person
    and ``row`` the row's original values, which a rejection is written with.
    """

    index: int
    line: int
    results: bytes = b"[]"
    error: str = ""
    detail: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Counts:
    """A delivery's rows by what became of them."""

    results: int = 0
    rejected: int = 0
    skipped: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.results + self.rejected + self.skipped


@dataclass(slots=True)
class Chunk:
    """Some consecutive rows of a delivery, in input order.

    ``rows`` could be read, ``wrong`` could not (each is already an outcome); together they are the chunk's ``size``
    rows from index ``start`` on. ``frame`` makes a pandas DataFrame of the good rows, indexed by line.
    """

    start: int
    columns: tuple[str, ...]
    rows: list[Row]
    wrong: list[Outcome]
    frame: Callable[[], object]

    @property
    def size(self) -> int:
        """How many input rows the chunk covers."""
        return len(self.rows) + len(self.wrong)


Rows = Callable[[], Iterator[Mapping[str, Any]]]
"""Asks a job's own source for rows."""


@dataclass(slots=True)
class Reading:
    """How a job wants its rows read; None: found out from the file. ``source`` is where those of a tick come from."""

    encoding: str | None = None
    delimiter: str | None = None
    chunk_rows: int = 1000
    source: Rows | None = field(default=None, compare=False)


@dataclass(slots=True)
class Input:
    """What came in: its name as the sender gave it, its SHA-256 in hex, its size in bytes.

    ``form`` is how its rows stand in it: a table (CSV) and a JSON array have many, a JSON object is one.
    """

    name: str
    sha256: str
    bytes: int
    form: Literal["table", "array", "object"] = "table"


@dataclass(slots=True)
class Reply:
    """What the asker of a message is told: ``type`` is result, rejected, skipped or results."""

    type: str
    content_type: str
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RowKey:
    """Names the calls of one row, the same at every run: the digest of the input, the line, and the call's turn."""

    digest: str
    line: int
    turn: int = 0

    def next(self) -> str:
        """The ``Idempotency-Key`` of the row's next write."""
        self.turn += 1
        return f"{self.digest[:32]}-{self.line}" + (f"-{self.turn}" if self.turn > 1 else "")


class Narrow(Protocol):
    """What lets only so many pass at once."""

    @property
    def room(self) -> int:
        """How many more might pass just now."""


class Meter:
    """Counts the HTTP requests that a delivery really sent, by backend, and its token requests. Thread-safe.

    ``held_up`` has, for each call that waits for its turn at a backend, what it waits for: a count without a lock.
    """

    __slots__ = ("_calls", "_lock", "_token_requests", "held_up")

    def __init__(self) -> None:
        self.held_up: list[Narrow] = []
        self._lock = threading.Lock()
        self._calls: dict[str, int] = {}
        self._token_requests = 0

    def add(self, calls: Mapping[str, int], token_requests: int) -> None:
        """Count what an earlier attempt sent."""
        with self._lock:
            for backend, count in calls.items():
                self._calls[backend] = self._calls.get(backend, 0) + count
            self._token_requests += token_requests

    def call(self, backend: str) -> None:
        """Count one request to a backend."""
        with self._lock:
            self._calls[backend] = self._calls.get(backend, 0) + 1

    def token_request(self) -> None:
        """Count one request to a token endpoint."""
        with self._lock:
            self._token_requests += 1

    @property
    def used(self) -> bool:
        """Whether anything was sent."""
        return bool(self._calls or self._token_requests)

    def read(self) -> tuple[dict[str, int], int]:
        """Calls by backend, and token requests, up to now."""
        with self._lock:
            return dict(self._calls), self._token_requests


STATES = ("waiting", "running", "done", "failed")
"""What a delivery can be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger knows of a delivery; times are seconds since 1970 by its clock.

    ``state`` is waiting, running, done or failed; ``put_away``: its source lies in archive/ or failed/.
    """

    id: str
    trigger: str
    job: str
    source: str
    sha256: str
    bytes: int
    state: str
    owner: str
    lease_until: float
    version: int
    attempts: int
    not_before: float
    rows_done: int
    error: str
    detail: str
    created: float
    started: float | None
    finished: float | None
    put_away: bool


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What the ledger knows of a job's schedule; times are seconds since 1970 by its clock.

    ``definition`` is the schedule, ``seen_to`` the time up to which its ticks were seen to, ``released`` when a tick
    last let the job's files be taken, 0 if none did.
    """

    job: str
    definition: str
    seen_to: float
    released: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a delivery, as the ledger knows it; ``ended`` is None while it runs, and where its worker died."""

    delivery: str
    number: int
    owner: str
    started: float
    ended: float | None
    rows_done: int
    error: str
    detail: str


# For how long a failure may hold everybody off, in seconds. A lease or backoff that seems to run for longer tells that
# the store's clock was put back, and does not count.
LONGEST_RETRY = 300.0


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """What the ledger knows of one token: times are seconds from now by the ledger's own clock.

    ``version`` grows with every lease and every change; ``sealed`` is the encrypted token, None where there is none;
    ``expires_in`` may be negative; ``leader`` fetches a new one for ``lease_left`` more seconds (0: nobody does);
    ``failure`` is why the last try failed (a sentence), and ``retry_in`` how long nobody should try again.
    """

    version: int
    sealed: bytes | None
    expires_in: float
    leader: str
    lease_left: float
    failure: str
    retry_in: float


BROKER = "[amqp]"
"""What the broker is called beside the backends, after its table in the settings."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker leaves a backend alone for so many seconds from now on; none: not any more.

    ``is_down``: as it got no answers; else because the backend asked for it, which is for every worker to keep. Of the
    broker it tells that it is away, which counts for so many seconds if it is not told again.
    """

    backend: str
    seconds: float
    is_down: bool
    reason: str
    owner: str = ""


EXPORTS = "exports"
"""The folder, in a delivery's own, of what backends have exported for it."""


def nothing() -> None:
    """What is done where there is nothing to do."""


@dataclass(slots=True)
class Delivery:
    """One file, one message or one tick on its way through; it carries its own ``settle``.

    ``started`` is when it first was, in seconds since 1970.
    ``read`` yields its rows chunk by chunk and raises ``DeliveryError`` if the input cannot be used or has changed.
    ``guard`` raises ``LostLease`` unless the delivery still belongs to this worker.
    ``secure`` comes before its first call, and returns once no power cut can make the ledger forget that it was begun;
    raises ``Paused``. ``settle`` is told the end: None, or what went wrong. ``attempts`` counts this run too. ``state``
    is what the job wants remembered once the delivery is done. ``lost``: another worker turns out to own it; then
    ``hurry`` ends what is waited for. ``faults`` is how many attempts in a row, up to the one before, have ended in a
    ``ServerFault``. ``key`` tells its calls from those of another delivery (of a file: the digest of its content).
    ``reply`` is for whoever sent it, if it came as a message: the output leaves it here, and it is sent once the
    delivery is settled. ``columns`` are those of all its rows, once they are known, where rows may have different ones.
    ``question`` is the number of the question that gave its rows, a later one's being higher; 0 where no source was
    asked.
    """

    id: str
    trigger: str
    source: str
    input: Input
    folder: Path
    attempts: int
    started: float
    read: Callable[[Reading], Iterator[Chunk]]
    guard: Callable[[], None]
    settle: Callable[[Exception | None], None]
    job: str = ""
    key: str = ""
    faults: int = 0
    secure: Callable[[], None] = nothing
    meter: Meter = field(default_factory=Meter)
    counts: Counts = field(default_factory=Counts)
    state: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    hurry: Callable[[], None] = nothing
    reply: Reply | None = None
    columns: tuple[str, ...] = ()
    question: int = 0

    def lose(self) -> None:
        """It is another worker's: nothing more is begun, and no wait is sat out."""
        self.lost = True
        self.hurry()
