"""What is asked of a transport, held by the one that calls are sent by and by the adapter that comes with requests."""

import gzip
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest
import requests
from certificates import Authority
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from worker.backends.transport import CurlAdapter, CutOff, UnderWay
from worker.backends.unfold import BodyTooLong

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Last(bytes):
    """An answer after which the server hangs up without having said so."""


@dataclass
class Tunnel:
    """What a proxy does at CONNECT."""

    port: int

    def dig(self, near):
        near.sendall(b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.port)) as far:
            threading.Thread(target=self._copy, args=(far, near), daemon=True).start()
            self._copy(near, far)

    def _copy(self, source, target):
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


@dataclass
class Seen:
    """One request as it came in, and the port that it came from."""

    line: str
    headers: dict
    body: bytes
    port: int


@dataclass
class Server:
    """Answers with what ``answer`` is or makes of a request: bytes, pieces of them, a tunnel; None hangs up."""

    answer: object
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    look: object = lambda stream: None
    seen: list = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    def __enter__(self):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.listener = socket.create_server((self.host, 0), family=family)
        self.port = self.listener.getsockname()[1]
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'https' if self.tls else 'http'}://{name}:{self.port}/plans"
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _listen(self):
        with suppress(OSError):
            while True:
                connection, address = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection, address[1]), daemon=True).start()

    def _serve(self, connection, port):
        with connection, suppress(OSError):
            connection.settimeout(5)
            with self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as stream:
                self.look(stream)
                while seen := _request(stream, port):
                    self.seen.append(seen)
                    said = self.answer(seen) if callable(self.answer) else self.answer
                    if isinstance(said, Tunnel):
                        return said.dig(stream)
                    for piece in [said] if isinstance(said, bytes) else said or ():
                        stream.sendall(piece)
                    if said is None or isinstance(said, Last):
                        return None
                self.hung_up.set()
        return None


def _request(stream, port):
    received = b""
    while b"\r\n\r\n" not in received:
        if not (piece := stream.recv(65536)):
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += stream.recv(65536)
    return Seen(line, headers, body, port)


@pytest.fixture
def serve():
    with ExitStack() as stack:
        yield lambda answer=OK, **how: stack.enter_context(Server(answer, **how))


@pytest.fixture(params=["libcurl", "urllib3"])
def transport(request):
    made = CurlAdapter(30, 2**20) if request.param == "libcurl" else HTTPAdapter()
    yield made
    made.close()


@pytest.fixture
def curl():
    made = CurlAdapter(2, 2**20)
    yield made
    made.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def ask(transport, url, method="GET", data=None, headers=None, **how):
    prepared = requests.Request(method, url, headers, data=data).prepare()
    response = transport.send(prepared, **{"timeout": 5, **how})
    assert response.content is not None
    return response


def tls(authority, name="server", days=1, client_ca=None):
    pair = authority.pair(name, days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def test_an_answer_is_what_requests_makes_of_it(transport, serve):
    head = b"HTTP/1.1 200 All Right\r\nContent-Type: text/csv; charset=latin-1\r\nX-Two: 1\r\nx-two: 2\r\n"
    server = serve(head + b"Content-Length: 5\r\nX-Name: Nov\xe1k\r\nX-None:\r\n\r\nNov\xe1k")
    response = ask(transport, server.url)
    assert (response.status_code, response.reason, response.url) == (200, "All Right", server.url)
    assert (response.text, response.headers["x-name"], response.headers["X-TWO"]) == ("Novák", "Novák", "1, 2")
    assert response.headers["X-None"] == ""
    assert b"".join(response.iter_content(2)) == b"Nov\xe1k"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("before", ["GET", "HEAD", "POST"])
def test_every_method_is_sent_as_it_is_on_a_connection_that_was_used_for_another(transport, serve, before, method):
    server = serve(lambda seen: OK[:-2] if seen.line.startswith("HEAD") else OK)
    for each in (before, method):
        body = b'{"a": "\x00"}' if each in ("POST", "PUT", "PATCH") else None
        ask(transport, server.url, each, body)
        seen = server.seen[-1]
        assert (seen.line, seen.body) == (f"{each} /plans HTTP/1.1", body or b"")
        assert "content-type" not in seen.headers
        assert seen.headers.get("content-length", "0") == str(len(body or b""))
    assert server.seen[0].port == server.seen[1].port


def test_a_post_without_a_body_says_so(transport, serve):
    server = serve()
    ask(transport, server.url, "POST")
    assert server.seen[0].headers["content-length"] == "0"


def test_headers_are_sent_as_they_are_also_empty_and_not_ascii(transport, serve):
    server = serve()
    ask(transport, server.url, headers={"X-Name": "Novák", "X-None": "", "Accept": "a/b"})
    headers = server.seen[0].headers
    assert (headers["x-name"], headers["x-none"], headers["accept"]) == ("Novák", "", "a/b")


def test_headers_of_one_request_are_not_those_of_the_next(transport, serve):
    server = serve()
    ask(transport, server.url, headers={"Authorization": "Bearer a", "X-Once": "1"})
    ask(transport, server.url, headers={"Authorization": "Bearer b"})
    assert server.seen[1].headers["authorization"] == "Bearer b"
    assert "x-once" not in server.seen[1].headers


def test_a_path_is_sent_as_it_stands(transport, serve):
    server = serve()
    ask(transport, server.url + "/a%2Fb;v=1//c?q=%20+%C5%99&empty=")
    assert server.seen[0].line == "GET /plans/a%2Fb;v=1//c?q=%20+%C5%99&empty= HTTP/1.1"


def test_a_large_body_waits_for_no_invitation(transport, serve):
    server = serve()
    began = time.monotonic()
    ask(transport, server.url, "POST", b"x" * 3 * 2**20)
    assert len(server.seen[0].body) == 3 * 2**20
    assert "expect" not in server.seen[0].headers
    assert time.monotonic() - began < 0.9


def test_a_body_may_be_gzipped_or_chunked_or_both(transport, serve):
    folded = gzip.compress(b'{"a": 1}')
    chunked = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (folded[:7], folded[7:]))
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(folded) + folded,
        chunked + chunks + b"0\r\nX-Trailer: 1\r\n\r\n",
    ]
    server = serve(lambda _: answers.pop(0))
    for _ in range(2):
        response = ask(transport, server.url)
        assert response.json() == {"a": 1}
        assert "X-Trailer" not in response.headers
    assert server.seen[0].port == server.seen[1].port


@pytest.mark.parametrize("status", [b"204 No Content\r\n", b"304 Not Modified\r\nContent-Length: 99\r\n"])
def test_an_answer_that_has_no_body_is_not_waited_for(transport, serve, status):
    server = serve(b"HTTP/1.1 " + status + b"\r\n")
    for _ in range(2):
        assert ask(transport, server.url).content == b""
    assert server.seen[0].port == server.seen[1].port


def test_interim_answers_are_passed_over(transport, serve):
    server = serve(b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n" + OK)
    response = ask(transport, server.url, "POST", b"{}")
    assert (response.status_code, response.reason, response.content) == (200, "OK", b"{}")
    assert "X-Interim" not in response.headers


def test_a_redirect_is_left_to_the_caller(transport, serve):
    server = serve(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")
    assert ask(transport, server.url).headers["Location"] == "/other"
    assert len(server.seen) == 1


def test_a_connection_that_was_closed_after_an_answer_is_replaced(transport, serve):
    server = serve(Last(OK))
    for _ in range(3):
        assert ask(transport, server.url).content == b"{}"
        time.sleep(0.05)
    assert len({seen.port for seen in server.seen}) == 3


def test_a_connection_that_is_closed_at_the_next_request_is_an_error_and_replaced(transport, serve):
    """What the request has done is not known: whether it is sent again is for those above to say."""
    server = serve(lambda seen: OK if [one.port for one in server.seen].count(seen.port) == 1 else None)
    for _ in range(3):
        assert ask(transport, server.url, "POST", b"{}").content == b"{}"
        with pytest.raises(requests.ConnectionError):
            ask(transport, server.url, "POST", b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 400_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"".join([b"HTTP/1.1 200 OK\r\n", *[b"X-Many: %01000d\r\n" % n for n in range(400)], b"\r\n"]),
        b"220 mail.example ESMTP\r\n",
        b"",
    ],
    ids=["cut", "cut chunk", "not gzip", "long header", "many headers", "no http", "nothing"],
)
def test_what_is_no_whole_answer_is_an_error_of_requests(transport, serve, answer):
    server = serve(Last(answer))
    with pytest.raises(requests.RequestException):
        ask(transport, server.url)
    server.answer = OK
    time.sleep(0.05)
    assert ask(transport, server.url).content == b"{}"


def test_only_the_announced_part_of_a_body_is_taken(transport, serve):
    server = serve(Last(OK + b"more"))
    assert ask(transport, server.url).content == b"{}"


def test_a_body_that_is_or_unfolds_to_more_than_it_may_is_given_up(curl, serve):
    folded = gzip.compress(b" " * (2**20 + 1))
    for body, coding in ((b" " * (2**20 + 1), b"identity"), (folded, b"gzip")):
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
        with pytest.raises(BodyTooLong):
            ask(curl, serve(head + body).url)
    assert (
        len(ask(curl, serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**20 + b" " * 2**20).url).content)
        == 2**20
    )


def test_nobody_at_the_address_is_a_connection_error(transport):
    with Server(OK) as server:
        pass
    with pytest.raises(requests.ConnectionError):
        ask(transport, server.url)


def test_an_unknown_host_is_a_connection_error(transport):
    with pytest.raises(requests.ConnectionError):
        ask(transport, "http://nowhere.invalid/")


def test_a_silent_server_is_a_read_timeout(transport, serve):
    server = serve(lambda seen: time.sleep(2.5))
    with pytest.raises(requests.ReadTimeout):
        ask(transport, server.url, timeout=1)


def test_a_server_that_accepts_nobody_is_a_connect_timeout(transport):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        time.sleep(0.05)
        with pytest.raises(requests.ConnectTimeout):
            ask(transport, f"http://127.0.0.1:{full.getsockname()[1]}/", timeout=0.2)


def test_an_answer_that_drips_without_end_is_given_up_in_time(curl, serve):
    def drip(_):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        for _ in range(50):
            time.sleep(0.1)
            yield b"x"

    server = serve(drip)
    began = time.monotonic()
    with pytest.raises(requests.ReadTimeout):
        ask(curl, server.url)
    assert time.monotonic() - began < 3


def test_threads_get_their_own_answers_and_as_many_connections_as_they_need(transport, serve):
    def echo(seen):
        body = seen.line.split()[1].encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    server = serve(echo)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: ask(transport, f"{server.url}/{n}").content, range(200)))
    assert answers == [b"/plans/%d" % n for n in range(200)]
    assert len({seen.port for seen in server.seen}) <= 10


def test_closing_lets_an_answer_under_way_come_and_then_hangs_up(curl, serve):
    asked, closed = threading.Event(), threading.Event()
    server = serve(lambda seen: asked.set() or (closed.wait(5) and OK))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, curl, server.url)
        asked.wait(5)
        curl.close()
        closed.set()
        assert answer.result(5).content == b"{}"
    assert server.hung_up.wait(5)


@pytest.mark.parametrize("secure", [False, True])
def test_calls_that_are_cut_off_end_and_no_further_one_begins(serve, authority, secure):
    """One waits for its answer, on a connection that was used before, and two are in the middle of it."""
    release = threading.Event()

    def answer(seen):
        if "/first" in seen.line:
            return OK
        return wait(*([] if "/silent" in seen.line else [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"]))

    def wait(*pieces):
        yield from pieces
        release.wait(5)

    server = serve(answer, tls=tls(authority) if secure else None)
    under_way = UnderWay()
    transport = CurlAdapter(30, 2**20, under_way)
    how = {"verify": str(authority.ca_file), "timeout": 30}
    ask(transport, server.url + "/first", **how)
    ended = []

    def call(path):
        with pytest.raises(CutOff):
            ask(transport, server.url + path, **how)
        ended.append(path)

    paths = ["/silent", "/drips", "/drips"]
    threads = [threading.Thread(target=call, args=(path,), daemon=True) for path in paths]
    for number, thread in enumerate(threads):
        thread.start()
        while len(server.seen) < number + 2:
            time.sleep(0.01)
    under_way.cut_off()
    for thread in threads:
        thread.join(4)
    call("/first")
    assert sorted(ended) == ["/drips", "/drips", "/first", "/silent"]
    assert len(server.seen) == 4
    release.set()
    transport.close()


def test_what_a_server_says_unasked_is_nobodys_answer(curl, serve):
    server = serve(lambda _: [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"])
    for _ in range(3):
        assert ask(curl, server.url).content == b"{}"
        time.sleep(0.05)
    assert len({seen.port for seen in server.seen}) == 3


def test_so_is_what_comes_just_before_the_next_call(curl, serve):
    said = threading.Event()

    def twice(_):
        said.clear()
        yield OK
        time.sleep(0.002)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
        said.set()

    server = serve(twice)
    for _ in range(5):
        assert ask(curl, server.url).content == b"{}"
        said.wait(5)
    assert len({seen.port for seen in server.seen}) == 5


def test_so_is_what_came_in_one_piece_with_an_answer_that_was_read_without_it(curl, serve, authority):
    """TLS keeps the rest of a piece to itself, and the socket looks empty."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4055\r\n\r\n"
    answer = head + b"x" * 4055
    server = serve(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother", tls=tls(authority))
    assert len(answer) == 2**12, "as much as is asked for at first"
    for _ in range(3):
        assert len(ask(curl, server.url, verify=str(authority.ca_file)).content) == 4055


def test_an_answer_that_comes_before_the_body_was_taken_is_heard(curl):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        def refuse():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
                time.sleep(1)

        threading.Thread(target=refuse, daemon=True).start()
        assert ask(curl, url, "POST", b"x" * 2**25, timeout=0.3).status_code == 413


def test_a_silence_is_noticed_in_time_and_costs_the_next_call_nothing(curl, serve):
    def pause(seen):
        yield OK[:-1]
        time.sleep(0.9 if seen.line.startswith("GET /plans/long") else 0.2)
        yield OK[-1:]

    server = serve(pause)
    assert ask(curl, server.url, timeout=0.5).content == b"{}"
    with pytest.raises(requests.ReadTimeout):
        ask(curl, f"{server.url}/long", timeout=0.5)
    assert ask(curl, server.url, timeout=0.5).content == b"{}"


def test_cookies_are_not_sent_back(transport, serve):
    server = serve(OK.replace(b"\r\n", b"\r\nSet-Cookie: session=1\r\n", 1))
    for _ in range(2):
        ask(transport, server.url)
    assert "cookie" not in server.seen[1].headers


def test_the_environment_is_not_looked_at(transport, serve, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("default login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = serve()
    assert ask(transport, server.url).content == b"{}"
    assert "authorization" not in server.seen[0].headers


def test_a_request_goes_by_the_given_proxy_whatever_the_environment_says(transport, serve, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    proxy = serve()
    assert (
        ask(transport, "http://backend.invalid/plans", proxies={"http": f"http://a:b@127.0.0.1:{proxy.port}"}).content
        == b"{}"
    )
    assert proxy.seen[0].line == "GET http://backend.invalid/plans HTTP/1.1"
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic YTpi"


def test_a_proxy_before_tls_sees_neither_token_nor_path(transport, serve, authority):
    server = serve(tls=tls(authority))
    proxy = serve(lambda seen: Tunnel(server.port))
    headers = {"Authorization": "Bearer canary"}
    how = {"proxies": {"https": f"http://127.0.0.1:{proxy.port}"}, "verify": str(authority.ca_file)}
    response = ask(transport, server.url, headers=headers, **how)
    assert (response.status_code, response.reason, response.content) == (200, "OK", b"{}")
    assert "X-Proxy" not in response.headers
    assert proxy.seen[0].line.startswith(f"CONNECT 127.0.0.1:{server.port} ")
    assert "authorization" not in proxy.seen[0].headers
    assert server.seen[0].headers["authorization"] == "Bearer canary"


def test_a_server_is_trusted_by_the_given_authority_only(transport, serve, authority):
    server = serve(tls=tls(authority))
    assert ask(transport, server.url, verify=str(authority.ca_file)).content == b"{}"
    for verify in (True, DEFAULT_CA_BUNDLE_PATH):
        with pytest.raises(requests.exceptions.SSLError):
            ask(transport, server.url, verify=verify)
    assert len(server.seen) == 1


@pytest.mark.parametrize(("host", "days"), [("127.0.0.2", 1), ("127.0.0.1", -0.01)], ids=["wrong host", "expired"])
def test_a_certificate_for_another_host_or_time_is_refused(transport, serve, authority, host, days):
    server = serve(host=host, tls=tls(authority, days=days))
    with pytest.raises(requests.exceptions.SSLError):
        ask(transport, server.url, verify=str(authority.ca_file))
    assert not server.seen


def test_over_tls_bodies_are_large_a_rest_is_no_end_and_a_silence_is_noticed(transport, serve, authority):
    large = b"x" * 2**20

    def answer(seen):
        if seen.line.startswith("GET /plans/silent"):
            time.sleep(1)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(seen.body) + seen.body

    server = serve(answer, tls=tls(authority))
    how = {"verify": str(authority.ca_file), "timeout": 0.5}
    for _ in range(3):
        assert ask(transport, server.url, "POST", large, **how).content == large
        time.sleep(0.05)
    assert len({seen.port for seen in server.seen}) == 1
    with pytest.raises(requests.ReadTimeout):
        ask(transport, f"{server.url}/silent", **how)
    assert ask(transport, server.url, "POST", b"{}", **how).content == b"{}"


def test_a_client_shows_its_certificate(transport, serve, authority):
    server = serve(tls=tls(authority, client_ca=authority.ca_file))
    own = authority.pair("client")
    with pytest.raises(requests.RequestException):
        ask(transport, server.url, verify=str(authority.ca_file))
    how = {"verify": str(authority.ca_file), "cert": (str(own.certificate), str(own.key))}
    assert ask(transport, server.url, **how).content == b"{}"


def test_a_certificate_that_was_shown_once_is_not_shown_to_a_call_without_one(transport, serve, authority):
    context = tls(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(authority.ca_file)
    shown = []
    server = serve(Last(OK), tls=context, look=lambda stream: shown.append(bool(stream.getpeercert())))
    own = authority.pair("client")
    for cert in ((str(own.certificate), str(own.key)), None):
        ask(transport, server.url, verify=str(authority.ca_file), cert=cert)
    assert shown == [True, False]


def test_a_proxy_that_lets_nobody_through_is_an_error_that_holds_no_password(transport, serve, authority):
    server = serve(tls=tls(authority))
    proxy = serve(Last(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"))
    how = {"proxies": {"https": f"http://batch:canary@127.0.0.1:{proxy.port}"}, "verify": str(authority.ca_file)}
    with pytest.raises(requests.ConnectionError) as caught:
        ask(transport, server.url, **how)
    assert "canary" not in str(caught.value)
    assert not server.seen


def test_a_proxy_that_is_not_there_is_a_connection_error(transport):
    with Server(OK) as proxy:
        pass
    with pytest.raises(requests.ConnectionError):
        ask(transport, "http://backend.invalid/plans", proxies={"http": f"http://127.0.0.1:{proxy.port}"})


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_it_is_told_that_it_was_the_proxy_that_could_not_be_reached(curl, scheme):
    with Server(OK) as proxy:
        pass
    with pytest.raises(requests.exceptions.ProxyError) as caught:
        ask(curl, f"{scheme}://backend.invalid/plans", proxies={scheme: f"http://a:b@127.0.0.1:{proxy.port}"})
    assert caught.value.strerror == "Connection refused at the proxy (see proxy, HTTPS_PROXY)"


def test_an_address_may_be_of_ipv6(transport):
    try:
        server = Server(OK, host="::1").__enter__()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        assert ask(transport, server.url).content == b"{}"


FORKED = """
import os, sys, requests
from worker.backends.transport import CurlAdapter
transport, request = CurlAdapter(5, 100), requests.Request("GET", sys.argv[1]).prepare()
transport.send(request)
if not os.fork():
    os._exit(transport.send(request).status_code != 200)
_, status = os.wait()
transport.send(request)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_fork_leaves_its_parents_connection_alone(serve):
    server = serve()
    assert subprocess.run([sys.executable, "-c", FORKED, server.url], timeout=10).returncode == 0
    parents, childs, again = (seen.port for seen in server.seen)
    assert parents == again != childs


INTERRUPTED = """
import signal, sys, requests
from requests.adapters import HTTPAdapter
from worker.backends.transport import CurlAdapter
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests were started in the background
transport = CurlAdapter(20, 100) if sys.argv[1] == "CurlAdapter" else HTTPAdapter()
try:
    transport.send(requests.Request("GET", sys.argv[2]).prepare(), timeout=20)
except KeyboardInterrupt:
    sys.exit(7)
"""


def test_ctrl_c_ends_a_call_of_the_main_thread(transport, serve):
    asked = threading.Event()
    server = serve(lambda seen: asked.set() or time.sleep(4))
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, type(transport).__name__, server.url], stderr=subprocess.PIPE
    ) as process:
        assert asked.wait(10)
        process.send_signal(signal.SIGINT)
        assert process.wait(3) == 7


FOLDED = gzip.compress(b"x" * 10**6) + gzip.compress(b"y")


@pytest.mark.parametrize(
    ("head", "body", "whole"),
    [
        (b"Content-Length: 3\r\n", b"abc", b"abc"),
        (b"", b"abc", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"Content-Encoding: gzip\r\n", FOLDED, b"x" * 10**6 + b"y"),
        (b"Content-Length: 0\r\n", b"", b""),
    ],
    ids=["length", "to the end", "chunked", "gzip in two parts", "empty"],
)
def test_a_body_may_be_read_as_it_comes(transport, serve, head, body, whole):
    server = serve(lambda _: Last(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body))
    with ask_streamed(transport, server.url) as response:
        assert response.status_code == 200
        pieces = list(response.iter_content(2**16))
    assert b"".join(pieces) == whole
    assert max(map(len, pieces), default=0) <= 2**16


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + FOLDED[:-5],
    ],
    ids=["cut", "cut chunk", "not gzip", "cut gzip"],
)
def test_a_body_that_is_not_whole_is_an_error_where_it_breaks_off(curl, serve, answer):
    with (
        ask_streamed(curl, serve(Last(answer)).url) as response,
        pytest.raises(requests.RequestException),
    ):
        list(response.iter_content(2**16))


def test_a_body_that_is_read_as_it_comes_may_be_longer_than_one_that_is_read_whole(curl, serve):
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * 2**20), *[b" " * 2**20] * 4]
    with ask_streamed(curl, serve(lambda _: pieces).url) as response:
        assert sum(map(len, response.iter_content(2**16))) == 4 * 2**20


def test_a_body_that_drips_is_given_up(serve):
    def drip(_):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        while True:
            time.sleep(0.05)
            yield b" "

    transport = CurlAdapter(0.5, 2**20)
    with ask_streamed(transport, serve(drip).url) as response, pytest.raises(requests.ReadTimeout):
        list(response.iter_content(2**16))
    transport.close()


def test_a_body_that_is_left_half_read_ends_its_connection(curl, serve):
    ended = threading.Event()

    def endless(_):
        try:
            yield b"HTTP/1.1 200 OK\r\n\r\n"
            while True:
                yield b" " * 10**5
        finally:
            ended.set()

    with ask_streamed(curl, serve(endless).url) as response:
        next(response.iter_content(2**16))
    assert ended.wait(5)


def test_a_body_that_is_read_as_it_comes_is_cut_off_like_any_call(serve):
    def silent(_):
        yield b"HTTP/1.1 200 OK\r\n\r\n "
        time.sleep(5)

    under_way = UnderWay()
    transport = CurlAdapter(30, 2**20, under_way)
    with ask_streamed(transport, serve(silent).url) as response:
        threading.Timer(0.2, under_way.cut_off).start()
        assert list(response.iter_content(2**16)) == [b" "]  # as a body that ends with its connection does
    transport.close()


def ask_streamed(transport, url):
    return transport.send(requests.Request("GET", url).prepare(), stream=True, timeout=5)
