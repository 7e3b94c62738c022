"""What a server says of a write: the resource as it keeps it or, where it shows none, at least which one that is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from worker.backends.answers import resource
from worker.errors import Refused

Reader = Callable[[str, requests.Response], Any]

# https://hl7.org/fhir/R4/http.html#create
_LOCATION = re.compile(r"([A-Za-z0-9\-.]{1,64})(?:/_history/([A-Za-z0-9\-.]{1,64}))?/?")
_ETAG = re.compile(r'(?:W/)?"?([^"]*)"?')
_CREATED = 201


@dataclass(frozen=True, slots=True)
class Written:
    """Reads the answer to a write of a type, and of an id unless the server gives one.

    ``replaces``: a version was asked for; HAPI ignores that for an id that it does not have, and creates it. ``Prefer:
    return=representation`` is only a wish: then what is returned has the type, and id and version as far as told.
    """

    type: str
    id: str = ""
    replaces: bool = False

    def __call__(self, backend: str, response: requests.Response) -> Any:
        """The resource; raises ``BackendError``."""
        if self.replaces and response.status_code == _CREATED:
            what = "version conflict: nothing was there to be replaced, and the backend created it"
            raise Refused(backend, what, _CREATED)
        found = resource(backend, response)
        shown = isinstance(found, dict) and found.get("resourceType") == self.type
        return found if shown else self._named(response)

    def _named(self, response: requests.Response) -> dict[str, Any]:
        last = response.headers.get("Location", "").rpartition(f"{self.type}/")[2]
        place = _LOCATION.fullmatch(last)
        id_ = self.id or (place[1] if place else "")
        etag = _ETAG.fullmatch(response.headers.get("ETag", ""))
        version = (etag[1] if etag else "") or (place[2] if place else "")
        named: dict[str, Any] = {"resourceType": self.type}
        if id_:
            named["id"] = id_
        if version:
            named["meta"] = {"versionId": version}
        return named
