"""What every request to a server passes: it is counted, kept waiting, and failed where a test wants it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import flask

from worker.sandbox.answers import Failure


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure that waits for the next request; ``route`` None: for any."""

    status: int
    headers: Mapping[str, str]
    route: str | None


@dataclass(slots=True)
class Gate:
    """Stands before one server; ``latency`` is in seconds a request. Thread-safe."""

    latency: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: Counter[str] = field(default_factory=Counter)
    _faults: deque[Fault] = field(default_factory=deque)

    def guard(self, app: flask.Flask) -> None:
        """Let every request to the app pass here first."""
        app.before_request(self._pass)

    def fail(self, times: int, status: int, headers: Mapping[str, str] | None = None, route: str | None = None) -> None:
        """Answer the next ``times`` requests (to a route, or to any) with a status and headers instead."""
        with self._lock:
            self._faults.extend([Fault(status, headers or {}, route)] * times)

    def heal(self) -> None:
        """Answer as it should again."""
        with self._lock:
            self._faults.clear()

    def counts(self) -> dict[str, int]:
        """Requests up to now by route, those that were failed too."""
        with self._lock:
            return dict(self._counts)

    def _pass(self) -> None:
        route = flask.request.endpoint or "unknown"
        with self._lock:
            self._counts[route] += 1
            fault = next((fault for fault in self._faults if fault.route in (None, route)), None)
            if fault:
                self._faults.remove(fault)
        if self.latency:
            self.sleep(self.latency)
        if fault:
            raise Failure(fault.status, "This failure was asked for.", fault.headers)
