"""How a worker is stopped. SIGTERM and Ctrl-C let what is under way finish, a later one ends the process at once.

SIGHUP reads secrets anew. Nothing is done in the handlers themselves: the thread that they interrupt may hold any lock.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

ONE_WISH_SECONDS = 1.0  # supervisors signal a process and its group, so one wish may arrive twice
LOOK_SECONDS = 0.5


class Stop(threading.Event):
    """The worker is to stop; each delivery waits for a ``part`` of it, which may be set for that delivery alone."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._parts: WeakSet[threading.Event] = WeakSet()

    def part(self) -> threading.Event:
        """An event that is set with this one, at the latest."""
        part = threading.Event()
        with self._lock:
            self._parts.add(part)
            if self.is_set():
                part.set()
        return part

    def set(self) -> None:
        """Stop the worker and all deliveries."""
        with self._lock:
            super().set()
            for part in self._parts:
                part.set()


def wait_until_stopped(stop: threading.Event) -> None:
    """The main thread's way to wait: a signal that comes right before a wait without end would not be handled."""
    while not stop.wait(LOOK_SECONDS):
        pass


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at the first signal; only from the main thread."""
    asked_at: float | None = None

    def handle(number: int, _frame: object) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            threading.Thread(target=stop.set, name="stop").start()
        elif time.monotonic() - asked_at > ONE_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def reloaded_by_signals(reload: Callable[[], None]) -> Iterator[None]:
    """Call ``reload`` at each SIGHUP; only from the main thread."""
    before = signal.signal(
        signal.SIGHUP, lambda _number, _frame: threading.Thread(target=reload, name="reload").start()
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
