"""The OAuth server: the client credentials grant, tokens as JWT or opaque, introspection, keys and metadata."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

import flask
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, OAuth2Error, TokenMixin
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc.jwk import KeySet, RSAKey
from werkzeug.exceptions import HTTPException

from worker.sandbox import addresses
from worker.sandbox.answers import failure_headers, json_answer
from worker.sandbox.gate import Gate

AUTH_METHODS = ["client_secret_basic", "client_secret_post"]


# Authlib has no type information, so its classes count as Any: hence the ignored complaints about subclassing it.
@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]
    """Somebody known to the OAuth server: what it may ask for, and whether it may introspect."""

    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] = ()
    may_introspect: bool = False

    def get_client_id(self) -> str:
        """The client's identifier."""
        return self.client_id

    def check_client_secret(self, client_secret: str) -> bool:
        """Whether the secret is the client's."""
        return secrets.compare_digest(self.client_secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002 - Authlib's signature
        """Whether the client may authenticate itself that way, at either endpoint."""
        return method in AUTH_METHODS

    def check_grant_type(self, grant_type: str) -> bool:
        """Whether the client may use the grant; a resource server may not."""
        return grant_type == ClientCredentialsGrant.GRANT_TYPE and bool(self.scopes)

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """What to grant: all that is the client's where it named nothing; None, an error, if it names more."""
        asked = (scope or "").split()
        return " ".join(asked or self.scopes) if set(asked) <= set(self.scopes) else None


CLIENTS = {
    client.client_id: client
    for client in (
        Client(addresses.CLIENT_ID, addresses.CLIENT_SECRET, scopes=addresses.SCOPES),
        Client(addresses.RESOURCE_SERVER_ID, addresses.RESOURCE_SERVER_SECRET, may_introspect=True),
    )
}


@dataclass(frozen=True, slots=True)
class Token(TokenMixin):  # type: ignore[misc]
    """An issued token; times are seconds since the epoch."""

    client_id: str
    scope: str
    issued_at: int
    expires_at: int

    def is_expired(self) -> bool:
        """Whether its time has come."""
        return self.expires_at <= time.time()

    def is_revoked(self) -> bool:
        """Never: a revoked token is forgotten."""
        return False


class Mint:
    """Issues the tokens of one server and remembers them until they expire. Thread-safe."""

    def __init__(self, token_seconds: int) -> None:
        self.token_seconds = token_seconds
        self._lock = threading.Lock()
        self.revoke()

    def revoke(self) -> None:
        """Forget every token and change the signing key, so that no resource server takes an old token any more."""
        with self._lock:
            self._tokens: dict[str, Token] = {}
            self.keys = KeySet([RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)])

    def save(self, answer: dict[str, Any], request: Any) -> None:
        """Remember the token of a token response."""
        now = int(time.time())
        token = Token(request.client.client_id, answer.get("scope", ""), now, now + self.token_seconds)
        with self._lock:
            self._tokens = {text: old for text, old in self._tokens.items() if not old.is_expired()}
            self._tokens[answer["access_token"]] = token

    def find(self, text: str) -> Token | None:
        """The token, if it was issued here and not revoked since."""
        with self._lock:
            return self._tokens.get(text)


class InvalidTarget(OAuth2Error):  # type: ignore[misc]
    """The requested audience is nobody here (RFC 8707 section 2)."""

    error = "invalid_target"


class TokenGenerator(JWTBearerTokenGenerator):  # type: ignore[misc]
    """A JWT (RFC 9068) for the billing service, which validates tokens itself; else an opaque token."""

    def __init__(self, issuer: str, mint: Mint) -> None:
        super().__init__(issuer, expires_generator=lambda client, grant_type: mint.token_seconds)  # noqa: ARG005
        self._mint = mint
        self.access_token_generator = self._access_token

    def get_jwks(self) -> KeySet:
        """The signing keys."""
        return self._mint.keys

    def get_audiences(self, client: Client, user: None, scope: str) -> list[str]:  # noqa: ARG002 - Authlib's signature
        """Those that were asked for, else those whom the scopes belong to."""
        form = flask.request.form
        asked = form.getlist("audience") + form.getlist("resource")
        if not set(asked) <= {"billing", "ehr"}:
            raise InvalidTarget("There are the audiences billing and ehr.")
        return asked or sorted({"billing" if name.startswith("billing.") else "ehr" for name in scope.split()})

    def _access_token(self, client: Client, grant_type: str, user: None, scope: str) -> str:
        if "billing" in self.get_audiences(client, user, scope):
            return str(JWTBearerTokenGenerator.access_token_generator(self, client, grant_type, user, scope))
        return secrets.token_urlsafe(32)


class Grant(ClientCredentialsGrant):  # type: ignore[misc]
    """The client credentials grant (RFC 6749 section 4.4)."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS


def create_app(at: addresses.Addresses, mint: Mint, gate: Gate) -> flask.Flask:
    """The OAuth server as a WSGI application."""
    app = flask.Flask(__name__)
    gate.guard(app)
    server = AuthorizationServer(app, query_client=CLIENTS.get, save_token=mint.save)
    server.register_token_generator("default", TokenGenerator(at.oauth_url, mint))
    server.register_client_auth_method("client_secret_basic", _authenticate_basic)
    server.register_grant(Grant)
    server.register_endpoint(_introspection(at, mint))
    app.add_url_rule("/token", "token", server.create_token_response, methods=["POST"])
    app.add_url_rule(
        "/introspect", "introspect", lambda: server.create_endpoint_response("introspection"), methods=["POST"]
    )
    app.add_url_rule("/jwks", "jwks", lambda: json_answer(mint.keys.as_dict(private=False)))
    app.add_url_rule("/.well-known/oauth-authorization-server", "metadata", lambda: json_answer(_metadata(at)))
    app.register_error_handler(HTTPException, _error)
    return app


def _authenticate_basic(query_client: Any, request: Any) -> Client | None:  # noqa: ARG001 - Authlib's signature
    # Both parts are form-encoded before they are joined (RFC 6749 section 2.3.1); Authlib leaves a plus a plus.
    given = flask.request.authorization
    if given is None or given.type != "basic":
        return None
    client: Client | None = query_client(unquote_plus(given.username or ""))
    return client if client and client.check_client_secret(unquote_plus(given.password or "")) else None


def _introspection(at: addresses.Addresses, mint: Mint) -> type[IntrospectionEndpoint]:
    class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = AUTH_METHODS

        def check_permission(self, token: Token, client: Client, request: Any) -> bool:  # noqa: ARG002
            return client.may_introspect

        def query_token(self, text: str, hint: str | None) -> Token | None:  # noqa: ARG002
            return mint.find(text)

        def introspect_token(self, token: Token) -> dict[str, Any]:
            named = {"client_id": token.client_id, "sub": token.client_id, "scope": token.scope, "iss": at.oauth_url}
            return {"token_type": "Bearer", **named, "iat": token.issued_at, "exp": token.expires_at}

    return Introspection


def _metadata(at: addresses.Addresses) -> dict[str, Any]:
    """The server's metadata (RFC 8414 section 2)."""
    return {
        "issuer": at.oauth_url,
        "token_endpoint": at.token_url,
        "introspection_endpoint": f"{at.oauth_url}/introspect",
        "jwks_uri": f"{at.oauth_url}/jwks",
        "grant_types_supported": [ClientCredentialsGrant.GRANT_TYPE],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "introspection_endpoint_auth_methods_supported": AUTH_METHODS,
        "scopes_supported": list(addresses.SCOPES),
    }


def _error(error: HTTPException) -> flask.Response:
    status = error.code or 500
    name = "temporarily_unavailable" if status >= 429 else "invalid_request"
    body = {"error": name, "error_description": error.description}
    return json_answer(body, status, failure_headers(error))
