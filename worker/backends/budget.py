"""How often calls to a backend may be sent again, so that trying again never becomes the load that keeps it down.

A tenth of the calls, as chapter 21 of Google's Site Reliability Engineering ("Handling Overload") has it, in a token
bucket like Finagle's ``RetryBudget``, whose drip lets a quiet worker try again too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

SHARE = 0.1
"""What a call that went well adds."""

DRIP = 1.0
"""What a second adds."""

FIRST = 10.0
MOST = 100.0
"""So many threads may meet one short fault at once and get over it."""


class RetryBudget:
    """A token for each repetition; all threads of the process share one bucket a backend."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = FIRST
        self._dripped = clock()

    def earn(self) -> None:
        """A call went well."""
        if self._tokens < MOST:
            with self._lock:
                self._tokens = min(MOST, self._tokens + SHARE)

    def spend(self) -> bool:
        """Take a token; False if there is none: the call's failure is final."""
        with self._lock:
            now = self._clock()
            dripped = DRIP * (now - self._dripped)
            self._dripped = now
            if self._tokens < FIRST:
                self._tokens = min(FIRST, self._tokens + dripped)
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
