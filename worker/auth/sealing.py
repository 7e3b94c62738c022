"""Tokens at rest: sealed so that only who could ask for one anyway can read it."""

from __future__ import annotations

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from worker import exact_json
from worker.auth.token import Token

_NONCE_BYTES = 12


@lru_cache(maxsize=64)
def derive(secret: str, salt: bytes) -> tuple[bytes, str]:
    """From a client's secret or private key: a 256-bit key, and a version of the secret that does not reveal it.

    The two are separate halves of one scrypt output (RFC 7914), which costs about 50 ms: a ledger that gets into the
    wrong hands is a slow oracle for guessing the secret, and none for a secret that was generated.
    """
    material = Scrypt(salt=salt, length=64, n=2**14, r=8, p=1).derive(secret.encode())
    return material[:32], material[32:].hex()


class Seal:
    """Encrypts tokens (AES-256-GCM) and binds each to its place in the ledger."""

    def __init__(self, key: bytes, place: str) -> None:
        self._cipher = AESGCM(key)
        self._place = place.encode()

    def close(self, token: Token) -> bytes:
        """A token as bytes for the ledger."""
        clear = exact_json.dumps([token.access_token, token.token_type, token.scope, token.lifetime])
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, clear, self._place)

    def open(self, sealed: bytes, now: float, expires_in: float) -> Token | None:
        """The token again, with ``expires_in`` seconds left; None if the bytes are damaged, or belong elsewhere.

        It never has more left than it had at first, whatever became of the store's clock.
        """
        try:
            clear = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._place)
        except (InvalidTag, ValueError):
            return None
        access_token, token_type, scope, lifetime = exact_json.loads(clear)
        ends = now + min(expires_in, float(lifetime))
        return Token(access_token, token_type, tuple(scope), float(lifetime), ends)
