"""A token endpoint and a backend that speak TLS and ask their clients for certificates."""

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that gives up in the middle of a handshake is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"access_token": f"token-of-{self._client()}", "token_type": "Bearer", "expires_in": 300})

    def do_GET(self):
        self._answer({"client": self._client()})

    def _client(self):
        subject = dict(part for parts in self.request.getpeercert().get("subject", ()) for part in parts)
        self.server.names.append(subject.get("commonName", "nobody"))
        return self.server.names[-1]

    def _answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def tls_server(pair, clients_ca=None, host="127.0.0.1"):
    """Yields its address and its clients' common names; given a CA, it serves only those with its certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients_ca:
        context.load_verify_locations(clients_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with _Server((host, 0), _Handler) as server:
        server.names = []
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"https://{host}:{server.server_port}/token", server.names
        finally:
            server.shutdown()
            thread.join()
