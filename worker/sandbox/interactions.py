"""What a FHIR server does with its resources (https://hl7.org/fhir/R4/http.html)."""

from __future__ import annotations

import secrets
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from worker.sandbox.issues import Issue
from worker.sandbox.resources import Resource, Resources, Version, instant
from worker.sandbox.search import Pairs, Search

MAX_OPEN_SEARCHES = 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one interaction: its status, a resource unless it has nothing to show, and the version it is of."""

    status: int
    resource: Resource | None = None
    version: Version | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says beside its path: the query, the resource, and the headers that change what is done."""

    query: tuple[tuple[str, str], ...] = ()
    resource: Any = None
    if_match: str | None = None
    if_none_exist: str | None = None
    strict: bool = False


@dataclass(slots=True)
class Interactions:
    """The interactions with the resources under a base URL. Thread-safe."""

    base_url: str
    resources: Resources
    _pages: OrderedDict[str, tuple[Search, list[Version]]] = field(default_factory=OrderedDict)

    def read(self, type_: str, id_: str) -> Reply:
        """The newest version of a resource."""
        return _shown(200, self.resources.current(type_, id_))

    def vread(self, type_: str, id_: str, number: str) -> Reply:
        """A certain version of a resource."""
        return _shown(200, self.resources.version(type_, id_, number))

    def search(self, type_: str, asked: Asked) -> Reply:
        """The first page of what a query finds, or the page that a ``next`` link names."""
        self.resources.check_type(type_)
        pairs = dict(asked.query)
        if "_page" in pairs:
            return Reply(200, self._page(pairs["_page"]))
        search = Search.parse(type_, asked.query, strict=asked.strict)
        found = search.find(self.resources)
        if search.only_total:
            return Reply(200, self._bundle(search, len(found), [], f"{type_}?{search.query}"))
        return Reply(200, self._first_page(search, found))

    def create(self, type_: str, asked: Asked) -> Reply:
        """A new resource with an id of the server's; with a condition, only if nothing matches it yet."""
        self.resources.check_type(type_)
        resource = _checked(type_, asked.resource)
        with self.resources.lock:
            if asked.if_none_exist is not None:
                found = self._matching(type_, parse_qsl(asked.if_none_exist.lstrip("?")))
                if len(found) > 1:
                    raise Issue(412, "Several resources match If-None-Exist.", "multiple-matches")
                if found:
                    return _shown(200, found[0])
            return _shown(201, self.resources.write(type_, str(uuid.uuid4()), resource))

    def update(self, type_: str, id_: str, asked: Asked) -> Reply:
        """A new version of a resource, or the first one under an id of the client's choice."""
        self.resources.check_type(type_)
        resource = _checked(type_, asked.resource)
        if resource.get("id") != id_:
            raise Issue(400, "The id in the resource is not the one in the URL.")
        with self.resources.lock:
            history = self.resources.history(type_, id_)
            _check_match(asked.if_match, history)
            return _shown(200 if history else 201, self.resources.write(type_, id_, resource))

    def delete(self, type_: str, id_: str, asked: Asked) -> Reply:
        """Nothing under that id any more; also if there was nothing before."""
        with self.resources.lock:
            history = self.resources.history(type_, id_)
            _check_match(asked.if_match, history)
            if history and history[-1].resource is not None:
                self.resources.write(type_, id_, None)
        return Reply(204)

    def perform(self, method: str, path: str, asked: Asked) -> Reply:
        """The interaction that an entry of a batch or transaction names; raises 400 if there is none such."""
        match method, path.strip("/").split("/"):
            case "GET", [type_]:
                return self.search(type_, asked)
            case "GET", [type_, id_]:
                return self.read(type_, id_)
            case "GET", [type_, id_, "_history", number]:
                return self.vread(type_, id_, number)
            case "POST", [type_]:
                return self.create(type_, asked)
            case "PUT", [type_, id_]:
                return self.update(type_, id_, asked)
            case "DELETE", [type_, id_]:
                return self.delete(type_, id_, asked)
            case _:
                raise Issue(400, "The server does not know what the entry asks for.", "not-supported")

    def _matching(self, type_: str, pairs: Pairs) -> list[Version]:
        search = Search.parse(type_, pairs, strict=True)
        if not search.criteria:
            raise Issue(412, "The condition says nothing.", "invalid")
        return search.find(self.resources)

    def _first_page(self, search: Search, found: list[Version]) -> Resource:
        key = secrets.token_urlsafe(12)
        if len(found) > search.count:
            with self.resources.lock:
                self._pages[key] = search, found
                while len(self._pages) > MAX_OPEN_SEARCHES:
                    self._pages.popitem(last=False)
        return self._slice(key, 0, search, found, f"{search.type}?{search.query}")

    def _page(self, name: str) -> Resource:
        key, _, offset = name.partition(".")
        with self.resources.lock:
            known = self._pages.get(key)
        if known is None or not offset.isdecimal():
            raise Issue(410, "The page is not known, or not any more: search again.", "expired")
        return self._slice(key, int(offset), *known, f"{known[0].type}?_page={name}")

    def _slice(self, key: str, start: int, search: Search, found: list[Version], here: str) -> Resource:
        end = start + search.count
        following = f"{search.type}?_page={key}.{end}" if end < len(found) else None
        return self._bundle(search, len(found), found[start:end], here, following)

    def _bundle(
        self, search: Search, total: int, found: list[Version], here: str, following: str | None = None
    ) -> Resource:
        links = [{"relation": "self", "url": f"{self.base_url}/{here}"}]
        if following:
            links.append({"relation": "next", "url": f"{self.base_url}/{following}"})
        entries = [self._entry(search.type, version) for version in found]
        shown = {"entry": entries} if entries else {}
        return {"resourceType": "Bundle", "type": "searchset", "total": total, "link": links, **shown}

    def _entry(self, type_: str, version: Version) -> Mapping[str, Any]:
        url = f"{self.base_url}/{type_}/{version.id}"
        return {"fullUrl": url, "resource": version.resource, "search": {"mode": "match"}}


def headers(reply: Reply, base_url: str) -> dict[str, str]:
    """The HTTP headers of a reply: which version it shows, and where that stands."""
    if reply.version is None:
        return {}
    located = {"Location": f"{base_url}/{reply.version.location}"} if reply.status == 201 else {}
    modified = reply.version.updated.strftime("%a, %d %b %Y %H:%M:%S GMT")
    return {"ETag": reply.version.etag, "Last-Modified": modified, **located}


def response(reply: Reply, reason: str) -> dict[str, Any]:
    """The ``response`` of a bundle's entry (https://hl7.org/fhir/R4/bundle.html)."""
    told: dict[str, Any] = {"status": f"{reply.status} {reason}"}
    if reply.version is not None:
        version = reply.version
        told |= {"location": version.location, "etag": version.etag, "lastModified": instant(version.updated)}
    return told


def _shown(status: int, version: Version) -> Reply:
    return Reply(status, version.resource, version)


def _checked(type_: str, resource: Any) -> Resource:
    if not isinstance(resource, dict) or resource.get("resourceType") != type_:
        raise Issue(400, f"The body is not a resource of the type {type_}.", "structure")
    return resource


def _check_match(if_match: str | None, history: list[Version]) -> None:
    if if_match is not None and if_match != (history[-1].etag if history else None):
        raise Issue(412, "If-Match names another version than the newest.", "conflict")
