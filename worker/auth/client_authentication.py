"""How the client proves to the token endpoint who it is: a class for each method."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote_plus

from worker.auth.transport import TokenRequest


class ClientAuthentication(Protocol):
    """A method of RFC 6749 section 2.3 or its successors."""

    def sign(self, request: TokenRequest) -> None:
        """Add the proof to a token request; called anew for every attempt."""


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """``client_secret_basic``: form-encoded before it becomes Basic credentials (RFC 6749 section 2.3.1).

    ``raw`` leaves the form-encoding out, for servers that do not decode.
    """

    client_id: str
    secret: str = field(repr=False)
    raw: bool = False

    def sign(self, request: TokenRequest) -> None:
        """Add the Authorization header."""
        pair = (self.client_id, self.secret) if self.raw else (quote_plus(self.client_id), quote_plus(self.secret))
        request.headers["Authorization"] = basic_credentials(*pair)


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """``client_secret_post``: beside the other parameters (RFC 6749 section 2.3.1)."""

    client_id: str
    secret: str = field(repr=False)

    def sign(self, request: TokenRequest) -> None:
        """Add the two parameters."""
        request.form.update(client_id=self.client_id, client_secret=self.secret)


def basic_credentials(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
