"""An OAuth server and a backend that put a canary into everything they send, and remember every proof they saw."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

TOKEN = "tok1-canary-token-0123456789-canary-end1"
NAME = "Canarybird"


class CanaryServer(ThreadingHTTPServer):
    """``/token`` gives a token after a first 503; ``/people/STATUS/...`` answers with that status."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proofs = set()
        self.asked = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        proof = self.headers.get("Authorization", "").removeprefix("Basic ") or form["client_assertion"][0]
        self.server.proofs.add(proof)
        if proof == "wrong" or not self._seen(f"token {form.get('scope')}"):
            self._answer(503, {"error": "temporarily_unavailable", "error_description": f"canary {proof}"})
            return
        self._answer(200, {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 300})

    def do_GET(self):
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        status = int(self.path.split("/")[2]) if self.path.startswith("/people/") else 404
        if status == 401 and self._seen(self.path):
            status = 200
        message = {"message": f"no {NAME}", "error": f"{NAME} is unknown", "detail": f"canary {TOKEN}"}
        self._answer(status, {"person": {"name": NAME}} if status == 200 else message)

    def _seen(self, what):
        seen = what in self.server.asked
        self.server.asked.add(what)
        return seen

    def _answer(self, status, document):
        content = json.dumps(document).encode()
        self.send_response(status, f"canary {NAME}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Canary", NAME)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
