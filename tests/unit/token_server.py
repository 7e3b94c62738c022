"""A token endpoint, a clock and a fleet for the tests of worker.auth: no socket, no waiting."""

import base64
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

from worker.auth import MemoryTokenStore, open_credential
from worker.auth.client import Client
from worker.auth.transport import Answer
from worker.config import ClientCredentialsSettings
from worker.errors import WorkerError
from worker.records import Meter

ORIGIN = "https://ehr.example"
SECRET = "canary-secret-5e41"


class Clock:
    def __init__(self):
        self.now = 1000.0
        self.on_sleep = lambda: None

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.on_sleep()


def answer(status=200, headers=None, **document):
    return Answer(status, headers or {}, json.dumps(document).encode())


class TokenServer:
    """Answers like a token endpoint that knows one secret; ``script`` holds answers (or calls) to give first."""

    def __init__(self, secret=SECRET):
        self.secret = secret
        self.script = []
        self.requests = []
        self.expires_in = 300
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __call__(self, request):
        with self._lock:
            self.requests.append(request)
            scripted = self.script.pop(0) if self.script else self.grant
        return scripted(request) if callable(scripted) else scripted

    def grant(self, request):
        offered = base64.b64decode(request.headers["Authorization"].split()[1]).decode().split(":")[1]
        if offered != self.secret:
            return answer(401, error="invalid_client")
        token = f"canary-token-{next(self._numbers)}-{'x' * 40}"
        return answer(access_token=token, token_type="Bearer", expires_in=self.expires_in)


class Fleet:
    """Processes (``worker()`` is one) on one store, one clock and one token endpoint."""

    def __init__(self):
        self.clock = Clock()
        self.server = TokenServer()
        self.store = MemoryTokenStore(self.clock)

    def key(self, **settings):
        return Client("hospital", settings_of(**settings), send=self.server, clock=self.clock).key

    def worker(self, store=None, random=lambda: 0.0, sleep=None, send=None, **settings):
        return open_credential(
            "hospital",
            settings_of(**settings),
            store or self.store,
            owner="test",
            clock=self.clock,
            now=lambda: self.clock() - 1000,
            sleep=sleep or self.clock.sleep,
            random=random,
            send=send or self.server,
        )


def settings_of(**given):
    usual = {"token_url": "https://idp.example/token", "client_id": "batch", "client_secret": SECRET}
    return ClientCredentialsSettings(**usual | given)


def token_of(credential):
    return credential.token(Meter()).access_token


def on_threads(count, call):
    """What ``call`` returned or raised on each of ``count`` threads that begin together."""
    together = threading.Barrier(count)

    def run():
        together.wait(10)
        try:
            return call()
        except WorkerError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result(10) for future in [pool.submit(run) for _ in range(count)]]


def wait_for_refreshes():
    for thread in threading.enumerate():
        if thread.name == "token refresh":
            thread.join(10)
