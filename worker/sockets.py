"""The three sockets of the pipe, as the runner sees them: what a trigger, a backend and an output have to offer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from worker.records import Delivery, Meter, Outcome, Pause, RowKey


class Trigger(Protocol):
    """Where deliveries come from."""

    def start(self) -> None:
        """Begin to hand deliveries to the worker."""

    def stop(self) -> None:
        """Hand out no more; returns when nothing more will come."""


class Session(Protocol):
    """A backend opened for one delivery: counters and shared lookups belong to it."""

    def at(self, key: RowKey) -> Any:
        """What the job sees as ``ctx.rest[name]`` or ``ctx.fhir[name]`` while it works on one row."""


class Patience(Protocol):
    """What one process knows of how a backend wants to be called."""

    def news(self) -> Pause | None:
        """The pause that has begun or ended since the last time this was asked."""

    def hold(self, seconds: float) -> None:
        """Leave the backend alone for so long, as it has asked another worker to."""


class Backend(Protocol):
    """A named connection to a REST or FHIR system; knows its authorization."""

    name: str
    kind: str  # "rest" or "fhir": under which of the two a job finds it

    @property
    def limits(self) -> Patience:
        """How this process calls it."""

    def open(self, meter: Meter, stop: threading.Event, folder: Path | None = None) -> Session:
        """A session for one delivery; when ``stop`` is set, its waits end with ``Interrupted``.

        ``folder`` is the delivery's own, where what has to survive the worker may lie as long as the delivery is under
        way; None if it has none.
        """

    def check(self) -> str:
        """Ask the backend for a sign of life; returns a sentence, raises ``BackendError``."""

    def contradiction(self, stop: threading.Event) -> str:
        """What is wrong with the settings by the backend's own word, "" if nothing; raises ``BackendError``."""

    def still_answers(self, meter: Meter, stop: threading.Event) -> bool:
        """Whether it answers, asked anew, what it answered before; if not, it is down, and no row is to blame."""

    def reload(self) -> None:
        """Read certificates and the like anew, as they were rotated; raises ``ConfigError``, and goes on as before."""

    def cut_off(self) -> None:
        """End the calls that are being made, with ``Interrupted``, and let none begin; from any thread."""

    def close(self) -> None:
        """Give the connections back."""


class Part(Protocol):
    """An output under way for one delivery, durable from the first row on."""

    committed: bool  # everything is visible already: a crash came after that

    def is_done(self, index: int) -> bool:
        """Whether the row's outcome is on disk from an earlier attempt."""

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes, in any order; they survive the process at once, and the machine a chunk later."""

    def commit(self) -> None:
        """Make results, rejects and manifest appear; raises ``LostLease`` if the delivery is not ours any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Output(Protocol):
    """Where outcomes go."""

    def open(self, delivery: Delivery, job: Any) -> Part:
        """Begin, or go on with, a delivery's outcomes."""


Opening = Callable[[], Delivery | None]
"""How to open a delivery that was claimed: done where there is room for it; None if nothing is left to do."""

Submit = Callable[[Opening], None]
"""Takes a claimed delivery to be worked on; waits until there is room."""

Room = Callable[[], int]
"""How many more deliveries can begin; waits for room, and gives 0 when the worker stops."""
