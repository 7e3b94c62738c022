"""This worker as a client of an OAuth server: one identity, as its secrets read at the moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from worker import exact_json
from worker.auth.client_authentication import ClientAuthentication
from worker.auth.discovery import Discovery
from worker.auth.endpoint import Unrecognized, read_token
from worker.auth.proof import Proof
from worker.auth.sealing import Seal, derive
from worker.auth.token import Token
from worker.auth.transport import Request, Send
from worker.config import ClientCredentialsSettings
from worker.log import get_logger
from worker.records import Meter

log = get_logger()


class Client:
    """Asks for tokens with the client credentials grant (RFC 6749 section 4.4).

    ``key`` stands in the ledger for all that shapes the request, and ``seal`` encrypts what is kept there; both change
    with the client's proof. Raises ``ConfigError`` if that cannot be read.
    """

    def __init__(
        self, name: str, settings: ClientCredentialsSettings, *, send: Send, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self._settings = settings
        self._send = send
        self._clock = clock
        self._proof = Proof.read(name, settings)
        self._parameters = _parameters(settings)
        self._token_url = self._endpoint()
        salt = hashlib.sha256(exact_json.dumps([settings.server, settings.client_id])).digest()
        sealing_key, version = derive(self._proof.material, salt)
        self.key = self._digest(version)
        self.seal = Seal(sealing_key, self.key)
        self._missing: set[str] = set()

    def fetch(self, meter: Meter) -> Token:
        """A token, by one request; by one more for each older key while the server does not know the newer ones.

        Raises ``Unavailable`` or ``Unauthorized``.
        """
        url = self._token_url()
        *newer, last = self._proof.methods
        for method in newer:
            try:
                return self._ask(url, method, meter)
            except Unrecognized as error:
                log.warning("trying the next older key", auth=self.name, reason=error.detail)
        return self._ask(url, last, meter)

    def reread(self) -> Client:
        """The client with its proof as it reads now; this very one if that is the same. Raises ``ConfigError``."""
        client = Client(self.name, self._settings, send=self._send, clock=self._clock)
        return self if client.key == self.key else client

    def _endpoint(self) -> Callable[[], str]:
        issuer, settings = self._settings.issuer, self._settings
        if not issuer:
            return lambda: str(settings.token_url)
        return Discovery(
            self.name, issuer, send=self._send, timeout=settings.timeout, tls=self._proof.tls, clock=self._clock
        ).token_url

    def _ask(self, url: str, method: ClientAuthentication, meter: Meter) -> Token:
        settings = self._settings
        request = Request(self.name, url, settings.timeout, dict(self._parameters), tls=self._proof.tls)
        method.sign(request)
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

    def _report_missing(self, scopes: set[str]) -> None:
        if scopes and scopes != self._missing:
            log.warning("fewer scopes were granted than asked for", auth=self.name, missing=" ".join(sorted(scopes)))
        self._missing = scopes

    def _digest(self, version: str) -> str:
        settings = self._settings
        shape = {
            "server": settings.server,
            "client_id": settings.client_id,
            "client_auth": [settings.client_auth, settings.raw_basic, settings.assertion_audience],
            "key": [settings.key_id, settings.algorithm],
            "parameters": sorted((self._parameters | {"scope": " ".join(sorted(settings.scopes))}).items()),
            "proof": version,
        }
        return hashlib.sha256(exact_json.dumps(sorted(shape.items()))).hexdigest()


def _parameters(settings: ClientCredentialsSettings) -> dict[str, str]:
    wanted = {"scope": " ".join(settings.scopes), "audience": settings.audience, "resource": settings.resource}
    named = {name: value for name, value in wanted.items() if value}
    return {**settings.extra, **named, "grant_type": "client_credentials"}
