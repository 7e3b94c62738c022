"""Backends without a network, for tests: what a fake answers goes through the code that reads the real thing."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from worker import exact_json
from worker.backends import open_backend
from worker.config import BackendSettings, FhirSettings, RestSettings
from worker.errors import DeliveryError
from worker.sandbox import bundles
from worker.sandbox.answers import Failure
from worker.sandbox.exports import Exports
from worker.sandbox.interactions import Asked, Interactions, headers
from worker.sandbox.issues import outcome
from worker.sandbox.resources import Resource, Resources
from worker.sockets import Backend

_URL = "https://backend.example"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request that a fake was sent.

    ``path`` is below the backend's URL; ``params`` are those of the query or a posted form, a list where one is
    repeated; ``json`` is the parsed body.
    """

    method: str
    path: str
    params: dict[str, str | list[str]]
    json: Any
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a fake says to a request, where that is more than some JSON with status 200; bytes are sent as they are."""

    status: int
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


Answers = Mapping[tuple[str, str], Any]
"""(method, path) -> an ``Answer``, a JSON value, or a function of the ``Request`` that returns either.

A path may be a pattern (``/plans/*``); the first one that fits answers.
"""


class FakeRest:
    """A REST backend that gives the answers it is told, and keeps the ``requests`` it was sent.

    A request that none of them is for raises ``DeliveryError``, which no job mistakes for the backend's own no.
    """

    def __init__(self, answers: Answers) -> None:
        self.requests: list[Request] = []
        self._answers = answers

    def backend(self, name: str) -> Backend:
        """This fake as the backend of that name; what is sent again after a failure is sent at once."""
        return _backend(name, RestSettings(url=_URL), self)

    def answer(self, request: Request) -> Answer:
        """Keep the request, and answer it."""
        self.requests.append(request)
        ways = self._ways(request)
        for (method, path), given in self._answers.items():
            if any(method == way and fnmatchcase(asked, path) for way, asked in ways):
                said = given(request) if callable(given) else given
                return said if isinstance(said, Answer) else Answer(200, said)
        return self._otherwise(request)

    def _ways(self, request: Request) -> list[tuple[str, str]]:
        """The methods and paths that an answer to it may stand under."""
        return [(request.method, request.path)]

    def _otherwise(self, request: Request) -> Answer:
        known = ", ".join(f"{method} {path}" for method, path in self._answers) or "none"
        raise DeliveryError(f"the fake has no answer for {request.method} {request.path}; it has: {known}")


class FakeFhir(FakeRest):
    """A FHIR server with these resources, and, as a ``FakeRest``, with answers that go before them.

    It reads, searches, creates (conditionally too), updates, deletes and does transactions as the sandbox's server
    does, and exports: whatever the level, all resources of the types. Every resource needs an ``id``. What answers the
    GET of a type answers a search that is sent by POST, too.
    """

    def __init__(
        self,
        resources: Iterable[Resource] = (),
        answers: Answers | None = None,
        *,
        version: Literal["R4", "R4B", "R5", "STU3"] = "R4",
    ) -> None:
        super().__init__(answers or {})
        self._version = version
        self._resources = Resources(resources, lambda: datetime.now(UTC), types=_EveryType())
        self._interactions = Interactions(_URL, self._resources)
        self._exports = Exports(_URL, self._resources, lambda: datetime.now(UTC))

    def backend(self, name: str) -> Backend:
        """This fake as the backend of that name; what is sent again after a failure is sent at once."""
        return _backend(name, FhirSettings(url=_URL, version=self._version), self)

    def resources(self, type_: str) -> list[Resource]:
        """What the server holds of a type by now."""
        return [version.resource for version in self._resources.alive(type_) if version.resource is not None]

    def _ways(self, request: Request) -> list[tuple[str, str]]:
        search = [("GET", request.path.removesuffix("/_search"))] if request.path.endswith("/_search") else []
        return [*super()._ways(request), *search]

    def _otherwise(self, request: Request) -> Answer:
        path = request.path.strip("/").removesuffix("/_search")
        is_search = request.path.endswith("/_search")
        asked = Asked(
            query=tuple(_pairs(request.params)),
            resource=request.json,
            if_match=request.headers.get("If-Match"),
            if_none_exist=request.headers.get("If-None-Exist"),
            strict=True,
        )
        try:
            if not path:
                return Answer(200, self._bundle(request.json))
            if said := self._exports.answer(request.method, path, _pairs(_parameters(request))):
                return Answer(said.status, said.body, said.headers)
            if path == "metadata":
                return Answer(200, {"resourceType": "CapabilityStatement"})
            reply = self._interactions.perform("GET" if is_search else request.method, path, asked)
        except Failure as failure:
            return Answer(failure.code or 500, outcome(failure))
        return Answer(reply.status, reply.resource, headers(reply, _URL))

    def _bundle(self, bundle: Any) -> Resource:
        do = bundles.batch if bundle["type"] == "batch" else bundles.transaction
        return do(self._interactions, bundles.entries_of(bundle), strict=True)


class _EveryType:
    def __contains__(self, name: object) -> bool:
        return True


def _backend(name: str, settings: BackendSettings, fake: FakeRest) -> Backend:
    time = _Time()
    return open_backend(name, settings, None, threads=1, sleep=time.sleep, clock=time, transport=_Transport(fake))


class _Time:
    """Passes only while somebody waits, and then at once."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def sleep(self, stop: threading.Event, seconds: float) -> bool:
        self._now += seconds
        return stop.is_set()


class _Transport(BaseAdapter):
    """Stands where the network would be."""

    def __init__(self, fake: FakeRest) -> None:
        super().__init__()
        self._fake = fake

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        return _response(request, self._fake.answer(_understood(request)))

    def close(self) -> None:
        pass


def _understood(request: requests.PreparedRequest) -> Request:
    url = urlsplit(str(request.url))
    body = request.body or b""
    text = body if isinstance(body, str) else body.decode()
    is_form = "form-urlencoded" in request.headers.get("Content-Type", "")
    query = parse_qs(url.query) | (parse_qs(text) if is_form else {})
    params = {name: values[0] if len(values) == 1 else values for name, values in query.items()}
    sent = json.loads(text) if text and not is_form else None
    return Request(str(request.method), url.path, params, sent, request.headers)


def _pairs(params: Mapping[str, str | list[str]]) -> Iterator[tuple[str, str]]:
    for name, values in params.items():
        yield from ((name, value) for value in ([values] if isinstance(values, str) else values))


def _parameters(request: Request) -> Mapping[str, str | list[str]]:
    """Those of the query, or of a Parameters resource in its place."""
    if not request.json:
        return request.params
    found: dict[str, str | list[str]] = {}
    for each in request.json.get("parameter", []):
        (value,) = (text for name, text in each.items() if name.startswith("value"))
        found[each["name"]] = [*found.get(each["name"], []), value]
    return found


def _response(request: requests.PreparedRequest, answer: Answer) -> requests.Response:
    given = answer.json
    body = given if isinstance(given, bytes) else b"" if given is None else exact_json.dumps(given)
    response = requests.Response()
    response.status_code = answer.status
    response.headers = CaseInsensitiveDict({"Content-Type": "application/json", "Content-Length": str(len(body))})
    response.headers["Date"] = format_datetime(datetime.now(UTC), usegmt=True)
    response.headers.update(answer.headers)
    response.url = str(request.url)
    response.request = request
    response.raw = urllib3.HTTPResponse(io.BytesIO(body), answer.headers, answer.status, preload_content=False)
    return response
