"""SIGTERM and Ctrl-C: the first lets what is under way finish, a later one ends the process at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ONE_WISH_SECONDS = 1.0  # supervisors signal a process and its group, so one wish may arrive twice


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at the first signal; only from the main thread."""
    asked_at: float | None = None

    def handle(number: int, _frame: object) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            # In a thread, as the interrupted one may be inside the event, whose lock it would wait for without end.
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
