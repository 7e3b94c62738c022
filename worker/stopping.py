"""How a worker is stopped. SIGTERM and Ctrl-C let what is under way finish for a while, a later one ends the process.

SIGHUP reads secrets anew. Nothing is done in the handlers themselves: the thread that they interrupt may hold any lock.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

from worker import log
from worker.held import release

STOPPING = (signal.SIGTERM, signal.SIGINT)
ONE_WISH_SECONDS = 1.0  # supervisors signal a process and its group, so one wish may arrive twice
LOOK_SECONDS = 0.5
SAY_SECONDS = 0.3  # that the log has to take a line
SHORT_TURN_SECONDS = 0.001  # at Python's lock: of rows that compute for ever none may keep the others from stopping
LAST_SECONDS = 3.5  # of a stop that has not come to its end: whoever supervises the process waits a little longer


class Stop(threading.Event):
    """The worker is to stop; each delivery waits for a ``part`` of it, which may be set for that delivery alone.

    Once it is ``late``, what rows under way come to does not count any more: their calls were cut off. Once it is
    ``over``, nothing is waited for any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.late = threading.Event()
        self.over = threading.Event()
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


class Grace:
    """What is under way when the worker stops has so many ``seconds`` to finish.

    Then ``cut_off`` ends the calls that are being made, ``give_up`` the waiting for rows that do not end for it, and
    ``stop`` is over: whoever waits for something else leaves it to the next start.
    """

    def __init__(
        self, stop: Stop, seconds: float, *, cut_off: Callable[[], None], give_up: Callable[[], None], last: float = 1.0
    ) -> None:
        self._stop = stop
        self._steps = ((seconds, self._be_late), (last, give_up), (last, stop.over.set))
        self._seconds = seconds
        self._cut_off = cut_off
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="grace", daemon=True).start()

    def _watch(self) -> None:
        self._stop.wait()
        for seconds, act in self._steps:
            if self._ended.wait(seconds):
                return
            act()

    def _be_late(self) -> None:
        sys.setswitchinterval(SHORT_TURN_SECONDS)
        self._stop.late.set()
        self._cut_off()
        _say("warning", "work under way is cut off, for the next start", seconds=self._seconds)

    def close(self) -> None:
        """Everything has ended in time."""
        self._ended.set()


def _say(level: str, event: str, **facts: object) -> None:
    """Log it, and go on where that blocks: what reads the log may itself be what hangs."""
    saying = threading.Thread(target=getattr(log.get_logger(), level), args=(event,), kwargs=facts, daemon=True)
    saying.start()
    saying.join(SAY_SECONDS)


def ended_by_signals(code: int) -> None:
    """End the process at once, with that exit ``code``: nothing is begun yet, so that there is nothing to finish."""
    for number in STOPPING:
        signal.signal(number, lambda _number, _frame: os._exit(code))
    release(*STOPPING)


@contextmanager
def stopped_by_signals(stop: threading.Event, *, at_the_latest: float | None = None, code: int = 0) -> Iterator[None]:
    """Set ``stop`` at the first signal; only from the main thread.

    So many seconds later, ``at_the_latest``, the process ends with that exit ``code``, whatever holds it up: a disk
    that does not answer, or a thread that a job has started.
    """
    asked_at: float | None = None
    ours = os.getpid()

    def begin() -> None:
        stop.set()
        if at_the_latest is not None:
            time.sleep(at_the_latest)
            _say("error", "ended, as something does not end by itself; nothing is lost")
            os._exit(code)

    def handle(number: int, _frame: object) -> None:
        nonlocal asked_at
        if os.getpid() != ours:  # a process that a job has forked, which whoever ends it waits for
            _end(number)
        elif asked_at is None:
            asked_at = time.monotonic()
            threading.Thread(target=begin, name="stop", daemon=True).start()
        elif time.monotonic() - asked_at > ONE_WISH_SECONDS:
            _end(number)

    before = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


@contextmanager
def reloaded_by_signals(reload: Callable[[], None]) -> Iterator[None]:
    """Call ``reload`` at each SIGHUP; only from the main thread."""
    before = signal.signal(
        signal.SIGHUP, lambda _number, _frame: threading.Thread(target=reload, name="reload").start()
    )
    release(signal.SIGHUP)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
