"""Bundles that a job sends: a transaction works as a whole, a batch entry by entry (https://hl7.org/fhir/R4/http.html)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from worker.backends.answers import outcome_error, outcome_issues
from worker.errors import BackendError, Refused

Entry = dict[str, Any]


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


def entries_of(given: Mapping[str, Any] | Iterable[Entry]) -> list[Entry]:
    """The entries of a Bundle, or a list of entries as it is."""
    return list(given.get("entry") or ()) if isinstance(given, Mapping) else list(given)


def bundle(type_: str, entries: list[Entry]) -> dict[str, Any]:
    """A Bundle of these entries."""
    return {"resourceType": "Bundle", "type": type_, "entry": entries}


def merged(entries: list[Entry]) -> tuple[list[Entry], list[int]]:
    """The entries with equal conditional creates merged, and the place of each given entry among them.

    Two creates with one ``ifNoneExist`` would find nothing both and make two resources; references to the second's
    ``urn:uuid`` then point to the first.
    """
    kept: list[Entry] = []
    places: list[int] = []
    place_of: dict[tuple[str, str], int] = {}
    renamed: dict[str, str] = {}
    for entry in entries:
        request = entry.get("request") or {}
        key = request.get("url", ""), request.get("ifNoneExist", "")
        if key[1] and key in place_of:
            first = kept[place_of[key]]
            if entry.get("fullUrl") and first.get("fullUrl"):
                renamed[entry["fullUrl"]] = first["fullUrl"]
        else:
            place_of[key] = len(kept)
            kept.append(entry)
        places.append(place_of[key])
    return (_renamed(kept, renamed) if renamed else kept), places


def outcomes(backend: str, answer: Any, expected: int) -> list[EntryOutcome]:
    """The outcomes of the entries, by position; raises ``Refused`` if there is not one for each."""
    entries = answer.get("entry") or [] if isinstance(answer, dict) else []
    if len(entries) != expected:
        raise Refused(backend, f"answered {expected} entries with {len(entries)}")
    return [_outcome(backend, entry) for entry in entries]


def _outcome(backend: str, entry: Entry) -> EntryOutcome:
    response = entry.get("response") or {}
    digits = str(response.get("status", ""))[:3]
    status = int(digits) if digits.isdecimal() else 0
    error = None
    if not 200 <= status < 300:
        error = outcome_error(backend, outcome_issues(response.get("outcome")), status)
    return EntryOutcome(
        status, entry.get("resource"), response.get("location", ""), str(response.get("etag", "")), error
    )


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A copy in which references to dropped entries name the ones that stand for them."""
    if isinstance(value, Mapping):
        return {
            key: names.get(held, held) if key == "reference" and isinstance(held, str) else _renamed(held, names)
            for key, held in value.items()
        }
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value
