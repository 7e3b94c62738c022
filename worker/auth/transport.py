"""One request to an OAuth server, and nothing that requests would do beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from worker.errors import Unavailable
from worker.http_terms import is_loopback

MAX_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """Whose certificates are trusted, None for the usual ones, and the client's own: certificate and key, all PEM."""

    ca_file: Path | None = None
    client: tuple[Path, Path] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A form that is posted, or, where it is empty, a document that is got.

    ``auth`` is the client's name in the settings, ``whom`` is what errors call the other side. Shows no content: it
    holds the client's proof.
    """

    auth: str
    url: str
    timeout: float
    form: dict[str, str] = field(default_factory=dict, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    tls: Tls = Tls()
    whom: str = "the token endpoint"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Shows no content: it holds the token."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


Send = Callable[[Request], Answer]


def send(request: Request) -> Answer:
    """Ask; raises ``Unavailable`` where no whole answer came back.

    Redirects are not followed (requests would post the secret again on a 307 or 308), no netrc file is read, and at
    most ``MAX_BODY`` bytes are taken, within ``timeout`` seconds each for connecting, for the headers and for the body.
    """
    handled = sys.exception()  # an earlier error of the caller's, which is not why this request fails
    try:
        with requests.Session() as session:
            verify = str(request.tls.ca_file) if request.tls.ca_file else None
            around = session.merge_environment_settings(request.url, {}, True, verify, _paths(request.tls.client))
            if is_loopback(urlsplit(request.url)):  # http may lead there, and is read by a proxy
                around["proxies"] = {}
            session.trust_env = False  # proxies and CA bundle are in `around`; a netrc would replace our credentials
            response = session.request(
                "POST" if request.form else "GET",
                request.url,
                data=request.form,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", **request.headers},
                timeout=request.timeout,
                allow_redirects=False,
                **around,
            )
            with response:
                return Answer(response.status_code, response.headers, _body(request, response))
    except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own are OSErrors, as are those of PEM files
        reason = _reason(error, request, handled)
    raise Unavailable(request.auth, reason)  # out here: those above carry the secret, or the token in what they quote


def _paths(client: tuple[Path, Path] | None) -> tuple[str, str] | None:
    return (str(client[0]), str(client[1])) if client else None


def _body(request: Request, response: requests.Response) -> bytes:
    body, deadline = b"", time.monotonic() + request.timeout
    while piece := response.raw.read1(MAX_BODY, decode_content=True):
        body += piece
        if len(body) > MAX_BODY:
            raise Unavailable(request.auth, f"the answer of {request.whom} is longer than {MAX_BODY // 1024} KiB")
        if time.monotonic() > deadline:
            raise requests.ReadTimeout
    return body


def _reason(error: Exception, request: Request, handled: BaseException | None) -> str:
    """A sentence that quotes nothing: an exception's own text may hold URLs, headers, and what came."""
    match error:
        case requests.exceptions.SSLError():
            ours = ", and our client_cert and client_key" if request.tls.client else ""
            return f"no TLS with {request.whom}: check its certificate's names, dates and CA (ca_file){ours}"
        case requests.Timeout() | urllib3.exceptions.TimeoutError():
            return f"{request.whom} did not answer within {request.timeout:g} s"
        case requests.ConnectionError() | urllib3.exceptions.ProtocolError():
            return f"{request.whom} cannot be reached, or broke off ({_root(error, handled)})"
        case _:
            what = "check its address, the certificate files and the proxy settings"
            return f"{request.whom} cannot be asked ({type(error).__name__}): {what}"


def _root(error: BaseException, handled: BaseException | None) -> str:
    while error.__context__ and error.__context__ is not handled:
        error = error.__context__
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
