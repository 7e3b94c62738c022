"""The threads that messages run on: a small one on a thread of the rows' pool, a large one on a thread of its own.

A large one hands its rows to the pool, as a file does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from worker import log
from worker.lane import Lane
from worker.pool import Pool
from worker.runner import Runner
from worker.sockets import Opening
from worker.stopping import Stop


class Hands:
    """Runs messages; ``limits`` says how many of each queue at once, ``large`` how many of many rows in all."""

    def __init__(self, runner: Runner, pool: Pool, limits: Mapping[str, int | None], *, large: int, stop: Stop) -> None:
        self._runner = runner
        self._stop = stop
        self.rested: Callable[[], None] = lambda: None
        self._lanes: dict[str, Lane[Opening]] = {
            queue: pool.lane(self._run, rest=lambda: self.rested(), limit=limit) for queue, limit in limits.items()
        }
        self._large = ThreadPoolExecutor(large, thread_name_prefix="message")
        self._log = log.get_logger()

    def small(self, queue: str, openings: Sequence[Opening]) -> None:
        """Run messages of one row."""
        self._lanes[queue].put(openings)

    def prompt(self, queue: str) -> bool:
        """Whether a message of one row is over sooner than a call would be."""
        return self._lanes[queue].prompt

    def large(self, opening: Opening) -> None:
        """Run a message of many rows, perhaps, once there is a thread for it."""
        self._large.submit(self._run_alone, opening)

    def _run_alone(self, opening: Opening) -> None:
        self._run(opening)
        self.rested()

    def _run(self, opening: Opening) -> None:
        try:
            if delivery := opening():
                self._runner.run(delivery)
        except Exception as bug:  # noqa: BLE001 - nobody above would see it; the broker gives the message again
            self._log.error("the worker has a bug", error=type(bug).__name__, where=log.location(bug))

    def close(self) -> None:
        """End when what is running has ended; once the stop is over, at once."""
        self._large.shutdown(wait=not self._stop.over.is_set(), cancel_futures=True)
