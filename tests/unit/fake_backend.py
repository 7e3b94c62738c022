"""A backend without a network: a transport that answers from a script, and time that passes only when slept."""

import io
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import parse_qsl, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from worker.auth.credentials import Ticket
from worker.backends import open_backend
from worker.config import FhirSettings, RestSettings
from worker.records import Meter, RowKey

BASE = "https://backend.example/api"


def answer(body=b"", status=200, **headers):
    """An answer; a dict or list is sent as JSON."""
    if isinstance(body, dict | list):
        kind = "application/fhir+json" if isinstance(body, dict) and "resourceType" in body else "application/json"
        body, headers = json.dumps(body).encode(), {"Content-Type": kind, **headers}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    body = body if isinstance(body, bytes) else body.encode()
    return status, {"Content-Length": str(len(body)), **headers}, body


class Transport(BaseAdapter):
    """Asks ``script`` (a function of the request, or a list of answers) and keeps the requests."""

    def __init__(self, script):
        super().__init__()
        self.requests = []
        self._script = iter(script) if isinstance(script, list) else script
        self._lock = threading.Lock()

    def send(self, request, **_):
        with self._lock:
            self.requests.append(request.copy())
            said = self._script(request) if callable(self._script) else next(self._script)
        if isinstance(said, Exception):
            raise said
        status, headers, body = said
        response = requests.Response()
        response.status_code = status
        response.headers.update(headers)
        response.url = request.url
        response.request = request
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(body), headers, status, preload_content=False, request_method=request.method
        )
        return response

    def close(self):
        pass

    @property
    def urls(self):
        return [request.url.removeprefix(BASE) for request in self.requests]


def query(request):
    """The parameters of a search, in the URL or in a posted form, as a list of pairs."""
    form = (request.body or b"").decode() if request.method == "POST" else ""
    return parse_qsl(urlsplit(request.url).query) + parse_qsl(form)


class Time:
    """A clock, and a sleep that moves it."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, stop, seconds):
        if not stop.is_set():
            self.slept.append(round(seconds, 6))
            self.now += seconds
        return stop.is_set()


class FakeCredential:
    """Hands out tickets t1, t2, ...; a refused one is replaced."""

    name = "hospital"

    def __init__(self, replaces=True):
        self._replaces = replaces
        self._count = 1

    def ticket(self, meter, origin):
        return Ticket(self.name, origin, "Authorization", f"Bearer t{self._count}")

    def refused(self, ticket):
        self._count += 1
        return self._replaces

    def check(self, meter):
        return "a fake"


@dataclass
class Opened:
    """A backend with all that a test looks at."""

    transport: Transport
    backend: object
    meter: Meter = field(default_factory=Meter)
    stop: threading.Event = field(default_factory=threading.Event)
    time: Time = field(default_factory=Time)

    @cached_property
    def session(self):
        return self.backend.open(self.meter, self.stop)

    def at(self, line=2):
        return self.session.at(RowKey("d" * 64, line))

    @property
    def calls(self):
        return self.meter.read()[0].get(self.backend.name, 0)


def opened(script, kind=RestSettings, credential=None, threads=8, **settings):
    """A backend over a scripted transport."""
    transport, time = Transport(script), Time()
    backend = open_backend(
        "billing" if kind is RestSettings else "ehr",
        kind(url=BASE, **settings),
        credential,
        threads=threads,
        sleep=time.sleep,
        random=lambda: 0.5,
        clock=time,
        transport=transport,
    )
    return Opened(transport, backend, time=time)


def opened_fhir(script, **settings):
    """A FHIR backend over a scripted transport."""
    return opened(script, kind=FhirSettings, **settings)
