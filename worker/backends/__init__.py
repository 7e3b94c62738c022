"""Backends: named connections to REST and FHIR systems. A new type is a module here, and a line in ``open_backend``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import random as random_fraction
from typing import TYPE_CHECKING

from requests.adapters import BaseAdapter

from worker.backends.fhir import FhirBackend
from worker.backends.http import Http
from worker.backends.limits import Clock, Sleep
from worker.backends.rest import RestBackend
from worker.config import FhirSettings
from worker.sockets import Backend

if TYPE_CHECKING:
    from worker.auth.credentials import Credential
    from worker.config import BackendSettings


def open_backend(
    name: str,
    settings: BackendSettings,
    credential: Credential | None,
    *,
    threads: int,
    sleep: Sleep = threading.Event.wait,
    random: Callable[[], float] = random_fraction,
    clock: Clock = time.monotonic,
    transport: BaseAdapter | None = None,
) -> Backend:
    """The backend that the settings describe; nothing is sent yet.

    ``threads`` is how many rows may ask at once. ``transport`` stands in for the network, ``sleep``, ``random`` and
    ``clock`` for waiting, jitter and time.
    """
    http = Http(
        name, settings, credential, threads=threads, sleep=sleep, random=random, clock=clock, transport=transport
    )
    return FhirBackend(http, settings.version) if isinstance(settings, FhirSettings) else RestBackend(http)
