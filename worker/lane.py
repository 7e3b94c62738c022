"""What comes to the pool item by item, as small messages do; worked off by a thread as long as it is quick."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

REST_SECONDS = 0.00025  # an item that takes longer is not worth waiting for the next one
LANE_SECONDS = 0.005  # for how long a thread goes on with the items before it looks what else there is
STUCK_SECONDS = 2 * LANE_SECONDS  # so long after the last begin, what waits is behind one that takes its time


class Lane(Generic[Item]):
    """Items that come one by one, for as long as the pool is open; what ``work`` makes of them is its own matter.

    A thread works off one after the other, without looking up, for as long as they are quick. ``rest`` is called after
    the last of those, and after each one that is not quick. Neither of the two must raise.
    """

    def __init__(
        self,
        call: Callable[[Lane[Item], bool], None],
        work: Callable[[Item], None],
        rest: Callable[[], None],
        limit: int | None,
    ) -> None:
        self._call = call
        self._work = work
        self._rest = rest
        self._limit = limit
        self._todo: deque[Item] = deque()
        self._pace = 2 * REST_SECONDS  # seconds an item takes, a moving average
        self._begun = 0.0  # when the last one was, of all threads'
        self.active = 0
        self.wanted = False  # whether a thread is, beside those that are at it

    def put(self, items: Sequence[Item]) -> None:
        """Have these worked on as soon as there is a thread.

        Called with nothing now and then, it wakes a further thread for what waits behind one that takes its time. While
        items are over at once, that is the only way to one: two would fight for the interpreter's lock.
        """
        self._todo.extend(items)
        if self._todo:
            self._call(self, not items and not self._goes_on)

    @property
    def waiting(self) -> int:
        """How many are not begun."""
        return len(self._todo)

    @property
    def enough(self) -> bool:
        """Whether one thread is enough: a second would fight for the interpreter's lock with it."""
        return self._pace < LANE_SECONDS

    @property
    def prompt(self) -> bool:
        """Whether its items are over so soon that one is worth waiting for the next one."""
        return self._pace < REST_SECONDS

    @property
    def _goes_on(self) -> bool:
        """Whether whoever is at it gets to what waits as soon as a further thread would."""
        return self.prompt and time.perf_counter() - self._begun < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        """Whether there is something that may be begun by a further thread."""
        if not self._todo or (self._limit is not None and self.active >= self._limit):
            return False
        return self.wanted or not (self.active and self.prompt)

    def work_off(self) -> None:
        """What is there, until it is somebody else's turn at this thread."""
        begun = now = time.perf_counter()
        until = begun + LANE_SECONDS
        done = 0
        while now < until:
            try:
                item = self._todo.popleft()
            except IndexError:  # the end
                break
            self._begun = now
            self._work(item)
            before, now = now, time.perf_counter()
            done += 1
            if not self._todo or now - before > REST_SECONDS:
                self._rest()
        self._pace += ((now - begun) / max(1, done) - self._pace) / 8
