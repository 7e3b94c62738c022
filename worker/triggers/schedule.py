"""The schedule: each time that a job's cron expression names is a tick, once in a fleet.

The ledger remembers up to when a job's ticks were seen to, by its own clock. Whoever moves that time on has made the
ticks in between, in the same transaction; so a tick is neither lost nor made twice, whoever dies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from worker import cron, log
from worker.declare import Job
from worker.errors import Paused
from worker.ledger import Ledger
from worker.ledger.schedules import AHEAD_SECONDS
from worker.records import Delivery, Scheduled
from worker.sockets import Opening, Room, Submit
from worker.triggers.ticks import Ticks

GRACE_SECONDS = 30.0  # a tick that could not start for so long was missed
QUIET_SECONDS = 5.0  # between looks for ticks that were left behind
AT_A_LOOK = 100  # missed ticks that are made at once, where each of them is to be run

_WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=32))


class Schedule:
    """Makes ticks when their time has come, and hands over those that can run; ``jobs`` are those with a schedule."""

    def __init__(self, jobs: Iterable[Job[..., Any]], ledger: Ledger, ticks: Ticks, submit: Submit, room: Room) -> None:
        self._timetables = [Timetable(job, ledger) for job in jobs]
        self._schedules = ledger.schedules
        self._ticks = ticks
        self._submit = submit
        self._room = room
        self._begun = self._more = False
        self._stopping, self._look_again = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="schedule")
        self._stuck = False
        self._log = log.get_logger()

    def start(self) -> None:
        """Begin to look; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Make and hand out no more."""
        self._stopping.set()
        self._look_again.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._look_again.clear()  # before the look: what ends during it may be what it has found in the way
            self.look()
            if not self._stopping.is_set():
                self._look_again.wait(self._quiet_for())

    def _quiet_for(self) -> float:
        """Seconds until the next tick, or until somebody should look for what was left behind."""
        if self._more:
            return 0.0
        return max(0.0, min((each.seconds_left for each in self._timetables), default=QUIET_SECONDS))

    def look(self) -> int:
        """Make the ticks that are due, and hand over what can be run; returns how much that was."""
        self._more = False
        for each in self._timetables:
            each.seconds_left = QUIET_SECONDS  # unless it can be seen to: a tick that is due then makes no haste
        try:
            room = self._room()  # before any tick is made: one that cannot start is for another worker, or is missed
            if not room or self._stopping.is_set():
                return 0
            self._see_to_ticks()
            due = self._ticks.due(room)
        except Paused as trouble:
            if not self._stuck:
                self._log.warning("the schedule cannot be worked off", reason=trouble.detail)
            self._stuck = True
            return 0
        self._stuck, self._more = False, len(due) == room
        for opening in due:
            self._submit(partial(self._open, opening))
        return len(due)

    def _open(self, opening: Opening) -> Delivery | None:
        """Open a tick, at whose end the next one of its job may have waited for its turn."""
        delivery = opening()
        if delivery is None:
            self._look_again.set()
        else:
            delivery.settle = partial(self._settle, delivery.settle)
        return delivery

    def _settle(self, settle: Callable[[Exception | None], None], error: Exception | None) -> None:
        settle(error)
        self._look_again.set()

    def _see_to_ticks(self) -> None:
        if not self._begun:
            for each in self._timetables:
                each.begin()
            self._begun = True
        known, now = self._schedules.read(), self._schedules.now()
        for each in self._timetables:
            each.see_to(known, now)


class Timetable:
    """One job's ticks."""

    def __init__(self, job: Job[..., Any], ledger: Ledger) -> None:
        self._job = job
        self._calendar = Calendar(job.schedule or "", job.timezone)
        self._definition = f"{job.schedule} {job.timezone or 'UTC'}"
        self._schedules = ledger.schedules
        self._log = log.get_logger().bind(job=job.name)
        self._another = False
        self.seconds_left = QUIET_SECONDS

    def begin(self) -> None:
        """The job's schedule is this one from now on."""
        self._schedules.begin(self._job.name, self._definition)

    def see_to(self, known: Mapping[str, Scheduled], now: float) -> None:
        """Make the ticks that are due by ``now``."""
        seen = known.get(self._job.name)
        if seen is None or seen.definition != self._definition:
            self._left_to_another()
            return
        if seen.seen_to > now + AHEAD_SECONDS:
            self.begin()
            return
        after, until = _moment(seen.seen_to), _moment(now)
        if due := self._due(after, until):
            late = [time for time in due if now - time.timestamp() > GRACE_SECONDS]
            missed = now - self._calendar.after(after).timestamp() > GRACE_SECONDS
            self._make(seen, due, self._chosen(due, late, missed=missed))
            after = due[-1]
        self.seconds_left = min(QUIET_SECONDS, (self._calendar.after(after) - until).total_seconds())

    def _left_to_another(self) -> None:
        if not self._another:
            self._log.warning("its schedule was changed by a worker that began later", schedule=self._definition)
        self._another = True

    def _due(self, after: datetime, until: datetime) -> list[datetime]:
        """The ticks that are not seen to yet: the first of them where each counts, else only the last one."""
        if self._job.misfire == "all":
            return list(islice(self._calendar.between(after, until), AT_A_LOOK))
        last = self._calendar.last(after, until)
        return [last] if last else []

    def _chosen(self, due: list[datetime], late: list[datetime], *, missed: bool) -> list[datetime]:
        """Those of the ticks that are to be run. ``missed``: nobody saw to them, or to others before them, in time.

        A tick that was missed did not come while the one before it ran.
        """
        chosen = [time for time in due if time not in late] if self._job.misfire == "skip" else due
        if self._job.overlap == "queue" or self._job.files or not self._schedules.is_busy(self._job.name):
            return chosen
        if self._job.misfire == "once":
            return due if missed else []
        return late if self._job.misfire == "all" else []

    def _make(self, seen: Scheduled, due: list[datetime], chosen: list[datetime]) -> None:
        run = [] if self._job.files else [time.timestamp() for time in chosen]
        ticks = {time.timestamp(): f"{self._job.name}-{time:%Y%m%dT%H%M%SZ}" for time in due}
        released = bool(self._job.files and chosen)
        if self._schedules.see_to(seen, due[-1].timestamp(), ticks, run=run, release=released):
            for time in due:
                self._log.info("tick" if time in chosen else "tick left out", at=f"{time:%Y-%m-%dT%H:%M:%SZ}")


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Calendar:
    """The times of a cron expression in a time zone, in UTC.

    Where clocks change, cron(8)'s rule: a time that they leap over comes at the leap, one that they show twice comes
    the first time. A schedule that names no hour goes by the time that passes: nothing is moved, nothing left out.
    """

    def __init__(self, expression: str, timezone: str | None) -> None:
        self._cron = cron.parse(expression)
        self._zone = ZoneInfo(timezone or "UTC")
        self._trigger = _trigger(self._cron)

    def after(self, moment: datetime) -> datetime:
        """The first time after a moment."""
        wall = moment.astimezone(self._zone).replace(tzinfo=None, fold=0)
        return self._by_time_passed(moment, wall) if self._cron.every_hour else self._by_the_clock(moment, wall)

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The times after a moment, up to and with another."""
        while (after := self.after(after)) <= until:
            yield after

    def last(self, after: datetime, until: datetime) -> datetime | None:
        """The last of them; looked for from the end, as there may be a year's minutes between."""
        for window in _WINDOWS:
            if until - window > after and (found := self.after(until - window)) <= until:
                return max(self.between(found, until), default=found)
        return max(self.between(after, until), default=None)

    def _by_the_clock(self, moment: datetime, wall: datetime) -> datetime:
        while True:
            wall = self._next(wall)
            found = self._first(wall)
            if found > moment:
                return found

    def _by_time_passed(self, moment: datetime, wall: datetime) -> datetime:
        """From one change of the clocks to the next, the zone is an offset."""
        while True:
            offset = _offset(moment, self._zone)
            found = (self._next(wall) - offset).replace(tzinfo=UTC)
            if _offset(found, self._zone) == offset:
                return found
            moment = self._change(moment, found)
            # The minute of the change itself counts; between two minutes nothing does.
            wall = moment.astimezone(self._zone).replace(tzinfo=None, fold=0) - timedelta(microseconds=1)

    def _next(self, wall: datetime) -> datetime:
        """The next time on a clock that is never changed."""
        later = (wall + timedelta(microseconds=1)).replace(tzinfo=UTC)
        found: datetime = self._trigger.get_next_fire_time(None, later)
        return found.replace(tzinfo=None)

    def _first(self, wall: datetime) -> datetime:
        """When clocks show that time, or leap over it."""
        found = wall.replace(tzinfo=self._zone).astimezone(UTC)
        if found.astimezone(self._zone).replace(tzinfo=None, fold=0) == wall:
            return found
        return self._change(wall.replace(tzinfo=self._zone, fold=1).astimezone(UTC), found)

    def _change(self, low: datetime, high: datetime) -> datetime:
        """The first second with another offset than at ``low``; there is one up to ``high``."""
        before = _offset(low, self._zone)
        seconds = range(1, int((high - low).total_seconds()) + 1)
        first, last = 0, len(seconds) - 1
        while first < last:
            middle = (first + last) // 2
            if _offset(low + timedelta(seconds=seconds[middle]), self._zone) == before:
                first = middle + 1
            else:
                last = middle
        return (low + timedelta(seconds=seconds[first])).replace(microsecond=0)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _trigger(fields: cron.Cron) -> Any:
    """APScheduler's trigger on a clock that is never changed; its weekdays count from Monday."""
    time = {
        "minute": _listed(fields.minutes, 60),
        "hour": _listed(fields.hours, 24),
        "month": _listed(fields.months, 12),
    }
    day = {"day": _listed(fields.days, 31)}
    weekday = {"day_of_week": _listed({(weekday - 1) % 7 for weekday in fields.weekdays}, 7)}
    if fields.either_day:
        return OrTrigger([CronTrigger(**time, **which, timezone=UTC) for which in (day, weekday)])
    return CronTrigger(**time, **day, **weekday, timezone=UTC)


def _listed(numbers: Iterable[int], size: int) -> str:
    numbers = sorted(numbers)
    return "*" if len(numbers) == size else ",".join(map(str, numbers))
