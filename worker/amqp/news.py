"""That the broker is away, or a queue not worked off, for people who look at the workers from outside."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.amqp.link import State
from worker.records import BROKER, Pause

AGAIN_SECONDS = 5.0
TOLD_SECONDS = 15.0
"""For how long it counts: what a worker has told that was killed meanwhile is soon forgotten."""


class News:
    """What there is to be told of a broker's state by now; while anything is amiss, that is told again and again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = ""
        self._again = 0.0

    def of(self, state: State, neglected: str = "") -> Pause | None:
        """None where that was told already; ``neglected`` says which queue is not worked off, if any, and why."""
        reason, now = _trouble(state), self._clock()
        if neglected and not reason:
            reason = f"has a queue that is not worked off: {neglected}"
        if reason == self._told and (not reason or now < self._again):
            return None
        self._told, self._again = reason, now + AGAIN_SECONDS
        return Pause(BROKER, TOLD_SECONDS if reason else 0.0, is_down=True, reason=reason)


def _trouble(state: State) -> str:
    since = f"since {state.since:%Y-%m-%dT%H:%M:%SZ}"
    if not state.up:
        return f"is not connected {since}: {'; '.join(filter(None, (state.reason, state.advice)))}"
    return f"takes no messages {since}: {state.blocked}" if state.blocked else ""
