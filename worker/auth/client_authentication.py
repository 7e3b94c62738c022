"""How the client proves to the token endpoint who it is: a class for each method."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote_plus

from worker.auth.keys import SigningKey
from worker.auth.transport import Request

ASSERTION_SECONDS = 240  # less than the five minutes that SMART allows: the server's clock may be behind ours


class ClientAuthentication(Protocol):
    """A method of RFC 6749 section 2.3 or its successors."""

    def sign(self, request: Request) -> None:
        """Add the proof to a token request; called anew for every attempt."""


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """``client_secret_basic``: form-encoded before it becomes Basic credentials (RFC 6749 section 2.3.1).

    ``raw`` leaves the form-encoding out, for servers that do not decode.
    """

    client_id: str
    secret: str = field(repr=False)
    raw: bool = False

    def sign(self, request: Request) -> None:
        """Add the Authorization header."""
        pair = (self.client_id, self.secret) if self.raw else (quote_plus(self.client_id), quote_plus(self.secret))
        request.headers["Authorization"] = basic_credentials(*pair)


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """``client_secret_post``: beside the other parameters (RFC 6749 section 2.3.1)."""

    client_id: str
    secret: str = field(repr=False)

    def sign(self, request: Request) -> None:
        """Add the two parameters."""
        request.form.update(client_id=self.client_id, client_secret=self.secret)


@dataclass(frozen=True, slots=True)
class PrivateKeyJwt:
    """``private_key_jwt``: a short-lived assertion, signed anew for every attempt (RFC 7523 section 2.2).

    It is meant for ``audience``, or for the token endpoint's address where that is None; ``now`` is the time of day in
    seconds. Its form is also that of SMART Backend Services.
    """

    client_id: str
    key: SigningKey
    audience: str | None = None
    now: Callable[[], float] = time.time

    def sign(self, request: Request) -> None:
        """Add the assertion, with a ``jti`` that no other has."""
        issued = int(self.now())
        assertion = self.key.sign(
            {
                "iss": self.client_id,
                "sub": self.client_id,
                "aud": self.audience or request.url,
                "jti": secrets.token_urlsafe(24),
                "iat": issued,
                "exp": issued + ASSERTION_SECONDS,
            }
        )
        request.form.update(
            client_id=self.client_id,
            client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            client_assertion=assertion,
        )


@dataclass(frozen=True, slots=True)
class TlsClientAuth:
    """``tls_client_auth``: the certificate of the connection is the proof (RFC 8705 section 2)."""

    client_id: str

    def sign(self, request: Request) -> None:
        """Say whose certificate it is."""
        request.form.update(client_id=self.client_id)


def basic_credentials(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
