"""One process of a fleet that asks for tokens, with Longshore or with another library: run by tokens.py.

    token_clients.py LIBRARY URL THREADS STATE

Each line on standard input is a round: ``call`` lets all threads ask at once, ``expire`` ages the token beyond its end
first, ``cached`` times calls that find a token. Each is answered by a line with seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

CLIENT, SECRET = f"batch-{sys.argv[3]}", "secret"  # another client, and another key in the ledger, for each fleet
AN_HOUR = 3600.0
CACHED_CALLS = 100_000

Get, Expire = Callable[[], str], Callable[[], None]


def longshore(url: str, state: str) -> tuple[Get, Expire]:
    from worker.auth import ClientCredentials, open_credential
    from worker.config import ClientCredentialsSettings
    from worker.ledger import Ledger
    from worker.records import Meter

    passed = [0.0]
    settings = ClientCredentialsSettings(token_url=url, client_id=CLIENT, client_secret=SECRET)
    # The ledger ages the token too, as its clock has gone on just as far.
    ledger = Ledger(state, clock=lambda: time.time() + passed[0])
    credential = open_credential(
        "bench", settings, ledger.tokens, owner="bench", clock=lambda: time.monotonic() + passed[0]
    )
    assert isinstance(credential, ClientCredentials)
    meter, token = Meter(), credential.token

    def expire() -> None:
        passed[0] += AN_HOUR

    return lambda: token(meter).access_token, expire


def requests_oauthlib(url: str, _state: str) -> tuple[Get, Expire]:
    import os

    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # loopback
    from oauthlib.oauth2 import BackendApplicationClient
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client=BackendApplicationClient(CLIENT))

    def get() -> str:
        if not session.token or session.token["expires_at"] < time.time():
            session.fetch_token(url, client_id=CLIENT, client_secret=SECRET)
        return str(session.token["access_token"])

    def expire() -> None:
        session.token = {**session.token, "expires_at": time.time() - 1}

    return get, expire


def authlib(url: str, _state: str) -> tuple[Get, Expire]:
    from authlib.integrations.requests_client import OAuth2Session

    session = OAuth2Session(CLIENT, SECRET, token_endpoint=url, grant_type="client_credentials")

    def get() -> str:
        if not session.token:
            session.fetch_token(url, grant_type="client_credentials")
        session.ensure_active_token(session.token)
        return str(session.token["access_token"])

    def expire() -> None:
        session.token = {**session.token, "expires_at": time.time() - 1}

    return get, expire


def msal(url: str, _state: str) -> tuple[Get, Expire]:
    import requests
    from msal import ConfidentialClientApplication

    class Http:
        """Says where the token endpoint is, as the library insists on an authority that it knows."""

        def get(self, *_: object, **__: object) -> object:
            return self.post(f"{url}/metadata")

        def post(self, where: str, **given: object) -> object:
            return requests.post(where if where.startswith(url) else url, data=given.get("data"), timeout=60)

        def close(self) -> None:
            pass

    app = ConfidentialClientApplication(
        CLIENT,
        client_credential=SECRET,
        authority="https://login.microsoftonline.com/tenant",
        instance_discovery=False,
        http_client=Http(),
    )

    def get() -> str:
        return str(app.acquire_token_for_client(["api/.default"])["access_token"])

    def expire() -> None:
        for entry in list(app.token_cache.find("AccessToken")):
            entry["expires_on"] = str(int(time.time()) - 1)
            app.token_cache.modify("AccessToken", entry, entry)

    return get, expire


def google_auth(url: str, _state: str) -> tuple[Get, Expire]:
    import datetime

    import google.auth.transport.requests
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from google.auth import crypt
    from google.oauth2.service_account import Credentials

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    credentials = Credentials(crypt.RSASigner.from_string(pem, "1"), "batch@bench", url, scopes=["read"])
    request = google.auth.transport.requests.Request()

    def get() -> str:
        credentials.before_request(request, "GET", "https://ehr.example", {})
        return str(credentials.token)

    def expire() -> None:
        credentials.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(seconds=1)

    return get, expire


LIBRARIES = {each.__name__: each for each in (longshore, requests_oauthlib, authlib, msal, google_auth)}


def together(get: Get, threads: int) -> float:
    """How long it takes until all threads have a token."""
    barrier = threading.Barrier(threads + 1)

    def run() -> None:
        barrier.wait()
        assert get()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    return time.perf_counter() - began


def cached(get: Get) -> float:
    """What one call costs that finds a token."""
    get()
    began = time.perf_counter()
    for _ in range(CACHED_CALLS):
        get()
    return (time.perf_counter() - began) / CACHED_CALLS


def main(library: str, url: str, threads: str, state: str) -> None:
    get, expire = LIBRARIES[library](url, state)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "expire":
            expire()
        print(cached(get) if line.strip() == "cached" else together(get, int(threads)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
