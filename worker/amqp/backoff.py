"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 30.0


class Backoff:
    """Waits that double, each a random part (half to all) of what it could be, so that workers do not come at once."""

    def __init__(self, random: Callable[[], float], longest: float = LONGEST_SECONDS) -> None:
        self._random = random
        self._longest = longest
        self._next = FIRST_SECONDS

    def wait(self) -> float:
        """Seconds to wait now."""
        wait, self._next = self._next, min(2 * self._next, self._longest)
        return wait * (0.5 + self._random() / 2)

    def reset(self) -> None:
        """It has worked."""
        self._next = FIRST_SECONDS
