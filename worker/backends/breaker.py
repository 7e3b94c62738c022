"""The circuit breaker of a backend: one that is down is left alone, and asked once in a while whether it is back.

The idea is M. Nygard's (Release It!, "Circuit Breaker"). What counts is failures in a row, not a share of all: a
backend that answers some calls is up, as far as rows are concerned, and each answer sets the count back to nothing.
A fault of the server (500 and the like) may be the doing of that very request, so each request's counts once: one row
that is tried again and again must not stop all others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from worker.errors import Interrupted, LeftAlone, ServerFault, Stopping, Unavailable
from worker.log import get_logger

log = get_logger()

FAILURES = 10
"""So many calls in a row without an answer open the circuit: more than a row's own tries, which may be its fault."""

SECONDS = 2.0
"""For so long they must have failed: what is over sooner (a restart behind a proxy) is bridged by trying again."""

FIRST_REST = 5.0
LONGEST_REST = 60.0

_LOOK_FOR_STOP = 0.2
_MOST_FAULTY = 1000  # requests that are remembered as such
_SERVER_ERROR = 500


class Breaker:
    """Closed: calls pass. Open: they raise ``LeftAlone``. Half-open: one passes, and the others wait for its end.

    Only what says that the backend is down counts as a failure: no whole answer, or a 5xx, but a fault over one request
    only once. It rests for five seconds
    after the first opening, and for twice as long, up to a minute, after each probe that failed, or as long as
    ``Retry-After`` says.
    """

    def __init__(self, backend: str, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._clock = clock
        self._changed = threading.Condition()
        self._failures = 0
        self._faulty: set[int] = set()
        self._vain = 0
        self._failing_since = 0.0
        self._open_until: float | None = None
        self._rest = FIRST_REST
        self._reason = ""
        self._is_probing = False
        self.untroubled = True  # closed, and no failures counted: there is nothing to ask or to tell it

    @property
    def open_until(self) -> float | None:
        """When the next call is let through, as a probe; None while the circuit is closed."""
        return self._open_until

    @property
    def reason(self) -> str:
        """Why it is, or was, open."""
        return self._reason

    def enter(self, stop: threading.Event) -> bool:
        """Whether the call that begins is the probe.

        Raises ``LeftAlone`` while the backend rests, ``Interrupted`` if ``stop`` is set before the probe has ended.
        """
        with self._changed:
            while self._open_until is not None:
                if (left := self._open_until - self._clock()) > 0:
                    raise LeftAlone(self._backend, f"is left alone for {left:.0f} s: {self._reason}", retry_after=left)
                if not self._is_probing:
                    self._is_probing = True
                    return True
                if stop.is_set():
                    raise Interrupted(Stopping(f"{self._backend}: the worker is stopping"))
                self._changed.wait(_LOOK_FOR_STOP)
            return False

    def answered(self) -> None:
        """A call was answered, whatever the answer is: the backend is up."""
        with self._changed:
            self._failures = 0
            self._faulty.clear()
            if self._open_until is not None:
                self._close()
            self.untroubled = True

    def failed(self, error: Unavailable, *, is_probe: bool, of: int = 0) -> None:
        """A call ended so; ``of`` tells its request from others."""
        if error.status is not None and error.status < _SERVER_ERROR:
            self.answered()
            return
        with self._changed:
            self.untroubled = False
            if self._is_known(error, of) and not (is_probe and self._is_in_vain()):
                return
            now = self._clock()
            if not self._failures:
                self._failing_since = now
            self._failures += 1
            if is_probe:
                self._rest = min(LONGEST_REST, 2 * self._rest)
                self._open(now, error)
            elif self._open_until is None and self._failures >= FAILURES and now - self._failing_since >= SECONDS:
                log.warning("circuit opened", backend=self._backend, reason=error.detail)
                self._open(now, error)

    def _is_known(self, error: Unavailable, of: int) -> bool:
        """Whether the server broke over this request before, which says nothing new."""
        if not isinstance(error, ServerFault):
            return False
        if of in self._faulty:
            return True
        if len(self._faulty) < _MOST_FAULTY:
            self._faulty.add(of)
        return False

    def _is_in_vain(self) -> bool:
        """Whether the backend has broken over as many probes as open a circuit: till then, the next one is a probe."""
        self._vain += 1
        return self._vain >= FAILURES

    def leave(self) -> None:
        """The probe is over; if it came to no end, as the worker stops, the next call is one."""
        with self._changed:
            self._is_probing = False
            self._changed.notify_all()

    def _open(self, now: float, error: Unavailable) -> None:
        self._vain = 0
        self._reason = error.detail.removeprefix(f"{self._backend}: ")
        self._open_until = now + max(self._rest, error.retry_after or 0.0)

    def _close(self) -> None:
        self._open_until, self._rest, self._vain = None, FIRST_REST, 0
        log.info("circuit closed", backend=self._backend, seconds=round(self._clock() - self._failing_since, 1))
        self._changed.notify_all()
