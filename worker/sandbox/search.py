"""FHIR search: which resources a query means (https://hl7.org/fhir/R4/search.html)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from worker.sandbox.issues import Issue
from worker.sandbox.resources import Resource, Resources, Version

Matcher = Callable[[Version, str], bool]
Pairs = Iterable[tuple[str, str]]

DEFAULT_COUNT = 20
MAX_COUNT = 500

_ALTERNATIVE = re.compile(r"(?:\\.|[^,\\])+")
_ESCAPED = re.compile(r"\\([\\,|$])")
_UNESCAPED_BAR = re.compile(r"(?<!\\)\|")
_DATE = re.compile(
    r"(?P<prefix>eq|ne|gt|lt|ge|le)?(?P<moment>\d{4}-\d\d-\d\d(?P<time>T[\d:]+(?P<fraction>\.\d+)?\S*)?)"
)
_NAME_PARTS = ("text", "family", "given", "prefix", "suffix")


@dataclass(frozen=True, slots=True)
class Search:
    """A query of one resource type: what was understood of it, and how much of the answer is wanted."""

    type: str
    criteria: tuple[tuple[str, str], ...]
    count: int
    only_total: bool

    @classmethod
    def parse(cls, type_: str, pairs: Pairs, *, strict: bool) -> Search:
        """Understand a query; an unknown parameter is left out, or raises 400 where it is read strictly.

        A parameter without a value says nothing, an unknown modifier is always refused
        (https://hl7.org/fhir/R4/search.html#errors and #modifiers).
        """
        given = [(name, value) for name, value in pairs if value]
        unknown = sorted({name for name, _ in given} - PARAMETERS.keys() - {"_count", "_summary", "_format"})
        if unknown and (strict or ":" in "".join(unknown)):
            raise Issue(400, f"Unknown search parameter: {', '.join(unknown)}.", "not-supported")
        wanted = dict(given)
        if wanted.get("_summary", "count") not in ("count", "false"):
            raise Issue(400, "Of _summary, the server knows count and false.", "not-supported")
        count = _count(wanted.get("_count", str(DEFAULT_COUNT)))
        criteria = tuple((name, value) for name, value in given if name in PARAMETERS)
        return cls(type_, criteria, count, count == 0 or wanted.get("_summary") == "count")

    @property
    def query(self) -> str:
        """The query as understood, for the ``self`` link."""
        return urlencode([*self.criteria, ("_summary", "count") if self.only_total else ("_count", str(self.count))])

    def find(self, resources: Resources) -> list[Version]:
        """The resources that match every criterion, each by one of its alternatives."""
        ids = next((_alternatives(value) for name, value in self.criteria if name == "_id"), None)
        candidates = resources.alive(self.type, None if ids is None else dict.fromkeys(ids))
        tests = [(PARAMETERS[name], _alternatives(value)) for name, value in self.criteria]
        return [
            version
            for version in candidates
            if all(any(matches(version, value) for value in values) for matches, values in tests)
        ]


def _count(text: str) -> int:
    if not text.isdecimal():
        raise Issue(400, "_count is not a number.")
    return min(int(text), MAX_COUNT)


def _alternatives(value: str) -> list[str]:
    return [part.strip() for part in _ALTERNATIVE.findall(value)]


def _plain(value: str) -> str:
    return _ESCAPED.sub(r"\1", value)


def _resource(version: Version) -> Resource:
    return version.resource or {}


def _by_id(version: Version, value: str) -> bool:
    return version.id == value


def _by_code(element: str) -> Matcher:
    """A token parameter on a code or a boolean, which have no system of their own."""

    def matches(version: Version, value: str) -> bool:
        found = _resource(version).get(element)
        return (str(found).lower() if isinstance(found, bool) else found) == _plain(value.rpartition("|")[2])

    return matches


def _by_identifier(version: Version, value: str) -> bool:
    *system, code = map(_plain, _UNESCAPED_BAR.split(value, maxsplit=1))
    return any(
        (not code or identifier.get("value") == code) and (not system or identifier.get("system", "") == system[0])
        for identifier in _as_list(_resource(version).get("identifier"))
    )


def _by_text(*parts: str, exact: bool = False) -> Matcher:
    """A string parameter on (parts of) the name: the beginning, whatever the case; or all of it, to the letter."""

    def matches(version: Version, value: str) -> bool:
        sought = _plain(value)
        texts = _texts(_resource(version).get("name"), parts)
        return any(text == sought if exact else text.casefold().startswith(sought.casefold()) for text in texts)

    return matches


def _texts(name: Any, parts: tuple[str, ...]) -> Iterator[str]:
    for item in _as_list(name):
        if isinstance(item, str):
            yield item
        else:
            yield from (text for part in parts for text in _as_list(item.get(part)) if text)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _by_last_updated(version: Version, value: str) -> bool:
    prefix, start, end = _interval(_plain(value))
    at = version.updated
    tests = {"gt": at >= end, "ge": at >= start, "lt": at < start, "le": at < end, "ne": not start <= at < end}
    return tests.get(prefix, start <= at < end)


def _interval(text: str) -> tuple[str, datetime, datetime]:
    """The prefix, and the time that a date means, from its first instant to the first one after it."""
    try:
        if (found := _DATE.fullmatch(text)) is None:
            raise ValueError(text)
        start = datetime.fromisoformat(found["moment"])
    except ValueError as error:
        raise Issue(400, "_lastUpdated is not a date, or not one with a day.") from error
    span = timedelta(milliseconds=1) if found["fraction"] else timedelta(seconds=1) if found["time"] else timedelta(1)
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return found["prefix"] or "eq", start, start + span


PARAMETER_TYPES = {
    "_id": "token",
    "_lastUpdated": "date",
    "active": "token",
    "family": "string",
    "gender": "token",
    "identifier": "token",
    "name": "string",
}

PARAMETERS: dict[str, Matcher] = {
    "_id": _by_id,
    "_lastUpdated": _by_last_updated,
    "active": _by_code("active"),
    "family": _by_text("family"),
    "gender": _by_code("gender"),
    "identifier": _by_identifier,
    "name": _by_text(*_NAME_PARTS),
    "name:exact": _by_text(*_NAME_PARTS, exact=True),
}
