"""How many calls to a backend are under way at once, where nobody has said it: found out from how they go.

After a slow start (RFC 5681 section 3.1), additive increase and multiplicative decrease (Chiu and Jain 1989), whose
sawtooth lets several workers come to equal shares without knowing of each other. Overload shows in refusals and
timeouts, and before that in answers that take longer, as in TCP Vegas (Brakmo and Peterson 1995); how long they take
without a queue is measured anew from time to time at a quarter of the size, as in BBR (Cardwell et al. 2016).
"""

from __future__ import annotations

FIRST = 8
"""Where it starts, and what slow answers alone never bring it below: a backend may just have got harder questions."""

SLOWER = 2.0
SLACK = 0.01
"""Answers are slow that take more than twice as long as without a queue, and ten milliseconds: less may be our own."""

MEASURE_SECONDS = 10.0
MEASURE_ROUNDS = 60
"""How often the time without a queue is measured, whichever is longer: it costs about a round each time."""


class Window:
    """Its ``size`` changes once a round, which is as many answers as it is large; calls are seconds by one clock.

    Not thread-safe but for ``note``: a note that is lost on the way does no harm.
    """

    def __init__(self, most: int) -> None:
        self.size: float = min(FIRST, most)
        self._most = most
        self._threshold: float = most
        self._since = float("-inf")
        self._answers = 0
        self._seconds = 0.0
        self._best = float("inf")
        self._measured_at = 0.0
        self._rounds = 0
        self._before: float | None = None

    def note(self, started: float, ended: float) -> bool:
        """A call was answered; returns whether that ends the round."""
        if started >= self._since:
            self._answers += 1
            self._seconds += ended - started
        return self._answers >= self.size

    def end_round(self, now: float) -> None:
        """Grow if the answers came as fast as without a queue, shrink if they were slow."""
        if self._answers < self.size:
            return  # another thread was faster
        mean, self._answers, self._seconds = self._seconds / self._answers, 0, 0.0
        self._rounds += 1
        if self._before is not None:
            self._end_measuring(mean, now)
            return
        self._best = min(self._best, mean)
        if mean > SLOWER * self._best + SLACK:
            share = max(0.5, (SLOWER * self._best + SLACK) / mean)
            self._shrink(max(min(FIRST, self.size), self.size * share), now)
        elif self.size < self._threshold:
            self.size = min(self._threshold, 2 * self.size)
        else:
            self.size = min(self._most, self.size + 1)
        if self._rounds > MEASURE_ROUNDS and now - self._measured_at > MEASURE_SECONDS:
            self._before, self.size = self.size, max(1.0, self.size / 4)
            self._since = now + mean  # when the queue that there is has gone

    def congested(self, started: float, now: float) -> None:
        """A call met an overload; of those that were under way together, one is enough."""
        if started >= self._since:
            self._before = None
            self._shrink(max(1.0, self.size / 2), now)

    def _end_measuring(self, mean: float, now: float) -> None:
        self._best, self._measured_at, self._rounds = mean, now, 0
        self.size, self._before = self._before or self.size, None

    def _shrink(self, size: float, now: float) -> None:
        """Calls that are under way say nothing about the smaller window."""
        self.size = self._threshold = size
        self._since, self._answers, self._seconds = now, 0, 0.0
