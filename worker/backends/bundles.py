"""Bundles that a job sends: a transaction works as a whole, a batch entry by entry (https://hl7.org/fhir/R4/http.html)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel

from worker.backends import models
from worker.backends.answers import outcome_error, outcome_issues
from worker.errors import BackendError, Refused, Reject

Entry = dict[str, Any]
Given = Mapping[str, Any] | BaseModel | Iterable[Mapping[str, Any] | BaseModel]
"""A Bundle, or its entries, as a job has them: dicts or models."""

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class EntryOutcome:
    """What became of one entry: its status, and the resource and headers that the server gave.

    ``error`` is what a single request with that answer would have raised, None where it went well.
    """

    status: int
    resource: Any = None
    location: str = ""
    etag: str = ""
    error: BackendError | None = None


def entries_of(given: Given) -> list[Entry]:
    """The entries of a Bundle, or of a list, as plain dicts; Bundle, entries and resources may be models.

    Raises ``Reject`` for what is neither.
    """
    plain = models.as_dict(given)
    if isinstance(plain, Mapping):
        if (type_ := plain.get("resourceType", "Bundle")) != "Bundle":
            raise Reject(f"a Bundle or its entries were to be sent, not a single {type_}: put it into an entry")
        plain = plain.get("entry") or ()
    return [_plain(entry, place) for place, entry in enumerate(plain, 1)]


def _plain(entry: Any, place: int) -> Entry:
    plain = models.as_dict(entry)
    if not isinstance(plain, Mapping) or not isinstance(plain.get("request"), Mapping):
        raise Reject(f"entry {place} of the Bundle has no request, which says what to do")
    if any(map(_is_blank, parse_qsl(plain["request"].get("ifNoneExist") or "", keep_blank_values=True))):
        raise Reject(f"entry {place} of the Bundle has an ifNoneExist without a value, which would find anything")
    return {**plain, "resource": models.as_dict(plain["resource"])} if "resource" in plain else dict(plain)


def bundle(type_: str, entries: list[Entry]) -> dict[str, Any]:
    """A Bundle of these entries."""
    return {"resourceType": "Bundle", "type": type_, "entry": entries}


def _is_blank(condition: tuple[str, str]) -> bool:
    """Whether it asks for any value at all, or for any of a system."""
    return not re.split(r"(?<!\\)\|", condition[1])[-1].strip()


def merged(entries: list[Entry]) -> tuple[list[Entry], list[int]]:
    """The entries with those of one key merged, and the place of each given entry among them.

    Two creates with one ``ifNoneExist`` would find nothing both and make two resources; references to the second's
    ``urn:uuid`` then point to the first. A transaction with two updates of one resource is refused by every server;
    raises ``Reject`` if they differ, as nobody could say which is meant.
    """
    kept: list[Entry] = []
    places: list[int] = []
    place_of: dict[Key, int] = {}
    renamed: dict[str, str] = {}
    for entry in entries:
        place = place_of.setdefault(key, len(kept)) if (key := _key(entry)) else len(kept)
        if place == len(kept):
            kept.append(entry)
        else:
            renamed |= _renaming(entry, kept[place])
        places.append(place)
    return (_renamed(kept, renamed) if renamed else kept), places


def _key(entry: Entry) -> Key | None:
    """What makes two entries mean the same resource, None where nothing can."""
    request = entry.get("request") or {}
    method, url, condition = (request.get(name) or "" for name in ("method", "url", "ifNoneExist"))
    return (method, url, condition) if method == "PUT" or (method == "POST" and condition) else None


def _renaming(entry: Entry, first: Entry) -> dict[str, str]:
    request = entry["request"]
    if request["method"] == "PUT" and entry != first:
        raise Reject("two entries of the transaction put something different in one place; make them one")
    given, kept = entry.get("fullUrl"), first.get("fullUrl")
    return {given: kept} if given and kept else {}


def outcomes(backend: str, answer: Any, expected: int) -> list[EntryOutcome]:
    """The outcomes of the entries, by position; raises ``Refused`` if there is not one for each."""
    given = answer.get("entry") if isinstance(answer, dict) else None
    entries = given if isinstance(given, list) else []
    if len(entries) != expected:
        raise Refused(backend, f"answered {expected} entries with {len(entries)}")
    return [_outcome(backend, entry if isinstance(entry, dict) else {}) for entry in entries]


def _outcome(backend: str, entry: Entry) -> EntryOutcome:
    given = entry.get("response")
    response = given if isinstance(given, dict) else {}
    digits = str(response.get("status", ""))[:3]
    status = int(digits) if digits.isdecimal() else 0
    error = None
    if not 200 <= status < 300:
        error = outcome_error(backend, outcome_issues(response.get("outcome")), status)
    location, etag = (str(response.get(name) or "") for name in ("location", "etag"))
    return EntryOutcome(status, entry.get("resource"), location, etag, error)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A copy in which references to dropped entries name the ones that stand for them."""
    if isinstance(value, Mapping):
        return {
            key: names.get(held, held) if key == "reference" and isinstance(held, str) else _renamed(held, names)
            for key, held in value.items()
        }
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value
