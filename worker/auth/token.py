"""An access token as the worker sees it: an opaque string with an end."""

from __future__ import annotations

from dataclasses import dataclass, field

_LONG_ENOUGH_TO_SHOW_ENDS = 32


@dataclass(frozen=True, slots=True)
class Token:
    """What the token endpoint gave: times in seconds, ``expires`` by this process's monotonic clock.

    ``lifetime`` counts from just before the request was sent; ``scope`` is what was granted.
    """

    access_token: str = field(repr=False)
    token_type: str
    scope: tuple[str, ...]
    lifetime: float
    expires: float

    def left(self, now: float) -> float:
        """Seconds until it ends; negative afterwards."""
        return self.expires - now

    def age(self, now: float) -> float:
        """Seconds since just before it was asked for."""
        return self.lifetime - self.left(now)

    def masked(self) -> str:
        """For people: enough to tell two tokens apart, nothing to use."""
        text, size = self.access_token, len(self.access_token)
        return (
            f"{text[:4]}…{text[-4:]}, {size} characters"
            if size >= _LONG_ENOUGH_TO_SHOW_ENDS
            else f"…, {size} characters"
        )
