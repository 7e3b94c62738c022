"""How a resource server asks for a bearer token and turns one down (RFC 6750 section 3)."""

from __future__ import annotations

from collections.abc import Iterable

import flask

from worker.sandbox.answers import Failure


def bearer_token(realm: str) -> str:
    """The request's token; raises a challenge without an error code where there is none."""
    given = flask.request.authorization
    if given is None or given.type != "bearer" or not given.token:
        raise Failure(401, "A bearer token is needed.", {"WWW-Authenticate": f'Bearer realm="{realm}"'})
    return given.token


def invalid_token(realm: str, reason: str) -> Failure:
    """The challenge for a token that is expired, revoked, malformed or meant for somebody else."""
    return _challenge(401, realm, "invalid_token", reason)


def demand_scope(realm: str, scope: str, granted: Iterable[str]) -> None:
    """Raise the challenge ``insufficient_scope`` unless the scope was granted."""
    if scope not in granted:
        raise _challenge(403, realm, "insufficient_scope", f"The scope {scope} is needed.", f', scope="{scope}"')


def _challenge(status: int, realm: str, error: str, description: str, more: str = "") -> Failure:
    header = f'Bearer realm="{realm}", error="{error}", error_description="{description}"{more}'
    return Failure(status, description, {"WWW-Authenticate": header})
