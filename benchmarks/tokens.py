"""How often a token endpoint is asked: by threads and processes that all need a token at the same time.

    .venv/bin/python benchmarks/tokens.py
    .venv/bin/python benchmarks/tokens.py --state postgresql+psycopg://...    # the processes as several hosts

The other libraries are installed into an environment of their own. Every answer of the endpoint takes 50 ms; ideal is
one request, and a wall time of little more than those 50 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CLIENTS = Path(__file__).with_name("token_clients.py")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longshore-benchmarks"
PEERS = {
    "requests_oauthlib": "requests-oauthlib",
    "authlib": "Authlib",
    "msal": "msal",
    "google_auth": "google-auth",
}
LATENCY = 0.05
LIFETIME = 1800
THREADS, PROCESSES, THREADS_EACH = 50, 4, 8


class TokenEndpoint(ThreadingHTTPServer):
    """Grants everything, after a while, and counts."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/token"

    def take(self) -> int:
        """How many requests there were since the last time."""
        with self.lock:
            taken, self.requests = self.requests, 0
        return taken


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TokenEndpoint

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/metadata"):
            urls = ("authorization_endpoint", "token_endpoint", "issuer")
            self._answer(dict.fromkeys(urls, "https://login.microsoftonline.com/tenant"))
            return
        with self.server.lock:
            self.server.requests += 1
            number = self.server.requests
        time.sleep(LATENCY)
        self._answer({"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": LIFETIME})

    def _answer(self, document: dict[str, object]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Fleet:
    """Processes that ask with one library; ``round`` lets all of them do the same at once."""

    def __init__(self, python: Path, library: str, url: str, processes: int, threads: int, state: str) -> None:
        command = [str(python), str(CLIENTS), library, url, str(threads), state]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._running = [subprocess.Popen(command, **pipes) for _ in range(processes)]  # type: ignore[call-overload]
        self._lines()

    def round(self, what: str) -> float:
        """Seconds until the last one was done."""
        for each in self._running:
            each.stdin.write(f"{what}\n")
            each.stdin.flush()
        return max(map(float, self._lines()))

    def _lines(self) -> list[str]:
        return [each.stdout.readline() for each in self._running]

    def close(self) -> None:
        for each in self._running:
            each.stdin.close()
            each.wait()
            each.stdout.close()


@contextmanager
def endpoint() -> Iterator[TokenEndpoint]:
    with TokenEndpoint() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def peers_python() -> Path:
    """The interpreter of the environment that has the other libraries."""
    folder = CACHE / "peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "requests", *PEERS.values()], check=True)
        (folder / "ready").touch()
    return python


def measure(python: Path, library: str, server: TokenEndpoint, state: str) -> list[str]:
    """A row of the table."""
    row = [library.replace("_", "-")]
    with ExitStack() as closing:
        one = Fleet(python, library, server.url, 1, THREADS, state)
        closing.callback(one.close)
        server.take()
        for what in ("call", "expire"):
            seconds = one.round(what)
            row.append(f"{server.take()} in {seconds * 1000:.0f} ms")
        row.append(f"{one.round('cached') * 1e6:.1f} µs")
        server.take()
        many = Fleet(python, library, server.url, PROCESSES, THREADS_EACH, state)
        closing.callback(many.close)
        for what in ("call", "expire"):
            seconds = many.round(what)
            row.append(f"{server.take()} in {seconds * 1000:.0f} ms")
    return row


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--state", help="the ledger that Longshore's processes share; SQLite if none is given")
    given = arguments.parse_args()
    heads = [
        "token requests",
        f"{THREADS} threads, cold",
        f"{THREADS} threads, at expiry",
        "a cached token",
        f"{PROCESSES} x {THREADS_EACH}, cold",
        f"{PROCESSES} x {THREADS_EACH}, at expiry",
    ]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    with tempfile.TemporaryDirectory() as folder, endpoint() as server:
        state = given.state or f"sqlite:///{folder}/state.db"
        for library, python in {"longshore": Path(sys.executable), **dict.fromkeys(PEERS, peers_python())}.items():
            print("| " + " | ".join(measure(python, library, server, state)) + " |", flush=True)


if __name__ == "__main__":
    main()
