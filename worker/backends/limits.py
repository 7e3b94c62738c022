"""How much of a backend its callers may use at once; all threads of the process share one ``Limits`` a backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from worker.backends.breaker import Breaker
from worker.backends.window import Window
from worker.errors import BackendError, Interrupted, LeftAlone, Stopping, Unavailable
from worker.records import Meter, Pause

LONGEST_WAIT = 30.0
"""Seconds that a row waits for a backend that named a time; for anything longer the delivery is put back."""

_LOOK_FOR_STOP = 0.2
_CLOCKS_DIFFER = 1.0
_CONGESTED = frozenset({None, 408, 429, 503, 504})

Clock = Callable[[], float]
Sleep = Callable[[threading.Event, float], bool]
"""Waits so many seconds or until the event is set, and tells whether it is: ``threading.Event.wait``."""


class Limits:
    """Concurrency, rate, the pauses that the backend asked for, and the circuit breaker.

    ``concurrency`` is a fixed number, or "auto": found out (see ``Window``), up to ``threads``. ``rate`` is requests a
    second, evenly spaced.
    """

    def __init__(
        self,
        backend: str,
        concurrency: int | Literal["auto"],
        rate: float | None,
        *,
        threads: int,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self._backend = backend
        self._auto = Window(threads) if concurrency == "auto" else None
        self._fixed = 0 if concurrency == "auto" else concurrency
        self._gap = 1 / rate if rate else 0.0
        self._breaker = Breaker(backend, clock)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()  # taken by itself where nobody waits or is told: a condition takes longer
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._running = 0
        self._next_start = 0.0
        self._held_until = 0.0
        self._told: tuple[float, float | None] = (0.0, None)

    @property
    def window(self) -> int:
        """How many requests may run at once just now."""
        return int(self._auto.size) if self._auto else self._fixed

    @property
    def room(self) -> int:
        """How many more requests might begin just now."""
        return self.window - self._running

    def turn(
        self, stop: threading.Event, meter: Meter, *, even_if_down: bool = False, of: Callable[[], int] = lambda: 0
    ) -> Turn:
        """Run one request when the limits allow it, and learn from how it ends; ``of`` tells it from others.

        Raises ``Interrupted`` when ``stop`` is set, ``LeftAlone`` when the backend is down or asked for too long a
        pause. While it waits for others to end, it counts as held up in ``meter``.
        """
        return Turn(self, stop, meter, even_if_down, of)

    def begin(self, stop: threading.Event, meter: Meter, *, even_if_down: bool) -> tuple[float, bool]:
        """Wait until a request may start; returns when it does, and whether it is the circuit breaker's probe."""
        with self._lock:
            if self._running >= self.window:
                self._wait_for_others(stop, meter)
            self._running += 1
        try:
            if self._gap or self._held_until:
                self._wait_for_start(stop)
            is_probe = not (even_if_down or self._breaker.untroubled) and self._breaker.enter(stop)
            return self._clock(), is_probe
        except BaseException:
            self._leave()
            raise

    def end(self, error: BaseException | None, started: float, of: Callable[[], int], *, is_probe: bool) -> None:
        """A request that started then came to this end."""
        try:
            if error is None:
                if not self._breaker.untroubled:
                    self._breaker.answered()
                if self._auto and self._auto.note(started, now := self._clock()):
                    self._end_round(self._auto, now)
            elif isinstance(error, Unavailable):
                self._learn_from(error, started)
                self._breaker.failed(error, is_probe=is_probe, of=of())
            elif isinstance(error, BackendError):
                self._breaker.answered()
        finally:
            if is_probe:
                self._breaker.leave()
            self._leave()

    def pause(self, stop: threading.Event, seconds: float) -> None:
        """Wait, if there is anything to wait for; raises ``Interrupted`` when ``stop`` is set."""
        if seconds > 0 and self._sleep(stop, seconds):
            raise self._interrupted()

    def news(self) -> Pause | None:
        """What other workers should know by now; a pause that was told is not told again."""
        known = self._held_until, self._breaker.open_until
        if known == self._told:
            return None
        self._told = known
        held, open_until = known
        seconds = max(0.0, (held if open_until is None else open_until) - self._clock())
        reason = "asked for a pause" if open_until is None else self._breaker.reason
        return Pause(self._backend, seconds, open_until is not None, reason)

    def hold(self, seconds: float) -> None:
        """Keep a pause that the backend has asked another worker for."""
        with self._lock:
            until = self._clock() + seconds
            if until > self._held_until + _CLOCKS_DIFFER:
                self._held_until = until
                self._told = until, self._told[1]

    def _interrupted(self) -> Interrupted:
        return Interrupted(Stopping(f"{self._backend}: the worker is stopping"))

    def _wait_for_others(self, stop: threading.Event, meter: Meter) -> None:
        meter.held_up.append(self)
        self._waiting += 1
        try:
            while self._running >= self.window:
                if stop.is_set():
                    raise self._interrupted()
                self._changed.wait(_LOOK_FOR_STOP)
        finally:
            self._waiting -= 1
            meter.held_up.pop()

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            if self._waiting:
                self._changed.notify()

    def _wait_for_start(self, stop: threading.Event) -> None:
        self._sit_out(stop)
        while self._gap:
            self.pause(stop, self._book_start() - self._clock())
            if self._held_until <= self._clock():
                return
            self._sit_out(stop)  # asked for while this thread waited for its start

    def _sit_out(self, stop: threading.Event) -> None:
        while (held := self._held_until - self._clock()) > 0:
            if held > LONGEST_WAIT:
                raise LeftAlone(self._backend, f"asked not to be called for {held:.0f} s", retry_after=held)
            self.pause(stop, held)

    def _book_start(self) -> float:
        with self._lock:
            start = max(self._next_start, self._clock())
            self._next_start = start + self._gap
            return start

    def _learn_from(self, error: Unavailable, started: float) -> None:
        with self._lock:
            now = self._clock()
            if error.retry_after:
                self._held_until = max(self._held_until, now + error.retry_after)
            if self._auto and error.status in _CONGESTED:
                self._auto.congested(started, now)

    def _end_round(self, window: Window, now: float) -> None:
        with self._lock:
            window.end_round(now)
            if self._waiting:
                self._changed.notify_all()


class Turn:
    """A request within its limits, for ``with``: a generator's would cost as much as the limits themselves."""

    __slots__ = ("_even_if_down", "_is_probe", "_limits", "_meter", "_of", "_started", "_stop")

    def __init__(
        self, limits: Limits, stop: threading.Event, meter: Meter, even_if_down: bool, of: Callable[[], int]
    ) -> None:
        self._limits, self._stop, self._meter, self._even_if_down, self._of = limits, stop, meter, even_if_down, of

    def __enter__(self) -> None:
        self._started, self._is_probe = self._limits.begin(self._stop, self._meter, even_if_down=self._even_if_down)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._limits.end(error, self._started, self._of, is_probe=self._is_probe)
