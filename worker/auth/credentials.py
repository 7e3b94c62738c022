"""What a backend knows of its authorization: a credential, and a ticket from it for each request."""

from __future__ import annotations

import random as _random
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from requests import PreparedRequest
from requests.auth import AuthBase

from worker.auth.cache import TokenCache
from worker.auth.client import Client
from worker.auth.client_authentication import basic_credentials
from worker.auth.store import TokenStore
from worker.auth.token import Token
from worker.auth.transport import Send, send
from worker.config import ApiKeySettings, AuthSettings, BasicSettings, BearerSettings, ClientCredentialsSettings
from worker.errors import ConfigError, Unauthorized, Unavailable
from worker.http_terms import origin_of
from worker.records import Meter

_HEADER_TEXT = re.compile(r"[\x21-\x7e]+(?: +[\x21-\x7e]+)*")
_origin_of = lru_cache(maxsize=256)(origin_of)


class Ticket(AuthBase):
    """Puts a credential on a request (``requests``' ``auth=``), if the request goes to the origin it was made for.

    Raises ``Unauthorized`` for any other origin, so that no redirect or paging link carries a credential away.
    """

    __slots__ = ("_auth", "_header", "_origin", "_value", "token")

    def __init__(self, auth: str, origin: str, header: str, value: str, token: Token | None = None) -> None:
        self._auth = auth
        self._origin = _origin_of(origin)
        self._header = header
        self._value = value
        self.token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Sign the request."""
        if origin_of(request.url or "") != self._origin:
            raise Unauthorized(self._auth, f"this credential is for {self._origin} and is sent nowhere else")
        request.headers[self._header] = self._value
        return request

    def __repr__(self) -> str:
        return f"<Ticket of {self._auth} for {self._origin}>"


class Credential(Protocol):
    """A named identity that hands out tickets."""

    name: str

    def ticket(self, meter: Meter, origin: str) -> Ticket:
        """A ticket for requests to one origin; may wait for a token. Raises ``Unavailable`` or ``Unauthorized``."""

    def refused(self, ticket: Ticket) -> bool:
        """A backend answered 401 to this ticket. True if a new ticket is worth one more try."""

    def reload(self) -> None:
        """Read the secrets anew, as they were changed; raises ``ConfigError``, and goes on as before."""

    def check(self, meter: Meter) -> str:
        """A sentence for people about what this credential is good for; raises ``BackendError``."""


class ClientCredentials:
    """A client of an OAuth server; its token is shared by all who use the same client."""

    def __init__(self, name: str, cache: TokenCache, clock: Callable[[], float]) -> None:
        self.name = name
        self._cache = cache
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}  # the last one by origin, good for as long as its token

    def token(self, meter: Meter) -> Token:
        """The token of the moment; raises ``Unavailable`` or ``Unauthorized``."""
        return self._cache.get(meter)

    def ticket(self, meter: Meter, origin: str) -> Ticket:
        """A ticket with the token of the moment."""
        token = self._cache.get(meter)
        ticket = self._tickets.get(origin)
        if ticket is None or ticket.token is not token:
            ticket = Ticket(self.name, origin, "Authorization", f"Bearer {token.access_token}", token)
            self._tickets[origin] = ticket
        return ticket

    def refused(self, ticket: Ticket) -> bool:
        """Forget the ticket's token, unless it is new; True if a new ticket is worth one more try."""
        return ticket.token is not None and self._cache.refused(ticket.token)

    def reload(self) -> None:
        """Read the client's secrets, keys and certificates anew."""
        self._cache.reload()

    def check(self, meter: Meter) -> str:
        """Get a token and tell what it is."""
        token = self._cache.get(meter)
        scope = f"for {' '.join(token.scope)}" if token.scope else "without a scope"
        return f"token {token.masked()}, {scope}, {token.left(self._clock()):.0f} s left"


class FixedCredential:
    """A credential that is sent as it stands in the configuration, read anew for every ticket."""

    def __init__(self, name: str, kind: str, header: str, value: Callable[[], str]) -> None:
        self.name = name
        self._kind = kind
        self._header = header
        self._value = value

    def ticket(self, _meter: Meter, origin: str) -> Ticket:
        """A ticket; raises ``Unavailable`` while the secret cannot be read."""
        try:
            value = self._value()
        except ConfigError as error:
            raise Unavailable(self.name, error.detail) from error
        if not _HEADER_TEXT.fullmatch(value):  # requests and http.client would quote it in their errors
            raise Unauthorized(self.name, f"the {self._kind} holds characters that may not stand in a header")
        return Ticket(self.name, origin, self._header, value)

    def refused(self, _ticket: Ticket) -> bool:
        """There is no other."""
        return False

    def reload(self) -> None:
        """Nothing to do: each ticket reads it."""

    def check(self, meter: Meter) -> str:
        """See that it can be read."""
        self.ticket(meter, "https://localhost")
        return f"a {self._kind}; whether it is good, its backends will say"


def open_credential(
    name: str,
    settings: AuthSettings,
    store: TokenStore,
    *,
    owner: str,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = _random.random,
    send: Send = send,
) -> Credential:
    """The credential that ``[auth.NAME]`` describes. Raises ``ConfigError`` if its secret cannot be read."""
    match settings:
        case BearerSettings():
            return FixedCredential(name, "bearer token", "Authorization", lambda: f"Bearer {settings.token.reveal()}")
        case BasicSettings():
            return FixedCredential(
                name,
                "user and password",
                "Authorization",
                lambda: basic_credentials(settings.username, settings.password.reveal()),
            )
        case ApiKeySettings():
            return FixedCredential(name, "key", settings.header, settings.key.reveal)
        case ClientCredentialsSettings():
            client = Client(name, settings, send=send, clock=clock)
            requests = max(1, len(settings.key)) + bool(settings.issuer)
            lease = requests * settings.timeout + 5  # whoever takes still longer is a late leader, which does no harm
            cache = TokenCache(
                client, store, owner=owner, lease=lease, clock=clock, now=now, sleep=sleep, random=random
            )
            return ClientCredentials(name, cache, clock)
