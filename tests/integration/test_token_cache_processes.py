"""One token for several processes on one ledger: real processes, real HTTP, a real database file."""

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PROCESSES, THREADS = 4, 8
WORKER = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from worker.auth import open_credential
from worker.config import ClientCredentialsSettings
from worker.ledger import Ledger
from worker.records import Meter

url, state, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
settings = ClientCredentialsSettings(token_url=url, client_id="batch", client_secret="secret", timeout=1)
ledger = Ledger(state)
credential = open_credential("hospital", settings, ledger.tokens, owner="test")
print("ready", flush=True)
sys.stdin.readline()

def calls(_):
    until, seen = time.monotonic() + seconds, []
    while True:
        seen.append((credential.token(Meter()).access_token, time.monotonic()))
        if time.monotonic() >= until:
            return seen
        time.sleep(0.01)

with ThreadPoolExecutor(threads) as pool:
    print(json.dumps([call for calls in pool.map(calls, range(threads)) for call in calls]))
for thread in threading.enumerate():
    if thread.name == "token refresh":
        thread.join()
ledger.close()
"""


class TokenServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, expires_in, latency):
        super().__init__(("127.0.0.1", 0), Grants)
        self.expires_in = expires_in
        self.latency = latency
        self.issued = {}
        self.asked = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/token"


class Grants(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        token = f"token-{len(self.server.issued)}"
        self.server.issued[token] = time.monotonic()
        self.server.asked.set()
        time.sleep(self.server.latency)
        grant = {"access_token": token, "token_type": "Bearer", "expires_in": self.server.expires_in}
        body = json.dumps(grant).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def token_server(expires_in=300, latency=0.05):
    with TokenServer(expires_in, latency) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def worker(server, state, threads=THREADS, seconds=0.0):
    """A process that waits for ``begin``."""
    arguments = [sys.executable, "-c", WORKER, server.url, state, str(threads), str(seconds)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def begin(process):
    process.stdin.write("\n")
    process.stdin.flush()


def calls_of(process):
    return [tuple(call) for call in json.loads(process.communicate(timeout=60)[0])]


def run_together(server, state, seconds=0.0):
    with ExitStack() as stack:
        processes = [stack.enter_context(worker(server, state, seconds=seconds)) for _ in range(PROCESSES)]
        for process in processes:
            begin(process)
        return [call for process in processes for call in calls_of(process)]


@pytest.fixture
def state(tmp_path):
    return f"sqlite:///{tmp_path / 'state.db'}"


def test_processes_that_start_without_a_token_send_one_request(state):
    with token_server() as server:
        calls = run_together(server, state)
    assert len(calls) == PROCESSES * THREADS
    assert {token for token, _ in calls} == {"token-0"}
    assert len(server.issued) == 1


def test_short_lived_tokens_cost_one_request_each_and_are_never_used_expired(state):
    lifetime, seconds = 3, 7
    with token_server(expires_in=lifetime) as server:
        calls = run_together(server, state, seconds)
    assert all(used < server.issued[token] + lifetime for token, used in calls)
    earliest_refresh = 0.75 * lifetime
    assert len(server.issued) <= 1 + seconds / earliest_refresh


def test_a_leader_killed_while_it_asks_is_replaced_when_its_lease_ends(state):
    with token_server(latency=3) as server, worker(server, state, 1) as leader, worker(server, state, 1) as other:
        begin(leader)
        assert server.asked.wait(10)
        leader.kill()
        server.latency = 0
        begin(other)
        assert {token for token, _ in calls_of(other)} == {"token-1"}
    assert len(server.issued) == 2
