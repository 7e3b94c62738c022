"""What a client proves itself with, as its secrets and files read at the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from worker.auth.client_authentication import (
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    TlsClientAuth,
)
from worker.auth.keys import read_key
from worker.auth.transport import Tls
from worker.config import ClientCredentialsSettings
from worker.pem import read_authorities, read_pair
from worker.secret import Secret


@dataclass(frozen=True, slots=True)
class Proof:
    """The ``methods`` to try, in this order, until the server knows the client; ``material`` is what they were made of.

    Two proofs of the same material are the same; from it the key is derived that seals the client's tokens.
    """

    methods: tuple[ClientAuthentication, ...]
    material: str = field(repr=False)
    tls: Tls

    @classmethod
    def read(cls, name: str, settings: ClientCredentialsSettings) -> Self:
        """Read it for ``[auth.NAME]``; raises ``ConfigError`` where that cannot be done."""
        if settings.ca_file:
            read_authorities(f"auth.{name}", settings.ca_file)
        tls = Tls(settings.ca_file)
        if settings.client_cert and settings.client_key:
            pair = settings.client_cert, settings.client_key
            return cls(
                (TlsClientAuth(settings.client_id),), read_pair(f"auth.{name}", *pair), Tls(settings.ca_file, pair)
            )
        if settings.key:
            methods = tuple(_with_key(settings, key) for key in settings.key)
            return cls(methods, "\n".join(key.reveal() for key in settings.key), tls)
        secret = settings.client_secret.reveal() if settings.client_secret else ""
        return cls((_with_secret(settings, secret),), secret, tls)


def _with_secret(settings: ClientCredentialsSettings, secret: str) -> ClientAuthentication:
    if settings.client_auth == "post":
        return ClientSecretPost(settings.client_id, secret)
    return ClientSecretBasic(settings.client_id, secret, raw=settings.raw_basic)


def _with_key(settings: ClientCredentialsSettings, secret: Secret) -> ClientAuthentication:
    try:
        key = read_key(secret.reveal(), key_id=settings.key_id, algorithm=settings.algorithm)
    except ValueError as fault:
        raise secret.mistake(str(fault)) from None
    return PrivateKeyJwt(settings.client_id, key, settings.assertion_audience)
