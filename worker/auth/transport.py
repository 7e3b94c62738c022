"""One POST to a token endpoint, and nothing that requests would do beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import requests
import urllib3

from worker.errors import Unavailable

MAX_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is posted, and where; ``auth`` is the configuration's name for it. Shows no content: it holds the secret."""

    auth: str
    url: str
    timeout: float
    form: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Shows no content: it holds the token."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


Send = Callable[[TokenRequest], Answer]


def send(request: TokenRequest) -> Answer:
    """Post the form; raises ``Unavailable`` where no whole answer came back.

    Redirects are not followed (requests would post the secret again on a 307 or 308), no netrc file is read, and at
    most ``MAX_BODY`` bytes are taken, within ``timeout`` seconds each for connecting, for the headers and for the body.
    """
    try:
        with requests.Session() as session:
            around = session.merge_environment_settings(request.url, {}, True, None, None)
            session.trust_env = False  # proxies and CA bundle are in `around`; a netrc would replace our credentials
            response = session.post(
                request.url,
                data=request.form,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", **request.headers},
                timeout=request.timeout,
                allow_redirects=False,
                **around,
            )
            with response:
                return Answer(response.status_code, response.headers, _body(request, response))
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, requests.RequestException):
            error.request = None  # it carries the secret
        raise Unavailable(request.auth, _reason(error, request)) from error


def _body(request: TokenRequest, response: requests.Response) -> bytes:
    body, deadline = b"", time.monotonic() + request.timeout
    while piece := response.raw.read1(MAX_BODY, decode_content=True):
        body += piece
        if len(body) > MAX_BODY:
            raise Unavailable(request.auth, f"the token endpoint's answer is longer than {MAX_BODY // 1024} KiB")
        if time.monotonic() > deadline:
            raise requests.ReadTimeout
    return body


def _reason(error: Exception, request: TokenRequest) -> str:
    """A sentence that quotes nothing: an exception's own text may hold URLs and headers."""
    match error:
        case requests.exceptions.SSLError():
            return "no TLS with the token endpoint: check its certificate's names, dates and CA (REQUESTS_CA_BUNDLE)"
        case requests.Timeout() | urllib3.exceptions.TimeoutError():
            return f"the token endpoint did not answer within {request.timeout:g} s"
        case requests.ConnectionError() | urllib3.exceptions.ProtocolError():
            return "the token endpoint cannot be reached, or broke off"
        case _:
            return (
                f"the token endpoint cannot be asked ({type(error).__name__}): check token_url and the proxy settings"
            )
