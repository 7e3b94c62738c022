"""What a job is handed beside its row: the backends by name, a log, the job's memory, the delivery."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from worker import exact_json, log
from worker.backends.fhir import Fhir
from worker.backends.rest import Rest
from worker.config import nearest
from worker.errors import DeliveryError, Interrupted, Paused, ServerFault
from worker.records import Delivery, Input, RowKey
from worker.sockets import Backend, Session

MOST_FAULTS = 10
"""So often in a row, in about six minutes, a row or a source may break a backend before it is rejected, or fails."""


LONGEST_NAME = 1000
"""Bytes, of a name in a job's state: PostgreSQL takes no much longer ones into an index."""


class State(MutableMapping[str, Any]):
    """What a job remembers between deliveries: JSON values by name. Thread-safe.

    What is set is seen at once, and kept only when the delivery is done.
    """

    __slots__ = ("_changes", "_kept", "_load", "_lock")

    def __init__(self, load: Callable[[], Mapping[str, Any]], changes: dict[str, Any]) -> None:
        self._load = load
        self._changes = changes
        self._kept: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def _all(self) -> dict[str, Any]:
        with self._lock:
            if self._kept is None:
                try:
                    self._kept = dict(self._load())
                except Paused as reason:
                    raise Interrupted(reason) from None
            return {**self._kept, **self._changes}

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise exact_json.NoJson(f"the names in a job's state are texts, and no {type(key).__name__}")
        if "\0" in key or len(key.encode(errors="replace")) > LONGEST_NAME:
            what = f"have at most {LONGEST_NAME} bytes, and no zero character"
            raise exact_json.NoJson(f"the names in a job's state {what}")
        # Refused here, where the job can be blamed, and not when the delivery is done. A copy, as what the job makes of
        # the value later is not set.
        kept = json.loads(exact_json.dumps({key: value}))
        with self._lock:
            self._changes.update(kept)

    def __delitem__(self, key: str) -> None:
        raise TypeError("a job's state is not deleted: set it to None")

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class DeliveryContext:
    """What all rows of a delivery share: sessions with the backends, opened when first used, and the job's state.

    ``load`` gives what a job remembers; ``stop`` makes what the delivery's waits are ended with.
    """

    __slots__ = ("_backends", "_load", "_lock", "_make_stop", "_state", "_stop", "delivery", "sessions")

    def __init__(
        self,
        delivery: Delivery,
        backends: Mapping[str, Backend],
        load: Callable[[str], Mapping[str, Any]],
        stop: Callable[[], threading.Event],
    ) -> None:
        self.delivery = delivery
        self._load = load
        self._state: State | None = None
        self._backends = backends
        self._make_stop = stop
        self._stop: threading.Event | None = None
        self.sessions: dict[tuple[str, str], Session] = {}  # those that are open, by kind and name
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """The job's memory, made when it is first asked for."""
        with self._lock:
            if self._state is None:
                self._state = State(partial(self._load, self.delivery.job), self.delivery.state)
            return self._state

    def open(self, kind: str, name: str) -> Session:
        """Open the delivery's session with a backend, once; raises ``DeliveryError`` where none such is configured."""
        known = self.names(kind)
        if name not in known:
            raise DeliveryError(
                f"the job asks for the {kind} backend {name!r}, which is not configured{nearest(name, known)}"
            )
        try:
            self.delivery.secure()
        except Paused as reason:
            raise Interrupted(reason) from None
        with self._lock:
            if (kind, name) not in self.sessions:
                folder = self.delivery.folder if self.delivery.folder.name == self.delivery.id else None
                opened = self._backends[name].open(self.delivery.meter, self._stopping(), folder)
                self.sessions[kind, name] = opened
            return self.sessions[kind, name]

    def _stopping(self) -> threading.Event:
        """What ends this delivery's waits; only those that wait for something need it."""
        if self._stop is None:
            self._stop = self._make_stop()
        return self._stop

    def hurry(self) -> None:
        """End all waits, as something has ended the delivery."""
        with self._lock:
            self._stopping().set()

    def row_is_at_fault(self, fault: ServerFault) -> bool:
        """Whether a backend has broken over a row too often, while it still answers others."""
        if self.delivery.faults + 1 < MOST_FAULTS:
            return False
        with self._lock:
            stop = self._stopping()
        return self._backends[fault.backend].still_answers(self.delivery.meter, stop)

    def names(self, kind: str) -> list[str]:
        """The configured backends of a kind."""
        return [name for name, backend in self._backends.items() if backend.kind == kind]

    def at(self, line: int) -> Context:
        """The context of the row on that line."""
        return Context(self, RowKey(self.delivery.key or self.delivery.input.sha256, line))


@dataclass(frozen=True, slots=True)
class Origin:
    """What a job may know of its delivery, as it is when it is asked for; it is nobody's to change."""

    id: str
    source: str
    trigger: str
    attempts: int
    started: datetime
    input: Input


class _Named(Mapping[str, Any]):
    """The backends of one kind, by name, as one row sees them."""

    __slots__ = ("_key", "_kind", "_shared")

    def __init__(self, shared: DeliveryContext, kind: str, key: RowKey) -> None:
        self._shared, self._kind, self._key = shared, kind, key

    def __getitem__(self, name: str) -> Any:
        shared, kind = self._shared, self._kind
        session = shared.sessions.get((kind, name)) or shared.open(kind, name)
        return session.at(self._key)

    def __contains__(self, name: object) -> bool:
        return name in self._shared.names(self._kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shared.names(self._kind))

    def __len__(self) -> int:
        return len(self._shared.names(self._kind))


class Context:
    """A job's way to everything outside its row.

    ``rest[name]`` and ``fhir[name]`` are the configured backends, already authorized; ``log`` writes a line that names
    the delivery, the job and the row's line; ``state`` is remembered between deliveries of this job; ``delivery`` says
    where the row comes from.
    """

    __slots__ = ("_key", "_shared")

    def __init__(self, shared: DeliveryContext, key: RowKey) -> None:
        self._shared, self._key = shared, key

    @property
    def rest(self) -> Mapping[str, Rest]:
        """The REST backends by name."""
        return _Named(self._shared, "rest", self._key)

    @property
    def fhir(self) -> Mapping[str, Fhir]:
        """The FHIR backends by name."""
        return _Named(self._shared, "fhir", self._key)

    @property
    def log(self) -> Any:
        """A logger; never give it a record's values."""
        return log.get_logger().bind(
            delivery=self._shared.delivery.id, job=self._shared.delivery.job, line=self._key.line
        )

    @property
    def state(self) -> State:
        """The job's memory: JSON values by name, kept when the delivery is done."""
        return self._shared.state

    @property
    def delivery(self) -> Origin:
        """The delivery that the row belongs to."""
        its = self._shared.delivery
        started = datetime.fromtimestamp(its.started, UTC)
        return Origin(its.id, its.source, its.trigger, its.attempts, started, replace(its.input))
