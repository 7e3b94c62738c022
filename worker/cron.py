"""The five fields of cron, as crontab(5) describes them: minute, hour, day of month, month, day of week."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_ITEM = re.compile(r"(\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")
_LONGEST = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]  # days of each month


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int:
        """A number, or a name that stands for one."""
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.low
        if not text.isascii() or not text.isdecimal() or not self.low <= int(text) <= self.high:
            names = f" or {self.names[0].upper()} to {self.names[-1].upper()}" if self.names else ""
            raise ValueError(f"{text!r} is no {self.name}; write {self.low} to {self.high}{names}")
        return int(text)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, tuple(_MONTHS)),
    _Field("day of the week", 0, 7, tuple(_WEEKDAYS)),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """What each field allows; ``weekdays`` count from 0, which is Sunday, to 6.

    ``either_day``: a day need only be one of ``days`` or one of ``weekdays``, as crontab(5) has it where neither field
    begins with a star; else it has to be both.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    @property
    def every_hour(self) -> bool:
        """Whether no hour is named: such a schedule goes by the time that passes, not by what clocks show."""
        return len(self.hours) == 24


def parse(text: str) -> Cron:
    """Understand an expression; raises ``ValueError`` with a sentence that says what to write instead."""
    written = text.split()
    if len(written) != len(_FIELDS):
        raise ValueError(
            f"it has {len(written)} fields; write five: minute, hour, day of the month, month, day of the week, "
            'such as "0 2 * * *" for 02:00 each day'
        )
    minutes, hours, days, months, weekdays = (
        frozenset(number for item in part.split(",") for number in _numbers(field, item))
        for field, part in zip(_FIELDS, written, strict=True)
    )
    either = not written[2].startswith("*") and not written[4].startswith("*")
    if not either and not any(min(days) <= _LONGEST[month - 1] for month in months):
        raise ValueError("no such day comes in any of its months; write another day of the month")
    return Cron(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)


def _numbers(field: _Field, item: str) -> range:
    found = _ITEM.fullmatch(item)
    if not found:
        raise ValueError(f"{item!r} is no {field.name}; write *, a number, a range such as 1-5, or a step such as */5")
    _, first, last, step = found.groups()
    low = field.number(first) if first else field.low
    if first and step and not last:
        raise ValueError(f"{item!r} has a step without a range; write {first}-{field.high}/{step}")
    high = field.number(last) if last else low if first else field.high
    if high < low:
        raise ValueError(f"{item!r} goes backwards; write two ranges: {first}-{field.high},{field.low}-{last}")
    if step and not 1 <= int(step) <= field.high:
        raise ValueError(f"the step of {item!r} must be from 1 to {field.high}")
    return range(low, high + 1, int(step or 1))
