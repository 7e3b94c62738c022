"""A server that exports, and lies about it as a test wishes (HL7 FHIR Bulk Data Access IG 2.0.0)."""

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIME = "2026-11-27T02:00:00.125+01:00"


class BulkServer(ThreadingHTTPServer):
    """``polls`` are the answers to polls before the last one, ``manifest`` is that; ``files`` are bodies by path.

    An answer is a status and headers. ``seen`` has method, path and token of each request.
    """

    daemon_threads = True

    def __init__(self, host="127.0.0.1"):
        super().__init__((host, 0), _Handler)
        self.url = f"http://{host}:{self.server_port}"
        self.started = 202, {"Content-Location": "/status/1"}
        self.polls = []
        self.manifest = {}
        self.files = {}
        self.answers = {}
        self.seen = []
        self.asked = []

    def made(self, *resources, kind="output", **more):
        """Put resources into a file of the manifest."""
        type_ = resources[0]["resourceType"]
        path = f"/files/{len(self.files)}"
        self.files[path] = b"".join(json.dumps(each).encode() + b"\n" for each in resources)
        item = {"type": type_, "url": self.url + path, "count": len(resources)}
        self.manifest = {"transactionTime": TIME, "requiresAccessToken": True, "output": [], **self.manifest}
        self.manifest.setdefault(kind, []).append({**item, **more})
        return path

    def paths(self, method="GET"):
        return [path for each, path, _ in self.seen if each == method]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self._note()
        if path in self.server.answers:
            said = self.server.answers[path]
            self._say(*(said(self) if callable(said) else said))
        elif path.endswith("$export"):
            self._say(*self.server.started)
        elif path.startswith("/status"):
            self._poll()
        elif path in self.server.files:
            body = self.server.files[path]
            coded = {"Content-Encoding": "gzip"} if "gzip" in self.headers.get("Accept-Encoding", "") else {}
            kind = {"Content-Type": "application/fhir+ndjson"}
            self._say(200, {**kind, **coded}, gzip.compress(body) if coded else body)
        else:
            self._say(404, {}, b"")

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.do_GET()

    def do_DELETE(self):
        self._note()
        self._say(202, {})

    def _note(self):
        self.server.seen.append((self.command, self.path, self.headers["Authorization"]))

    def _poll(self):
        if self.server.polls:
            self._say(*self.server.polls.pop(0))
        else:
            self._say(200, {"Content-Type": "application/json"}, json.dumps(self.server.manifest).encode())

    def _say(self, status, headers, body=b"", length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def bulk_server(host="127.0.0.1"):
    server = BulkServer(host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
