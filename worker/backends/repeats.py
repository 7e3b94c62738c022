"""Creates that are sent again although the first time may have been done: the second time they are conditional.

What a server knows of ``Idempotency-Key`` is its own affair; ``If-None-Exist`` it looks up by itself, in the same
transaction (https://hl7.org/fhir/R4/http.html#ccreate).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from worker.backends.bundles import Entry
from worker.backends.search import parameters


def criteria(resource: Mapping[str, Any]) -> str:
    """The search that finds a resource by all of its own identifiers; "" where it has none with a system."""
    given = resource.get("identifier")
    identifiers = given if isinstance(given, list) else [given]
    pairs = [(each.get("system"), each.get("value")) for each in identifiers if isinstance(each, Mapping)]
    whole = [pair for pair in pairs if all(part and part.strip() for part in pair)]
    return urlencode(parameters({"identifier": whole})) if whole else ""


def conditional(entries: list[Entry]) -> list[Entry]:
    """The entries, those conditional that would create what has an identifier."""
    return [_conditional(entry) for entry in entries]


def may_race(entries: list[Entry]) -> bool:
    """Whether a conflict may be one of two that create the same at once, and none with a version that was asked for."""
    requests = [entry.get("request") or {} for entry in entries]
    return any(request.get("ifNoneExist") for request in requests) and not any(
        request.get("ifMatch") for request in requests
    )


def _conditional(entry: Entry) -> Entry:
    request = entry.get("request") or {}
    if request.get("method") != "POST" or request.get("ifNoneExist") or "resource" not in entry:
        return entry
    found = criteria(entry["resource"])
    return {**entry, "request": {**request, "ifNoneExist": found}} if found else entry
