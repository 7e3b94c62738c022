"""What the network does to a backend's answers, over real sockets on loopback."""

import gzip
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from worker.backends import open_backend
from worker.config import RestSettings
from worker.errors import Refused, ServerFault, Unavailable
from worker.records import Meter, RowKey


@contextmanager
def served(answer):
    """The address of a server whose connections are handed to ``answer`` after the request was read."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):
            """The client goes away in the middle of most answers here."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def asking(url, **settings):
    backend = open_backend(
        "billing", RestSettings(url=url, **{"retries": 0, "timeout": 0.2, **settings}), None, threads=4
    )
    try:
        yield backend.open(Meter(), threading.Event()).at(RowKey("d" * 64, 2))
    finally:
        backend.close()


def send(handler, data):
    handler.wfile.write(data)
    handler.wfile.flush()


def drip(handler, data, pause=0.05):
    for byte in data:
        send(handler, bytes([byte]))
        time.sleep(pause)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def silent(_handler):
    time.sleep(0.6)


def hung_up(handler):
    handler.close_connection = True


def cut_in_the_body(handler):
    handler.close_connection = True
    send(handler, HEAD + b'Content-Length: 100\r\n\r\n{"a": 1}')


def cut_in_a_chunk(handler):
    handler.close_connection = True
    send(handler, HEAD + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"a": 1}')


def cut_in_the_headers(handler):
    handler.close_connection = True
    send(handler, b"HTTP/1.1 200 OK\r\nContent-Ty")


def cut_between_headers_and_body(handler):
    handler.close_connection = True
    send(handler, HEAD)


def no_http(handler):
    handler.close_connection = True
    send(handler, b"220 mail.example ESMTP\r\n")


@pytest.mark.parametrize(
    "answer",
    [silent, hung_up, cut_in_the_body, cut_in_a_chunk, cut_in_the_headers, cut_between_headers_and_body, no_http],
)
def test_half_an_answer_is_no_answer(answer):
    with served(answer) as url, asking(url) as billing, pytest.raises(Unavailable):
        billing.get("/plans")


def test_nobody_at_the_address_is_unavailable_and_says_so():
    with served(silent) as url:
        pass
    with asking(url) as billing, pytest.raises(Unavailable, match="Connection refused"):
        billing.get("/plans", params={"client_id": "7"})


def dripping_body(handler):
    send(handler, HEAD + b"Content-Length: 1000\r\n\r\n")
    drip(handler, b" " * 1000)


def dripping_chunks(handler):
    send(handler, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        send(handler, b"1\r\n \r\n")
        time.sleep(0.05)


def dripping_headers(handler):
    send(handler, HEAD)
    drip(handler, b"X-Long: " + b"x" * 1000)


@pytest.mark.parametrize("answer", [dripping_body, dripping_chunks, dripping_headers])
def test_a_slow_drip_comes_to_an_end(answer, monkeypatch):
    monkeypatch.setattr("worker.backends.http._SHORTEST_ANSWER", 0.5)
    with served(answer) as url, asking(url, timeout=0.15) as billing:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            billing.get("/plans")
        assert time.monotonic() - began < 5


def endless(handler):
    send(handler, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        send(handler, b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def bomb(handler):
    folded = gzip.compress(b" " * 3 * 2**20)
    send(handler, HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(folded) + folded)


@pytest.mark.parametrize("answer", [endless, bomb])
def test_a_body_larger_than_the_limit_is_refused_also_when_it_unfolds_to_that(answer):
    with (
        served(answer) as url,
        asking(url, max_body_mib=1) as billing,
        pytest.raises(Refused, match="more than 1048576"),
    ):
        billing.get("/plans")


def says(head, body=b""):
    """An answer with that status and those headers."""

    def answer(handler):
        lines = b"".join(b"%s\r\n" % line for line in head)
        send(handler, b"HTTP/1.1 " + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    return answer


JSON = b"Content-Type: application/json"
LOG_IN = b"<!DOCTYPE html><title>Log in</title>"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (says([b"200 OK", b"Content-Type: text/html; charset=utf-8"], LOG_IN), Unavailable, "a web page"),
        (says([b"200 OK", JSON], LOG_IN), ServerFault, "broken JSON"),
        (says([b"200 OK"], LOG_IN), ServerFault, "broken JSON"),
        (says([b"200 OK", JSON], b'{"a": 1'), ServerFault, "broken JSON"),
        (says([b"200 OK", JSON], b'{"a": NaN}'), ServerFault, "broken JSON"),
        (says([b"200 OK", JSON], b'{"a": "\xff"}'), ServerFault, "broken JSON"),
        (says([b"200 OK", JSON], b"[" * 100_000), ServerFault, "broken JSON"),
        (says([b"200 OK", b"Content-Type: text/plain"], b"fine"), Refused, "answered text/plain, not JSON"),
        (says([b"200 OK", b"Content-Type: image/png"], b"\x89PNG"), Refused, "answered image/png, not JSON"),
        (says([b"302 Found", b"Location: http://127.0.0.2:9/login"]), Refused, "redirects to http://127.0.0.2:9"),
        (says([b"302 Found", b"Location: /plans"]), Refused, "redirected 5 times"),
        (says([b"302 Found"]), Refused, "a redirect that is not followed"),
        (says([b"304 Not Modified"]), Refused, "answered 304 Not Modified"),
    ],
)
def test_what_is_not_the_answer_is_an_error_that_says_what_it_is(answer, error, said):
    with served(answer) as url, asking(url, timeout=5) as billing, pytest.raises(error, match=said):
        billing.get("/plans")


def test_interim_answers_without_an_end_come_to_one(monkeypatch):
    def interim(handler):
        for _ in range(200):
            send(handler, b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(0.05)

    monkeypatch.setattr("worker.backends.http._SHORTEST_ANSWER", 0.5)
    with served(interim) as url, asking(url, timeout=0.15) as billing:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            billing.get("/plans")
        assert time.monotonic() - began < 5


def test_connections_are_kept_and_reused():
    ports = set()

    def answer(handler):
        ports.add(handler.client_address[1])
        send(handler, HEAD + b"Content-Length: 2\r\n\r\n{}")

    with served(answer) as url, asking(url) as billing:
        for _ in range(5):
            assert billing.get("/plans") == {}
    assert len(ports) == 1
