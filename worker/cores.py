"""Where threads run that take turns at Python's lock: together on one core, unless they could use several.

A turn that passes from core to core costs several times what it costs on one: the other core has to be woken, and what
it needs fetched into its cache (D. Beazley, Understanding the Python GIL, 2010). The kernel does not know that only one
of the threads can go on, and spreads them. What it would be right to spread is work that does without the lock, such as
numpy's, or programs that jobs start: that shows in the processor time that is used while the threads are spread, unless
others take all that the machine has.

A thread that wakes, as an answer has come, mostly finds the lock taken. Were it to push the lock's holder from its core
first, as the kernel does for the sake of programs that people wait for, that were two changes of thread for nothing.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

WINDOW_SECONDS = 0.125
ONE_CORE = 1.25
"""Cores that threads with one lock between them use at the most: the lock's holder, and a bit that the kernel does."""

FULL = 0.9
ROOM = 0.2
"""Cores without work, at the least, for the threads to have been able to use more of them."""

FIRST_TRIAL_SECONDS = 1.0
LONGEST_TRIAL_SECONDS = 60.0


class Times(NamedTuple):
    """A core's seconds since the machine was started."""

    busy: float
    total: float


class Machine(Protocol):
    """What there is to run on."""

    def cores(self) -> Collection[int]:
        """Those that this process may use; with less than two nothing is ever placed."""

    def place(self, thread: int, cores: Collection[int]) -> None:
        """Let a thread, by its native id, run on these only."""

    def calm(self, thread: int) -> None:
        """Have a thread wait, when it wakes, until the one that runs has paused."""

    def used(self) -> float:
        """Seconds of processor time of this process, and of those that it started and that have ended."""

    def times(self) -> Mapping[int, Times]:
        """How busy each core was, as far as it is known."""


class Linux:
    """The kernel's own figures (proc(5), sched_setaffinity(2)); elsewhere there are no cores to choose from."""

    def cores(self) -> Collection[int]:
        """Those that this process may use."""
        return os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else ()

    def place(self, thread: int, cores: Collection[int]) -> None:
        """Let a thread run on these only."""
        os.sched_setaffinity(thread, cores)

    def calm(self, thread: int) -> None:
        """``SCHED_BATCH`` (sched(7))."""
        if hasattr(os, "sched_setscheduler"):
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))

    def used(self) -> float:
        """Seconds of processor time."""
        of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in of)

    def times(self) -> Mapping[int, Times]:
        """From ``/proc/stat``."""
        try:
            lines = Path("/proc/stat").read_text().splitlines()[1:]
        except OSError:
            return {}
        rows = [line.split() for line in lines if line.startswith("cpu")]
        return {int(name[3:]): _times([int(ticks) for ticks in counts]) for name, *counts in rows}


def _times(ticks: list[int]) -> Times:
    total = sum(ticks[:8])  # without those of guests, which are in the first already
    return Times(total - ticks[3] - ticks[4], total)


class _Window(NamedTuple):
    """Figures at its beginning."""

    at: float
    used: float
    times: Mapping[int, Times]


class Cores:
    """Places the threads that have joined.

    They are together on one core if the process used no more while they were spread, though there was room for it.
    Where that core is full, they are spread again now and then, for a moment, to see whether they would use more by
    now; that also moves them to a calmer one. ``is_full``: they have used up the core that they were together on.
    """

    def __init__(self, machine: Machine | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._machine = machine or Linux()
        self._clock = clock
        self._all = frozenset(self._machine.cores())
        self._threads: set[int] = set()
        self._place: Collection[int] = self._all
        self._patience = FIRST_TRIAL_SECONDS
        self._next_trial = 0.0
        self._lock = threading.Lock()
        self._window: _Window | None = None
        self.is_full = False

    def join(self) -> None:
        """The calling thread is one of them from now on."""
        with self._lock:
            self._join()

    def leave(self) -> None:
        """The calling thread is none of them any more."""
        with self._lock:
            if (thread := threading.get_native_id()) in self._threads:
                self._put([thread], self._all)
                self._threads.discard(thread)

    def look(self) -> None:
        """Called often by a thread that has work for the others; mostly it only looks at the clock.

        One that keeps calling joins them: it takes turns with them.
        """
        now, window = self._clock(), self._window
        if len(self._all) < 2 or (window and now - window.at < WINDOW_SECONDS):
            return
        with self._lock:
            if window is not self._window:
                return
            self._window = after = _Window(now, self._machine.used(), self._machine.times())
            if window and now - window.at < 2 * WINDOW_SECONDS:
                self._join()
                self._judge(window, after)
            else:  # there was no work for a while
                self.is_full = False

    def _join(self) -> None:
        if (thread := threading.get_native_id()) not in self._threads:
            self._threads.add(thread)
            with suppress(OSError):  # some containers forbid it
                self._machine.calm(thread)
            if self._are_together:
                self._put([thread], self._place)

    @property
    def _are_together(self) -> bool:
        return len(self._place) < len(self._all)

    def _judge(self, before: _Window, after: _Window) -> None:
        busy = {core: _busy(before, after, core) for core in self._all}
        used = (after.used - before.used) / (after.at - before.at)
        if self._are_together:
            self.is_full = used >= FULL
            if after.at >= self._next_trial and all(busy[core] >= FULL for core in self._place):
                self._move(self._all)
        elif used > ONE_CORE:
            self._patience, self.is_full = FIRST_TRIAL_SECONDS, False
        elif len(self._all) - sum(busy.values()) >= ROOM:
            self._move({min(self._all, key=busy.__getitem__)})
            self._next_trial = after.at + self._patience
            self._patience = min(LONGEST_TRIAL_SECONDS, 2 * self._patience)

    def _move(self, place: Collection[int]) -> None:
        self._place = place
        self._put(list(self._threads), place)

    def _put(self, threads: Collection[int], place: Collection[int]) -> None:
        for thread in threads:
            try:
                self._machine.place(thread, place)
            except OSError:  # it has ended, or the core was taken away from us: it runs wherever it may
                self._threads.discard(thread)


def _busy(before: _Window, after: _Window, core: int) -> float:
    """How busy a core was; 1 where it is not known."""
    try:
        (busy, total), (busy_now, total_now) = before.times[core], after.times[core]
    except KeyError:
        return 1.0
    return (busy_now - busy) / (total_now - total) if total_now > total else 1.0
