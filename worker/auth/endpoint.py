"""What a token endpoint's answer means: a token, or a decision (RFC 6749 sections 5.1 and 5.2)."""

from __future__ import annotations

import re
from codecs import BOM_UTF8  # may be passed over (RFC 8259 section 8.1)
from typing import Any

from worker import exact_json
from worker.auth.token import Token
from worker.auth.transport import Answer
from worker.errors import BackendError, Unauthorized, Unavailable
from worker.http_terms import retry_after
from worker.records import LONGEST_RETRY

MAX_LIFETIME = 24 * 3600.0

_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1: what may stand in a header
_ERROR_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")  # narrower than RFC 6749 section 5.2: no room for prose
_TEMPORARY_STATUS = {408, 425, 429}
_TEMPORARY_CODE = {"server_error", "slow_down", "temporarily_unavailable"}
_UNRECOGNIZED = {"invalid_client", "unauthorized_client"}  # the second is what Keycloak says to a wrong secret
_ADVICE = {
    "invalid_client": "check client_id, client_auth and the secret, key or certificate",
    "unauthorized_client": "check the secret or key, and that this client may use the client credentials grant",
    "unsupported_grant_type": "the server must allow the client credentials grant",
    "invalid_scope": "check scopes",
    "invalid_target": "check resource and audience",
}


class Unrecognized(Unauthorized):
    """The token endpoint does not know this client by the proof that it gave; another key may do."""


def read_token(auth: str, answer: Answer, *, sent: float, scopes: tuple[str, ...], default_lifetime: float) -> Token:
    """The token in an answer to a request that was sent at ``sent`` (monotonic).

    Raises ``Unauthorized`` where the endpoint said no, redirects, or gave a token that cannot be used; ``Unavailable``
    for 5xx, 429 and the like, and for a 200 that is no token response: a maintenance page says nothing about us.
    """
    document = _document(answer.body)
    code = _error_code(document)
    if code or not 200 <= answer.status < 300:
        raise _refusal(auth, answer, code)
    access_token = document.get("access_token")
    if not isinstance(access_token, str) or not access_token:
        raise Unavailable(auth, "the token endpoint's answer is not a token response; check token_url", answer.status)
    return Token(
        access_token=_usable(auth, access_token),
        token_type=_bearer(auth, document.get("token_type")),
        scope=_granted(document.get("scope"), scopes),
        lifetime=(lifetime := _lifetime(document.get("expires_in"), default_lifetime)),
        expires=sent + lifetime,
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        parsed = exact_json.loads(body.removeprefix(BOM_UTF8))
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _error_code(document: dict[str, Any]) -> str:
    """The error's name, if it is one; never ``error_description``, which may hold anything."""
    if "access_token" in document or "error" not in document:
        return ""
    code = document["error"]
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else "an error without a proper name"


def outage(auth: str, answer: Answer, code: str = "", *, whom: str = "the token endpoint") -> Unavailable | None:
    """The error where an answer says nothing about us, but to come again later."""
    if answer.status < 500 and answer.status not in _TEMPORARY_STATUS and code not in _TEMPORARY_CODE:
        return None
    asked = retry_after(answer.headers)
    wait = None if asked is None else min(max(asked, 1.0), LONGEST_RETRY)
    return Unavailable(auth, _said(whom, answer, code), answer.status, retry_after=wait)


def _refusal(auth: str, answer: Answer, code: str) -> BackendError:
    status = answer.status
    if error := outage(auth, answer, code):
        return error
    if 300 <= status < 400:
        advice = "redirects are not followed with a secret: write the final address as token_url"
    else:
        advice = _ADVICE.get(code, "check token_url" if status in (404, 405) else "check this auth's settings")
    kind = Unrecognized if status == 401 or code in _UNRECOGNIZED else Unauthorized
    return kind(auth, f"{_said('the token endpoint', answer, code)}; {advice}", status)


def _said(whom: str, answer: Answer, code: str) -> str:
    return f"{whom} answered {answer.status}" + (f", {code}" if code else "")


def _usable(auth: str, access_token: str) -> str:
    if not _B64TOKEN.fullmatch(access_token):
        raise Unauthorized(auth, "the access token holds characters that may not stand in a header (RFC 6750)")
    return access_token


def _bearer(auth: str, token_type: object) -> str:
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise Unauthorized(
            auth, "the token is not a bearer token; the server must issue token_type Bearer to this client"
        )
    return token_type


def _granted(scope: object, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Where the answer names no scope, what was asked for is granted."""
    return tuple(scope.split()) if isinstance(scope, str) else asked


def _lifetime(expires_in: Any, default: float) -> float:
    """Seconds; the default for what is missing or senseless: nothing is kept for ever, or fetched in a loop."""
    try:
        seconds = 0.0 if isinstance(expires_in, bool) else float(expires_in)
    except (TypeError, ValueError):
        return default
    return min(seconds, MAX_LIFETIME) if seconds >= 1 else default
