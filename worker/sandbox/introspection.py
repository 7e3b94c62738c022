"""How the FHIR server learns whether a token is good: it asks the OAuth server (RFC 7662), and not at every request."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import requests

from worker.sandbox.addresses import RESOURCE_SERVER_ID, RESOURCE_SERVER_SECRET, Addresses, session
from worker.sandbox.answers import Failure
from worker.sandbox.bearer import invalid_token

REALM = "fhir"
TRUSTED_SECONDS = 5.0
MAX_REMEMBERED = 1000


@dataclass(slots=True)
class TokenCheck:
    """Asks about tokens; a good one is trusted for 5 s, a bad one is asked about every time. Thread-safe."""

    at: Addresses
    clock: Callable[[], float] = time.monotonic
    _session: requests.Session = field(default_factory=session)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _good: dict[bytes, tuple[float, list[str]]] = field(default_factory=dict)

    def scopes(self, token: str) -> list[str]:
        """What a token grants; raises the challenge ``invalid_token`` if it is not active."""
        key = hashlib.sha256(token.encode()).digest()
        with self._lock:  # held while asking, so that a burst of requests asks once
            trusted_until, scopes = self._good.get(key, (0.0, []))
            if self.clock() >= trusted_until:
                scopes = self._ask(token)
                if len(self._good) >= MAX_REMEMBERED:
                    self._good.clear()
                self._good[key] = self.clock() + TRUSTED_SECONDS, scopes
            return scopes

    def forget(self) -> None:
        """Ask again about every token."""
        self._good.clear()

    def close(self) -> None:
        """Give the connections to the OAuth server back."""
        self._session.close()

    def _ask(self, token: str) -> list[str]:
        try:
            answer = self._session.post(
                f"{self.at.oauth_url}/introspect",
                data={"token": token},
                auth=(RESOURCE_SERVER_ID, RESOURCE_SERVER_SECRET),
                timeout=10,
            )
            answer.raise_for_status()
        except requests.RequestException as error:
            raise Failure(503, "The OAuth server does not answer.", {"Retry-After": "1"}) from error
        told = answer.json()
        if not told["active"]:
            raise invalid_token(REALM, "The token is not active.")
        return str(told.get("scope", "")).split()
