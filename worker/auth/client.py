"""This worker as a client of an OAuth server: one identity, as its secret reads at the moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from worker import exact_json
from worker.auth.client_authentication import ClientAuthentication, ClientSecretBasic, ClientSecretPost
from worker.auth.endpoint import read_token
from worker.auth.sealing import Seal, derive
from worker.auth.token import Token
from worker.auth.transport import Send, TokenRequest
from worker.config import ClientCredentialsSettings
from worker.errors import ConfigError
from worker.log import get_logger
from worker.records import Meter

log = get_logger()


class Client:
    """Asks for tokens with the client credentials grant (RFC 6749 section 4.4).

    ``key`` stands in the ledger for all that shapes the request, and ``seal`` encrypts what is kept there; both change
    with the secret. Raises ``ConfigError`` if the secret cannot be read.
    """

    def __init__(
        self, name: str, settings: ClientCredentialsSettings, *, send: Send, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self._settings = settings
        self._send = send
        self._clock = clock
        self._secret = settings.client_secret.reveal()
        self._parameters = _parameters(settings)
        self._authentication = _authentication(settings, self._secret)
        salt = hashlib.sha256(exact_json.dumps([settings.token_url, settings.client_id])).digest()
        sealing_key, secret_version = derive(self._secret, salt)
        self.key = self._digest(secret_version)
        self.seal = Seal(sealing_key, self.key)
        self._missing: set[str] = set()

    def fetch(self, meter: Meter) -> Token:
        """One token request; raises ``Unavailable`` or ``Unauthorized``."""
        settings = self._settings
        request = TokenRequest(self.name, settings.token_url, settings.timeout, dict(self._parameters), {})
        self._authentication.sign(request)
        sent = self._clock()
        meter.token_request()
        token = read_token(
            self.name,
            self._send(request),
            sent=sent,
            scopes=settings.scopes,
            default_lifetime=settings.default_lifetime,
        )
        self._report_missing(set(settings.scopes) - set(token.scope))
        return token

    def reread(self) -> Client:
        """The client with its secret as it reads now; this very one if that is the same, or cannot be read."""
        try:
            if self._settings.client_secret.reveal() == self._secret:
                return self
            return Client(self.name, self._settings, send=self._send, clock=self._clock)
        except ConfigError as error:
            log.warning("the client secret cannot be read again", auth=self.name, reason=error.detail)
            return self

    def _report_missing(self, scopes: set[str]) -> None:
        if scopes and scopes != self._missing:
            log.warning("fewer scopes were granted than asked for", auth=self.name, missing=" ".join(sorted(scopes)))
        self._missing = scopes

    def _digest(self, secret_version: str) -> str:
        settings = self._settings
        shape = {
            "token_url": settings.token_url,
            "client_id": settings.client_id,
            "client_auth": [settings.client_auth, settings.raw_basic],
            "parameters": sorted((self._parameters | {"scope": " ".join(sorted(settings.scopes))}).items()),
            "secret": secret_version,
        }
        return hashlib.sha256(exact_json.dumps(sorted(shape.items()))).hexdigest()


def _parameters(settings: ClientCredentialsSettings) -> dict[str, str]:
    wanted = {"scope": " ".join(settings.scopes), "audience": settings.audience, "resource": settings.resource}
    named = {name: value for name, value in wanted.items() if value}
    return {**settings.extra, **named, "grant_type": "client_credentials"}


def _authentication(settings: ClientCredentialsSettings, secret: str) -> ClientAuthentication:
    if settings.client_auth == "post":
        return ClientSecretPost(settings.client_id, secret)
    return ClientSecretBasic(settings.client_id, secret, raw=settings.raw_basic)
