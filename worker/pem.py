"""Certificates and keys in PEM files, looked at before a server is asked: OpenSSL would say less, and later."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from worker.errors import ConfigError, Problem


def read_pair(table: str, certificate: Path, key: Path) -> str:
    """Both files' contents; raises ``ConfigError`` unless they belong together and need no passphrase.

    ``table`` is where ``client_cert`` and ``client_key`` are set. OpenSSL would ask the terminal for a passphrase, and
    wait.
    """
    try:
        contents = certificate.read_text(), key.read_text()
        load_pem_private_key(contents[1].encode(), password=None)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except (OSError, TypeError, ValueError) as error:
        setting, what = _blame(error)
        raise _mistake(f"{table}.{setting}", what, f"{certificate}, {key}") from None
    return "\n".join(contents)


def read_authorities(table: str, ca_file: Path) -> str:
    """The content of ``ca_file``; raises ``ConfigError`` if it holds no certificates."""
    try:
        ssl.create_default_context(cafile=ca_file)
        return ca_file.read_text()
    except (OSError, ValueError):
        what = "holds no certificates of authorities, or cannot be read; give those of the private CA, as PEM"
        raise _mistake(f"{table}.ca_file", what, str(ca_file)) from None


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


def _mistake(key: str, what: str, where: str) -> ConfigError:
    return ConfigError([Problem(where, key, what)])
