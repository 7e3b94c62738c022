"""Exports of a server's resources (HL7 FHIR Bulk Data Access IG 2.0.0): made at once, and told at the second poll."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from worker import exact_json
from worker.sandbox.issues import Issue
from worker.sandbox.resources import Resource, Resources, Version
from worker.sandbox.search import Pairs, Search

_NDJSON = {"Content-Type": "application/fhir+ndjson"}


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its body is text that stands as it is, or what is written as JSON."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Made:
    manifest: Resource
    files: list[bytes]
    polled: bool = False


class Exports:
    """The exports under a base URL. Whatever the level, all resources of the types are taken for the patients'."""

    def __init__(self, base_url: str, resources: Resources, now: Callable[[], datetime]) -> None:
        self._base_url = base_url
        self._resources = resources
        self._now = now
        self._made: dict[str, _Made] = {}

    def answer(self, method: str, path: str, query: Pairs) -> Said | None:
        """What is said to a request, None to one that is none of theirs; raises ``Issue``."""
        if path.endswith("$export"):
            return self._begin(list(query))
        match path.split("/"):
            case ["exports", name, *number]:
                return self._of(name, method, number)
        return None

    def _begin(self, query: list[tuple[str, str]]) -> Said:
        name = secrets.token_hex(4)
        asked = dict(query)
        until = self._now()
        since = datetime.fromisoformat(asked["_since"]) if "_since" in asked else None
        found = self._found(query, since)
        made = _Made({"transactionTime": until.isoformat(), "requiresAccessToken": True, "output": []}, [])
        for type_, versions in found.items():
            alive = [version.resource for version in versions if version.resource is not None]
            self._add(made, name, "output", type_, alive)
        gone = [version for versions in found.values() for version in versions if version.resource is None]
        self._add(made, name, "deleted", "Bundle", [_deletion(version) for version in gone] if since else [])
        self._made[name] = made
        return Said(202, headers={"Content-Location": f"{self._base_url}/exports/{name}"})

    def _found(self, query: list[tuple[str, str]], since: datetime | None) -> dict[str, list[Version]]:
        types = {type_ for name, given in query if name == "_type" for type_ in given.split(",")}
        chosen: defaultdict[str, set[str]] = defaultdict(set)
        for each in [given for name, given in query if name == "_typeFilter"]:
            type_, _, criteria = each.partition("?")
            found = Search.parse(type_, parse_qsl(criteria), strict=True).find(self._resources)
            chosen[type_] |= {version.id for version in found}
        by_type: defaultdict[str, list[Version]] = defaultdict(list)
        for version in self._resources.changed(since):
            is_chosen = version.resource is None or version.type not in chosen or version.id in chosen[version.type]
            if is_chosen and (not types or version.type in types):
                by_type[version.type].append(version)
        return by_type

    def _add(self, made: _Made, name: str, kind: str, type_: str, resources: list[Resource]) -> None:
        if resources:
            url = f"{self._base_url}/exports/{name}/{len(made.files)}"
            made.manifest.setdefault(kind, []).append({"type": type_, "url": url, "count": len(resources)})
            made.files.append(b"".join(exact_json.dumps(each) + b"\n" for each in resources))

    def _of(self, name: str, method: str, number: list[str]) -> Said:
        if name not in self._made:
            raise Issue(404, "There is no such export, or not any more.")
        made = self._made[name]
        if method == "DELETE":
            del self._made[name]
            return Said(202)
        if number:
            return Said(200, made.files[int(number[0])], _NDJSON)
        if made.polled:
            return Said(200, made.manifest, {"Content-Type": "application/json"})
        made.polled = True
        return Said(202, headers={"Retry-After": "1"})


def _deletion(version: Version) -> Resource:
    request = {"method": "DELETE", "url": f"{version.type}/{version.id}"}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": request}]}
