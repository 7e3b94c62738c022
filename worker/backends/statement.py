"""A FHIR server's CapabilityStatement: which version it speaks (https://hl7.org/fhir/R4/capabilitystatement.html)."""

from __future__ import annotations

import threading
from dataclasses import replace

from worker.backends.answers import resource
from worker.backends.calls import Call, Caller
from worker.errors import BackendError, Unauthorized

_RELEASES = {"R4": "4.0", "R4B": "4.3", "R5": "5.0", "STU3": "3.0"}
# It may be answered though the records cannot be reached.
_CALL = Call("GET", "metadata", headers={"Accept": "application/fhir+json"}, probe=False)


class Statement:
    """The statement of one backend, asked for when it is needed and then kept: it may be large and slow to come."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._release: str | None = None
        self._lock = threading.Lock()

    def ask(self, caller: Caller) -> str:
        """The release of FHIR, such as ``4.0.1``; "" where the server does not say."""
        return self._ask(caller, _CALL)

    def ask_openly(self, caller: Caller) -> str:
        """The same, with a token only if that is wanted, which few servers do."""
        try:
            return self._ask(caller, replace(_CALL, public=True))
        except Unauthorized:
            return self.ask(caller)

    def _ask(self, caller: Caller, call: Call) -> str:
        statement = caller(call, resource)
        release = statement.get("fhirVersion") if isinstance(statement, dict) else None
        self._release = release if isinstance(release, str) else ""
        return self._release

    def contradiction(self, caller: Caller) -> str:
        """What is wrong where the server is known to speak another version than the configured one, else ""."""
        with self._lock:
            release = self._release if self._release is not None else self._asked(caller)
        return self.contradicts(release) if release else ""

    def contradicts(self, release: str) -> str:
        """What is wrong with this release, "" if nothing."""
        if release.startswith(_RELEASES[self.version]):
            return ""
        return f'speaks FHIR {release or "of no version"}, not {self.version}: set "version" to what it speaks'

    def _asked(self, caller: Caller) -> str:
        try:
            return self.ask(caller)
        except BackendError:
            self._release = ""  # it is a second opinion: that there is none must neither hide nor delay the first
            return ""
