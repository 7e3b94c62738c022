"""What a client proves itself with, as its secrets and files read at the moment."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.serialization import load_pem_private_key

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
from worker.errors import ConfigError, Problem
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
            _check_authorities(name, settings.ca_file)
        tls = Tls(settings.ca_file)
        if settings.client_cert and settings.client_key:
            pair = settings.client_cert, settings.client_key
            return cls((TlsClientAuth(settings.client_id),), _read_pair(name, *pair), Tls(settings.ca_file, pair))
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


def _read_pair(name: str, certificate: Path, key: Path) -> str:
    """Both files' contents; raises ``ConfigError`` unless they belong together and need no passphrase.

    OpenSSL would ask the terminal for a passphrase, and wait.
    """
    try:
        contents = certificate.read_text(), key.read_text()
        load_pem_private_key(contents[1].encode(), password=None)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except (OSError, TypeError, ValueError) as error:
        raise _mistake(name, *_blame(error), f"{certificate}, {key}") from None
    return "\n".join(contents)


def _blame(error: Exception) -> tuple[str, str]:
    """The setting that the files' error is about, and a sentence."""
    match error:
        case TypeError():
            return "client_key", "is encrypted with a passphrase, which nobody is there to type; give it without"
        case ssl.SSLError():
            return "client_cert", "is no certificate (PEM) for client_key; give the two that belong together"
        case OSError():
            return "client_key", f"cannot be read: {error.strerror}; let this user read both files"
        case _:
            return "client_key", "is no private key in PEM; give the one that belongs to client_cert"


def _check_authorities(name: str, ca_file: Path) -> None:
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError:
        what = "holds no certificates of authorities, or cannot be read; give those of the private CA, as PEM"
        raise _mistake(name, "ca_file", what, str(ca_file)) from None


def _mistake(name: str, setting: str, what: str, where: str) -> ConfigError:
    return ConfigError([Problem(where, f"auth.{name}.{setting}", what)])
