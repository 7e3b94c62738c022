"""Batch and transaction: many interactions in one request (https://hl7.org/fhir/R4/http.html#transaction)."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from worker.sandbox.answers import Failure
from worker.sandbox.interactions import Asked, Interactions, Reply, response
from worker.sandbox.issues import Issue, outcome
from worker.sandbox.resources import Resource

_ORDER = ("DELETE", "POST", "PUT", "GET")


def entries_of(bundle: Any) -> list[dict[str, Any]]:
    """The entries of a batch or transaction Bundle; raises 400 if it is none or an entry asks for nothing."""
    if not isinstance(bundle, dict) or bundle.get("type") not in ("batch", "transaction"):
        raise Issue(400, "The body is not a Bundle of the type batch or transaction.", "structure")
    entries = bundle.get("entry", [])
    if not all(isinstance(entry, dict) and {"method", "url"} <= entry.get("request", {}).keys() for entry in entries):
        raise Issue(400, "An entry has no request with a method and a url.", "required")
    return list(entries)


def writes(entries: Iterable[dict[str, Any]]) -> bool:
    """Whether any of the entries changes something."""
    return any(entry["request"]["method"] != "GET" for entry in entries)


def batch(interactions: Interactions, entries: list[dict[str, Any]], *, strict: bool) -> Resource:
    """Do each entry for itself: one that fails says so in its place."""
    return _answer("batch-response", [_tried(interactions, entry, strict) for entry in entries])


def transaction(interactions: Interactions, entries: list[dict[str, Any]], *, strict: bool) -> Resource:
    """Do all entries or none: DELETE, POST, PUT, then GET, answered in the order of the request.

    References to the ``fullUrl`` of a new entry become references to its resource.
    """
    with interactions.resources.transaction() as written:
        done: dict[int, Reply] = {}
        for index in sorted(range(len(entries)), key=lambda index: _ORDER.index(_method(entries[index]))):
            done[index] = _perform(interactions, entries[index], strict)
        ids = {
            entry["fullUrl"]: f"{version.type}/{version.id}"
            for index, entry in enumerate(entries)
            if entry.get("fullUrl", "").startswith("urn:") and (version := done[index].version)
        }
        for version in written():
            _resolve(version.resource, ids)
        return _answer("transaction-response", [_told(done[index]) for index in range(len(entries))])


def _method(entry: dict[str, Any]) -> str:
    method = str(entry["request"]["method"])
    if method not in _ORDER:
        raise Issue(400, "An entry has a method other than DELETE, POST, PUT and GET.", "not-supported")
    return method


def _perform(interactions: Interactions, entry: dict[str, Any], strict: bool) -> Reply:
    wanted = entry["request"]
    path, _, query = wanted["url"].partition("?")
    asked = Asked(
        query=tuple(parse_qsl(query)),
        resource=entry.get("resource"),
        if_match=wanted.get("ifMatch"),
        if_none_exist=wanted.get("ifNoneExist"),
        strict=strict,
    )
    return interactions.perform(_method(entry), path, asked)


def _tried(interactions: Interactions, entry: dict[str, Any], strict: bool) -> dict[str, Any]:
    try:
        return _told(_perform(interactions, entry, strict))
    except Failure as error:
        return {"response": {"status": f"{error.code} {error.name}", "outcome": outcome(error)}}


def _told(reply: Reply) -> dict[str, Any]:
    shown = {} if reply.resource is None else {"resource": reply.resource}
    return {**shown, "response": response(reply, HTTPStatus(reply.status).phrase)}


def _resolve(value: Any, ids: dict[str, str]) -> None:
    if isinstance(value, list):
        for item in value:
            _resolve(item, ids)
    elif isinstance(value, dict):
        if value.get("reference") in ids:
            value["reference"] = ids[value["reference"]]
        for item in value.values():
            _resolve(item, ids)


def _answer(type_: str, entries: list[dict[str, Any]]) -> Resource:
    return {"resourceType": "Bundle", "type": type_, "entry": entries}
