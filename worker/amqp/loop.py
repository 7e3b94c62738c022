"""The one loop, and how to get a word in from other threads. No callback lets an exception out: pika would abort."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop

from worker import log


def guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """The callback, with what it raises logged and kept away from the loop."""

    def call(*values: Any) -> None:
        try:
            callback(*values)
        except Exception:  # noqa: BLE001 - whatever it is
            log.get_logger().exception("broker callback failed")

    return call


class Loop:
    """Waits for sockets and timers, and may be run again if it failed."""

    def __init__(self) -> None:
        self._woken: deque[Callable[[], None]] = deque()
        self._timers: dict[Callable[[], None], float] = {}  # and when each is due
        self._thread = 0
        self.io = IOLoop()

    def run(self) -> None:
        """Return after ``stop``; whatever pika lets escape is raised, and what is left to call has the next run."""
        self._thread = threading.get_ident()
        # A timer of pika's that raised took those with it that were due as well.
        for timer, due in self._timers.items():
            self.io.call_later(max(0.0, due - time.monotonic()), timer)
        try:
            self.io.start()
        finally:
            self._thread = 0  # a later thread may get the number of this one

    def stop(self) -> None:
        """End ``run``."""
        self.io.stop()

    def close(self) -> None:
        """Give back what it waits with; who wakes it from now on does so in vain."""
        self.io.close()

    def wake(self, callback: Callable[[], None]) -> None:
        """Call it soon, on the loop's thread; from any thread."""
        self._woken.append(callback)
        if threading.get_ident() == self._thread:  # awake: what wakes it would be three system calls
            self.later(0, self._answer)
        else:
            self.io.add_callback_threadsafe(self._answer)

    def _answer(self) -> None:
        for _ in range(len(self._woken)):
            guarded(self._woken.popleft())()

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call it after a while."""

        def timer() -> None:
            if self._timers.pop(timer, None) is not None:
                guarded(callback)()

        self._timers[timer] = time.monotonic() + seconds
        self.io.call_later(seconds, timer)


class Bell:
    """Wakes the loop for a callback, once however often it rings before the callback is called; from any thread."""

    def __init__(self, loop: Loop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._rung = False

    def ring(self) -> None:
        """Ask for the callback; what was appended to a deque before will be seen by it."""
        if not self._rung:
            self._rung = True
            self._loop.wake(self._answer)

    def _answer(self) -> None:
        self._rung = False
        self._callback()
