"""REST backends: JSON over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import requests

from worker import exact_json
from worker.backends.answers import json_bytes, plain_json, whole
from worker.backends.calls import Call, Caller, Result
from worker.backends.http import Http, HttpCaller
from worker.backends.prepare import pairs
from worker.backends.shared import Question, Shared
from worker.errors import Refused
from worker.records import Meter, RowKey

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_NOT_IDEMPOTENT = frozenset({"POST", "PATCH"})


class Rest:
    """What a job sees as ``ctx.rest[name]``.

    A path is below the backend's URL. ``json`` is sent as the body; answers come back as parsed JSON, None for an empty
    one. POST and PATCH carry an ``Idempotency-Key`` that is the same whenever the row is run again, unless the job
    gives its own. All raise ``Unavailable``, ``Refused`` or ``Unauthorized``.
    """

    def __init__(self, caller: Caller, key: RowKey, shared: Shared | None = None) -> None:
        self._caller = caller
        self._key = key
        self._shared = shared or Shared()

    def get(
        self, path: str, params: Any = None, headers: Mapping[str, str] | None = None, *, shared: bool = False
    ) -> Any:
        """The JSON at ``path``.

        ``shared``: rows that ask for the same get one answer, within a delivery and until something is written there.
        """
        call = self._call("GET", path, params, None, headers)
        if not shared:
            return self._caller(call, plain_json)
        question = Question.of(path, _fixed(params), headers)
        answer = self._shared.get(question, lambda: self._caller(call, _checked_bytes))
        return exact_json.loads_as_python(answer) if answer else None

    def post(self, path: str, json: Any = None, params: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send JSON to ``path``."""
        return self._send("POST", path, params, json, headers, plain_json)

    def put(self, path: str, json: Any = None, params: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Put JSON at ``path``."""
        return self._send("PUT", path, params, json, headers, plain_json)

    def patch(self, path: str, json: Any = None, params: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Change what is at ``path``."""
        return self._send("PATCH", path, params, json, headers, plain_json)

    def delete(self, path: str, params: Any = None, json: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Delete what is at ``path``."""
        return self._send("DELETE", path, params, json, headers, plain_json)

    def request(
        self, method: str, path: str, params: Any = None, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """The whole response, its body read; any status but 2xx is raised as an error here too."""
        return self._send(method.upper(), path, params, json, headers, whole)

    def _send(
        self,
        method: str,
        path: str,
        params: Any,
        json: Any,
        headers: Mapping[str, str] | None,
        read: Callable[[str, requests.Response], Result],
    ) -> Result:
        try:
            return self._caller(self._call(method, path, params, json, headers), read)
        finally:
            if method not in _SAFE:
                self._shared.wrote(path)

    def _call(self, method: str, path: str, params: Any, json: Any, headers: Mapping[str, str] | None) -> Call:
        own: dict[str, str] = {}
        given = headers or {}
        if method in _NOT_IDEMPOTENT and "idempotency-key" not in map(str.lower, given):
            own["Idempotency-Key"] = self._key.next()
        if json is None:
            return Call(method, path, params, None, {**own, **given})
        own["Content-Type"] = "application/json"
        return Call(method, path, params, exact_json.dumps(json), {**own, **given})


class RestBackend:
    """A REST backend."""

    kind = "rest"

    def __init__(self, http: Http) -> None:
        self.name = http.name
        self.limits = http.limits
        self._http = http

    def open(self, meter: Meter, stop: threading.Event, folder: Path | None = None) -> RestSession:  # noqa: ARG002
        """A session for one delivery."""
        return RestSession(HttpCaller(self._http, meter, stop, self._http.retries + 1), self._http.url)

    def check(self) -> str:
        """Ask once for the backend's URL itself: any answer that does not turn us away will do."""
        caller = HttpCaller(self._http, Meter(), threading.Event(), attempts=1)
        try:
            status = caller(Call("GET", ""), whole).status_code
        except Refused as error:
            if error.status is None:
                raise
            status = error.status
        return f"{self._http.origin} answers ({status})"

    def contradiction(self, stop: threading.Event) -> str:  # noqa: ARG002 - a FHIR backend's
        """Nothing: REST backends do not say what they are."""
        return ""

    def still_answers(self, meter: Meter, stop: threading.Event) -> bool:
        """Whether it answers what it has answered before."""
        return self._http.still_answers(meter, stop)

    def reload(self) -> None:
        """Read certificates, key and proxy anew."""
        self._http.reload()

    def cut_off(self) -> None:
        """End the calls that are being made, with ``Interrupted``, and let none begin; from any thread."""
        self._http.under_way.cut_off()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()


class RestSession:
    """A REST backend opened for one delivery, whose rows may share answers."""

    def __init__(self, caller: Caller, url: str) -> None:
        self._caller = caller
        self._shared = Shared(url)

    def at(self, key: RowKey) -> Rest:
        """What the job sees while it works on one row."""
        return Rest(self._caller, key, self._shared)


def _fixed(params: Any) -> Hashable:
    """Parameters as what they are sent as: 1 and True are equal in Python, but not in a query."""
    if not isinstance(params, Mapping | list):
        return cast("Hashable", params)
    return tuple((name, value if isinstance(value, bytes) else str(value)) for name, value in pairs(params))


def _checked_bytes(backend: str, response: requests.Response) -> bytes:
    """A JSON answer as it came: no two rows share one dict."""
    plain_json(backend, response)
    return json_bytes(response)
