"""The inbox: a folder that is looked through at every event and at an interval; each complete file is a delivery.

The events (inotify, through watchdog) only make the next look come sooner, and tell of a file that was renamed into
place and so is complete at once. Whatever they miss, on a network share or among ten thousand files, the next look
finds.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from watchdog.events import FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from worker import files, log
from worker.declare import Job
from worker.errors import DeliveryError, Paused, sentence
from worker.jobs import Jobs
from worker.sockets import Room, Submit
from worker.triggers.claims import Claims

PASSED_OVER = (".*", "~*", "*~", "*.tmp", "*.part", "*.filepart", "*.crdownload", "*.swp", "*.lock", "*.lck")
QUIET_SECONDS = 5.0  # between looks while nothing seems to happen
GATHER_SECONDS = 0.05  # between looks: every piece of a file that is being copied makes an event; they share one
AT_A_LOOK = 1000  # files handed over before the next look: what waits to be gone on with gets its turn between

logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # being stopped is an error to it; listen() sees others

_STUCK = "the inbox cannot be worked off"
_NO_EVENTS = "no events from the inbox: it is looked through at an interval"
_LEFT_ALONE = "left alone in the inbox"


@dataclass(frozen=True, slots=True)
class Look:
    """What a file of the inbox looks like, and since when (monotonic seconds) it has looked like that."""

    path: Path
    size: int
    mtime_ns: int
    since: float

    def still_true(self) -> bool:
        """Whether it still looks like that: until its turn comes, another file may have got its name."""
        try:
            now = self.path.lstat()
        except FileNotFoundError:  # another worker was faster
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a look found: how many deliveries, whether ``more`` are complete, whether others are still ``settling``.

    ``trouble`` says why a file could not be taken, or the inbox not be looked through.
    """

    handed_over: int
    more: bool
    settling: bool
    trouble: str = ""


class Inbox:
    """Looks through one folder; hands over what is complete, oldest first, and what was left to be gone on with.

    ``released`` tells when a tick last let the files of a job with a schedule be taken; those that came later wait.
    """

    def __init__(
        self,
        folder: Path,
        claims: Claims,
        jobs: Jobs,
        submit: Submit,
        room: Room,
        *,
        settle_seconds: float,
        released: Callable[[], Mapping[str, float]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._claims = claims
        self._jobs = jobs
        self._submit = submit
        self._room = room
        self._settle_seconds = settle_seconds
        self._released = released
        self._holds_any = any(job.schedule and job.files for job in jobs.enabled)
        self._clock = clock
        self._looks: dict[str, Look] = {}
        self._renamed: set[str] = set()
        self._events = Events()
        self._warned: set[tuple[str, str]] = set()
        self._trouble = ""
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="inbox")
        self._log = log.get_logger()

    def start(self) -> None:
        """Begin to look; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Hand out no more."""
        self._stopping = True
        self._events.wake()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping:
            if trouble := self._events.listen(self._folder):
                self._warn(_NO_EVENTS, str(self._folder), trouble)
            sweep = self.sweep()
            if not sweep.more:
                soon = min(self._settle_seconds, QUIET_SECONDS)
                self._events.wait(soon if sweep.settling or trouble else QUIET_SECONDS)
        self._events.close()

    def sweep(self) -> Sweep:
        """One look; hands over what it finds."""
        self._trouble = ""
        try:
            self._renamed |= self._events.renamed()
            released = self._released() if self._holds_any else {}
            room = self._room()
            due = self._claims.due(room)
            for opening in due:
                self._submit(opening)
            complete, settling = self._sorted_out(list(self._candidates(released)))
            taken = sum(map(self._take, complete[:AT_A_LOOK]))
            self._warned.discard((_STUCK, str(self._folder)))
        except (OSError, Paused) as error:
            self._warn(_STUCK, str(self._folder), sentence(error))
            return Sweep(0, more=False, settling=False, trouble=sentence(error))
        more = (0 < len(due) == room) or len(complete) > AT_A_LOOK
        return Sweep(len(due) + taken, more=more, settling=settling, trouble=self._trouble)

    def _take(self, look: Look) -> bool:
        name = look.path.name
        try:
            if self._stopping or not self._room() or not look.still_true():  # without room, it is for the others
                return False
            self._renamed.discard(name)
            self._looks.pop(name, None)
            opening = self._claims.claim(look.path)
        except OSError as error:  # this one cannot be moved; the others need not wait for it
            self._trouble = sentence(error)
            self._warn(_LEFT_ALONE, name, self._trouble)
            return False
        if opening:
            self._submit(opening)
        return opening is not None

    def _candidates(self, released: Mapping[str, float]) -> Iterator[Look]:
        now = self._clock()
        suffixes = self._jobs.done_suffixes
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if any(fnmatchcase(entry.name, pattern) for pattern in PASSED_OVER) or entry.name.endswith(suffixes):
                    continue
                with suppress(FileNotFoundError):  # another worker was faster
                    found = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode):
                        self._warn(_LEFT_ALONE, entry.name, "it is no regular file (a link, a folder, a pipe)")
                    elif fault := _fault(entry):
                        self._warn(_LEFT_ALONE, entry.name, fault)
                        self._trouble = f"{self._folder / entry.name}: {fault}"
                    elif not self._is_held(entry.name, found.st_ctime, released):
                        yield Look(Path(entry.path), found.st_size, found.st_mtime_ns, now)

    def _is_held(self, name: str, there_since: float, released: Mapping[str, float]) -> bool:
        """Whether it is for a job with a schedule, and came after the last tick that let such files be taken."""
        if not self._holds_any:
            return False
        job = self._job(name)
        return job is not None and bool(job.schedule) and there_since > released.get(job.name, 0.0)

    def _sorted_out(self, found: list[Look]) -> tuple[list[Look], bool]:
        """Complete files, oldest first, and whether others are still settling."""
        names = {look.path.name for look in found}
        self._renamed &= names
        looks = {look.path.name: self._since(look) for look in found}
        self._looks = looks
        complete = [look for look in looks.values() if self._is_complete(look)]
        return sorted(complete, key=lambda look: (look.mtime_ns, look.path.name)), len(complete) < len(found)

    def _since(self, look: Look) -> Look:
        """The look with the time at which the file first looked like this."""
        before = self._looks.get(look.path.name)
        same = before and (before.size, before.mtime_ns) == (look.size, look.mtime_ns)
        return before if before and same else look

    def _is_complete(self, look: Look) -> bool:
        name = look.path.name
        if suffix := self._done_suffix(name):
            return self._is_told(look.path, look.path.with_name(name + suffix))
        return name in self._renamed or self._clock() - look.since >= self._settle_seconds

    def _is_told(self, path: Path, done: Path) -> bool:
        """Whether the done file is of this file, and was not left there by an earlier one of the same name."""
        try:
            file, sign = path.lstat(), done.lstat()
        except FileNotFoundError:
            return False
        if sign.st_mtime_ns >= file.st_mtime_ns or sign.st_ctime_ns >= file.st_ctime_ns:
            return True
        self._warn(_LEFT_ALONE, path.name, "its done file is older than it; write that anew when the file is complete")
        return False

    def _done_suffix(self, name: str) -> str | None:
        job = self._job(name)
        return job.done_suffix if job else None

    def _job(self, name: str) -> Job[..., Any] | None:
        try:
            return self._jobs.match(name)
        except DeliveryError:
            return None  # it will say so when it is run

    def _warn(self, event: str, name: str, reason: str) -> None:
        if (event, name) not in self._warned:
            self._warned.add((event, name))
            self._log.warning(event, name=name, reason=reason)


def _fault(entry: os.DirEntry[str]) -> str:
    """Why a file of the inbox cannot be taken; empty if it can. Raises ``FileNotFoundError`` if it is there no more."""
    if not os.access(entry.path, os.R_OK):
        os.lstat(entry.path)  # another worker may just have taken it
        return "it may not be read; give this user the permission"
    return files.name_fault(entry.name)


def _brings_nothing(event: FileSystemEvent) -> bool:
    """Whether our own looks make it, or a file that leaves; what else changes a folder has an event of its own."""
    kind = event.event_type
    looked_at = kind in ("opened", "closed_no_write")
    return looked_at or (kind == "modified" and event.is_directory) or (kind == "moved" and not event.dest_path)


class Events(FileSystemEventHandler):
    """Wakes the one that waits, and remembers the names of files that were renamed into the folder."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._renamed: SimpleQueue[str] = SimpleQueue()
        self._woken = threading.Event()
        self._observer: BaseObserver | None = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog's thread."""
        if isinstance(event, FileMovedEvent) and event.dest_path:
            self._renamed.put(Path(os.fsdecode(event.dest_path)).name)
        if not _brings_nothing(event):
            self._woken.set()

    def listen(self, folder: Path) -> str:
        """Listen to a folder, again where it was made anew; returns why that is not possible."""
        if self._observer and self._observer.emitters and all(each.is_alive() for each in self._observer.emitters):
            return ""
        self.close()
        # Full events: a file renamed into the folder is told from one that is being written there (Linux only).
        self._observer = Observer(**({"generate_full_events": True} if sys.platform == "linux" else {}))
        try:
            self._observer.schedule(self, str(folder))
            self._observer.start()
        except (OSError, RuntimeError) as error:
            return sentence(error)
        return ""

    def renamed(self) -> set[str]:
        """The names since the last call."""
        names = set()
        with suppress(Empty):
            while True:
                names.add(self._renamed.get_nowait())
        return names

    def wake(self) -> None:
        """End the waiting."""
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Wait for an event, so long at the most, and a little longer if the last one was a moment ago."""
        looked = self._clock()
        if self._woken.wait(seconds):
            self._sleep(max(0.0, looked + GATHER_SECONDS - self._clock()))
        self._woken.clear()

    def close(self) -> None:
        """Listen no more."""
        if self._observer and self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
        elif self._observer:
            self._observer.on_thread_stop()  # never started, yet its inotify thread runs
        self._observer = None
