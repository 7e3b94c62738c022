"""Where an issuer's token endpoint is, as its metadata say: RFC 8414, OpenID Connect Discovery, SMART App Launch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from worker import exact_json
from worker.auth.endpoint import outage
from worker.auth.transport import Answer, Request, Send, Tls
from worker.errors import Unauthorized, Unavailable
from worker.http_terms import address, travels_open
from worker.log import get_logger

log = get_logger()

KNOWN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a document may be; a SMART one is found below a FHIR server's base, and its ``issuer`` is somebody else."""

    url: str
    names_issuer: bool = True


def places(issuer: str) -> Iterator[_Place]:
    """The addresses of RFC 8414 section 3.1, OpenID Connect Discovery section 4 and SMART App Launch section 2.1."""
    parts, base = urlsplit(issuer), issuer.rstrip("/")
    yield _Place(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}")
    yield _Place(f"{base}/.well-known/openid-configuration")
    yield _Place(f"{base}/.well-known/smart-configuration", names_issuer=False)


class Discovery:
    """An issuer's token endpoint, asked for at first use and again after an hour; ``clock`` is monotonic seconds.

    While the metadata cannot be had again, what they said last goes on.
    """

    def __init__(
        self, auth: str, issuer: str, *, send: Send, timeout: float, tls: Tls, clock: Callable[[], float]
    ) -> None:
        self._auth = auth
        self._issuer = issuer
        self._send = send
        self._timeout = timeout
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._known = ""
        self._known_until = 0.0

    def token_url(self) -> str:
        """The token endpoint; raises ``Unavailable`` or ``Unauthorized``."""
        with self._lock:
            if not self._known or self._clock() >= self._known_until:
                self._look_up()
            return self._known

    def _look_up(self) -> None:
        try:
            self._known = self._endpoint()
        except Unavailable as error:
            if not self._known:
                raise
            log.warning(
                "the issuer's metadata cannot be had, the last ones go on", auth=self._auth, reason=error.detail
            )
        self._known_until = self._clock() + KNOWN_SECONDS

    def _endpoint(self) -> str:
        for place in places(self._issuer):
            answer = self._send(self._request(place))
            if document := self._document(answer):
                return self._token_endpoint(document, place)
        what = "the issuer has no metadata at its well-known addresses; check issuer, or write token_url"
        raise Unauthorized(self._auth, what)

    def _request(self, place: _Place) -> Request:
        return Request(self._auth, place.url, self._timeout, tls=self._tls, whom="the issuer")

    def _document(self, answer: Answer) -> dict[str, Any]:
        """Nothing where another place should be looked at: not found, or a page for people."""
        if error := outage(self._auth, answer, whom="the issuer"):
            raise error
        try:
            parsed = exact_json.loads(answer.body) if answer.status == 200 else {}
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def _token_endpoint(self, document: dict[str, Any], place: _Place) -> str:
        if place.names_issuer and document.get("issuer") != self._issuer:
            what = f"the metadata at {place.url} are another issuer's; write issuer to the letter as the server does"
            raise Unauthorized(self._auth, what)
        aliases = document.get("mtls_endpoint_aliases")
        if self._tls.client and isinstance(aliases, dict):  # RFC 8705 section 5
            document = document | aliases
        endpoint = document.get("token_endpoint")
        try:
            usable = isinstance(endpoint, str) and not travels_open(address(endpoint))
        except ValueError:
            usable = False
        if not usable:
            what = f"the metadata at {place.url} name no token endpoint with https; write token_url"
            raise Unauthorized(self._auth, what)
        return str(endpoint)
