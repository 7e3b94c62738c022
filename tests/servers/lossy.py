"""A way to a server on which the answer to a write is lost, once: the write was done, and nobody was told."""

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_BY_THE_WAY = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@contextlib.contextmanager
def lossy(base, then=lambda: None):
    """The address, below a relay, that stands for ``base``; the answer to the first POST does not come through.

    ``then`` is called when the server has given it, before the connection is closed.
    """
    url = urlsplit(base)
    lost = threading.Event()

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # a connection serves several requests, so that one of them may be its last

        def do_GET(self):
            self._relay()

        def do_POST(self):
            self._relay()

        def _relay(self):
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
            with contextlib.closing(server):
                server.request(self.command, self.path, sent, _passed_on(self.headers))
                answer = server.getresponse()
                body = answer.read()
            if self.command == "POST" and not lost.is_set():
                lost.set()
                then()
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {**_passed_on(answer.headers), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # it waits for them when it is closed

    with Server(("127.0.0.1", 0), Relay) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{relay.server_port}{url.path}"
        finally:
            relay.shutdown()
            thread.join()


def _passed_on(headers):
    return {name: value for name, value in headers.items() if name.lower() not in _BY_THE_WAY}
