"""A token or a call by hand, over the same connections as a job's."""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from worker import exact_json
from worker.auth import ClientCredentials, Credential
from worker.backends.fhir import FhirSession
from worker.backends.rest import Rest
from worker.commands.screens import as_json
from worker.config import Settings
from worker.connections import Connections, connect
from worker.records import Meter, RowKey
from worker.sockets import Backend

_FHIR = {"Accept": "application/fhir+json", "Content-Type": "application/fhir+json"}


def connected(settings: Settings) -> AbstractContextManager[Connections]:
    """The connections of somebody who takes no deliveries."""
    return connect(settings, secrets.token_hex(8))


def token(credential: Credential) -> dict[str, Any]:
    """What a credential is good for, its token masked; raises ``BackendError``.

    ``expires_in`` is in seconds. A credential without a token has only a name and a ``detail``.
    """
    meter = Meter()
    credential.reload()  # who asks by hand may have mended what was refused
    found = {"auth": credential.name, "detail": credential.check(meter)}
    if not isinstance(credential, ClientCredentials):
        return found
    token = credential.token(meter)
    left = round(token.left(time.monotonic()))
    return {**found, "token": token.masked(), "scopes": token.scope, "expires_in": left}


def call(backend: Backend, method: str, path: str, body: Any, *, indent: bool) -> str:
    """A backend's answer to one call, as text; JSON may be indented. Raises ``BackendError``."""
    session, key = backend.open(Meter(), threading.Event()), RowKey(secrets.token_hex(16), line=1)
    if isinstance(session, FhirSession):
        response = Rest(session.caller, key).request(method, path, json=body, headers=_FHIR)
    else:
        response = session.at(key).request(method, path, json=body)
    try:
        return as_json(exact_json.loads(response.content), indent=indent)
    except ValueError:
        return str(response.text)
