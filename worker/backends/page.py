"""One page of a FHIR search, read from an answer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

import requests

from worker.backends.answers import codes, outcome_error, outcome_issues, resource
from worker.errors import Refused

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """One searchset Bundle: what matched, what came along with it, and the codes of the server's warnings.

    ``next`` and ``self_link`` are whole URLs, "" where the server gave none; ``total`` may be missing. ``time`` is when
    the server answered, by its own clock; None where it does not tell.
    """

    matches: list[Resource]
    included: list[Resource]
    warnings: tuple[str, ...]
    total: int | None
    next: str
    self_link: str
    time: datetime | None = None


def read_page(backend: str, response: requests.Response) -> Page:
    """The page in an answer; raises ``BackendError`` if there is none."""
    bundle = resource(backend, response)
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise Refused(backend, "answered a search with something that is not a Bundle", response.status_code)
    by_mode: dict[str, list[Resource]] = {"match": [], "include": [], "outcome": []}
    entries = bundle.get("entry") or []
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or not isinstance(found := entry.get("resource"), dict):
            raise Refused(backend, "answered a search with an entry without its resource", response.status_code)
        by_mode[_mode(entry, found)].append(found)
    links = {
        str(link.get("relation")): _joined(response.url, str(link.get("url"))) for link in _objects(bundle.get("link"))
    }
    issues = [issue for outcome in by_mode["outcome"] for issue in outcome_issues(outcome)]
    if wrong := [issue for issue in issues if issue.get("severity") in ("error", "fatal")]:
        raise outcome_error(backend, wrong, response.status_code)  # what is there is a part only
    total = bundle.get("total")
    return Page(
        by_mode["match"],
        by_mode["include"],
        tuple(sorted(codes(issues))),
        total if type(total) is int else None,
        links.get("next", ""),
        links.get("self", ""),
        _time(bundle, response),
    )


def _time(bundle: Resource, response: requests.Response) -> datetime | None:
    """The earlier one of what the Bundle says, which may be a while old in a cache, and the Date (RFC 9110, 6.6.1)."""
    told = []
    meta = bundle.get("meta")
    with suppress(ValueError):
        told.append(datetime.fromisoformat(str(meta.get("lastUpdated") if isinstance(meta, dict) else None)))
    with suppress(ValueError, TypeError):
        told.append(parsedate_to_datetime(response.headers.get("Date", "")))
    return min((moment.astimezone(UTC) for moment in told if moment.tzinfo), default=None)


def _joined(base: str, link: str) -> str:
    try:
        return urljoin(base, link)
    except ValueError:
        return link  # no URL at all: whoever follows it is told so


def _objects(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _mode(entry: dict[str, Any], found: Resource) -> str:
    if found.get("resourceType") == "OperationOutcome":
        return "outcome"
    search = entry.get("search")
    mode = search.get("mode") if isinstance(search, dict) else ""
    return mode if mode in ("include", "outcome") else "match"
