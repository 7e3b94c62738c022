"""A backend that takes orders, slowly, and remembers every request: what a worker that is killed must not repeat."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class OrderServer:
    """POST /orders answers with the order's number, the same for the same ``Idempotency-Key``."""

    def __init__(self, *, delay: float, port: int = 0) -> None:
        self.orders: dict[str, str] = {}  # Idempotency-Key -> the client's number in the request
        self.times_sent: Counter[str] = Counter()
        self.first_order = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler(delay))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, key: str, client: str) -> str:
        with self._lock:
            self.times_sent[key] += 1
            assert self.orders.setdefault(key, client) == client, "one key for two rows"
            self.first_order.set()
        return f"order of {client}"

    def _handler(self, delay: float) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps({"order": server.take(self.headers["Idempotency-Key"], body["client"])}).encode()
                time.sleep(delay)
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, json.JSONDecodeError):
                    self.close_connection = True  # the worker was killed in mid-request

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
