"""Private keys that sign client assertions, read from PEM or JWK, and made anew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey
from joserfc.util import urlsafe_b64encode

from worker import exact_json

RSA_BITS = 3072
MIN_RSA_BITS = 2048

_RSA_ALGORITHMS = ("RS256", "RS384", "PS256")
_CURVES = {"ES256": "P-256", "ES384": "P-384"}
ALGORITHMS = (*_RSA_ALGORITHMS, *_CURVES)

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the header (RFC 7515 section 4.1) of what it signs."""

    header: Mapping[str, str]
    key: RSAKey | ECKey = field(repr=False)

    def sign(self, claims: dict[str, Any]) -> str:
        """A signed JWT (RFC 7519)."""
        return jwt.encode(dict(self.header), claims, self.key, algorithms=[self.header["alg"]])


def read_key(text: str, *, key_id: str | None = None, algorithm: str | None = None) -> SigningKey:
    """A key from PEM or from the JSON of a JWK; raises ``ValueError`` with a sentence that quotes nothing of it.

    A JWK's own ``kid`` and ``alg`` stand unless others are given. A certificate beside a PEM key is named in the header
    by its thumbprint (``x5t#S256``), for servers that know keys by their certificates.
    """
    key = _from_jwk(text) if text.lstrip().startswith("{") else _from_pem(text)
    fitting = _fitting(key)
    signs = algorithm or str(key.get("alg") or fitting[0])
    if signs not in fitting:
        raise ValueError(f"cannot sign {signs}; write algorithm = one of {', '.join(fitting)}, or give another key")
    named = {"kid": key_id or key.get("kid"), "x5t#S256": _thumbprint(text)}
    return SigningKey({"alg": signs, "typ": "JWT"} | {name: str(each) for name, each in named.items() if each}, key)


def new_key(algorithm: str, key_id: str | None = None) -> RSAKey | ECKey:
    """A key pair; ``key_id`` is its thumbprint (RFC 7638) unless it is given."""
    members: Any = {"use": "sig", "alg": algorithm} | ({"kid": key_id} if key_id else {})
    if algorithm in _CURVES:
        return ECKey.generate_key(_CURVES[algorithm], members, auto_kid=True)
    return RSAKey.generate_key(RSA_BITS, members, auto_kid=True)


def _from_pem(text: str) -> RSAKey | ECKey:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise ValueError("is encrypted with a passphrase, which nobody is there to type; give it without") from None
    except ValueError:
        raise ValueError('holds no private key, neither PEM nor JWK; write e.g. key = { file = "PATH" }') from None
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAKey.import_key(key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ECKey.import_key(key)
    raise ValueError("is neither an RSA nor an EC key; give one of these")


def _from_jwk(text: str) -> RSAKey | ECKey:
    try:
        key = JWKRegistry.import_key(exact_json.loads(text))
        whole = key.is_private
    except (JoseError, ValueError, TypeError, KeyError):
        raise ValueError("is no JWK (RFC 7517); give a single one with its private members") from None
    if not isinstance(key, RSAKey | ECKey):
        raise ValueError("is neither an RSA nor an EC key; give one of these")
    if not whole:
        raise ValueError("is the public half of a key; give the private one")
    return key


def _fitting(key: RSAKey | ECKey) -> tuple[str, ...]:
    """What a key can sign, the usual one first."""
    if isinstance(key, ECKey):
        curve = key.as_dict(private=False)["crv"]
        found = tuple(name for name, each in _CURVES.items() if each == curve)
        if not found:
            raise ValueError("is on a curve that client assertions do not use; give a P-256 or P-384 key")
        return found
    if key.raw_value.key_size < MIN_RSA_BITS:
        raise ValueError(f"is too short to be safe; give an RSA key of {MIN_RSA_BITS} bits or more")
    return _RSA_ALGORITHMS


def _thumbprint(text: str) -> str:
    found = _CERTIFICATE.search(text)
    if not found:
        return ""
    try:
        certificate = x509.load_pem_x509_certificate(found[0].encode())
    except ValueError:
        raise ValueError("has a certificate beside it that cannot be read; give a whole PEM file") from None
    return urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).decode()
