"""What the token endpoint's transport does with servers that are slow, endless, broken or elsewhere: real sockets."""

import gzip
import socket
import threading
import time

import pytest
from servers.raw import answering, raw_server

from worker.auth.transport import MAX_BODY, Request, send
from worker.errors import Unavailable

SECRET = "canary-secret"


def post(url, timeout=5):
    return send(Request("hospital", url, timeout, {"client_secret": SECRET}, {"Authorization": "Basic own"}))


@pytest.mark.parametrize(
    "respond",
    [
        answering("HTTP/1.1 200 OK\nContent-Length: 2", b"{}"),
        answering("HTTP/1.1 200 OK\nConnection: close", b"{", b"}"),
        answering("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"1\r\n{\r\n", b"1\r\n}\r\n0\r\n\r\n"),
        answering("HTTP/1.1 200 OK\nContent-Encoding: gzip\nConnection: close", gzip.compress(b"{}")),
    ],
)
def test_an_answer_is_read_whole_however_it_is_framed(respond):
    with raw_server(respond) as (url, _):
        answer = post(url)
    assert (answer.status, answer.body) == (200, b"{}")


def test_a_redirect_is_not_followed_with_the_secret():
    with (
        raw_server(answering("HTTP/1.1 200 OK\nContent-Length: 2", b"{}")) as (elsewhere, stolen),
        raw_server(answering(f"HTTP/1.1 307 Temporary\nLocation: {elsewhere}\nContent-Length: 0")) as (url, _),
    ):
        assert post(url).status == 307
        assert not stolen


def test_a_netrc_does_not_replace_the_clients_credentials(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with raw_server(answering("HTTP/1.1 200 OK\nContent-Length: 2", b"{}")) as (url, seen):
        post(url)
    assert b"Authorization: Basic own\r\n" in seen[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_secret_for_this_machine_does_not_go_by_the_proxy_of_the_environment(monkeypatch, host):
    with (
        raw_server(answering("HTTP/1.1 200 OK\nContent-Length: 2", b"{}")) as (proxy, stolen),
        raw_server(answering("HTTP/1.1 200 OK\nContent-Length: 2", b"{}")) as (url, _),
    ):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert post(url.replace("127.0.0.1", host)).body == b"{}"
        assert not stolen


@pytest.mark.parametrize(
    "respond",
    [
        answering("HTTP/1.1 200 OK\nConnection: close", b" " * (MAX_BODY + 1)),
        answering("HTTP/1.1 200 OK\nContent-Encoding: gzip\nConnection: close", gzip.compress(b" " * 10_000_000)),
    ],
)
def test_an_endless_answer_is_given_up(respond):
    with raw_server(respond) as (url, _), pytest.raises(Unavailable, match="longer than 64 KiB"):
        post(url)


def test_an_answer_that_trickles_is_given_up_in_time():
    began = time.monotonic()
    with (
        raw_server(answering("HTTP/1.1 200 OK\nConnection: close", *[b" "] * 40, pause=0.05)) as (url, _),
        pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"),
    ):
        post(url, timeout=0.3)
    assert time.monotonic() - began < 5


def test_a_server_that_says_nothing_is_given_up_in_time():
    with (
        raw_server(lambda _: time.sleep(0.5)) as (url, _),
        pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"),
    ):
        post(url, timeout=0.1)


@pytest.mark.parametrize(
    "respond",
    [
        lambda connection: None,
        lambda connection: connection.sendall(b"not HTTP at all\r\n\r\n"),
        answering("HTTP/1.1 200 OK\nContent-Length: 100", b"{"),
        answering("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\n{"),
    ],
)
def test_a_connection_that_breaks_is_unavailable(respond):
    with raw_server(respond) as (url, _), pytest.raises(Unavailable, match="cannot be reached, or broke off"):
        post(url)


def test_nobody_listening_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match=r"cannot be reached, or broke off \(Connection refused\)"):
        post(f"http://127.0.0.1:{port}/token")
    with pytest.raises(Unavailable, match=r"\(Connection refused\)"):
        try:
            raise KeyError("what the caller is handling meanwhile")
        except KeyError:
            post(f"http://127.0.0.1:{port}/token")


def test_a_server_without_tls_is_unavailable_and_the_error_holds_no_secret():
    def plain():
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=plain)
        thread.start()
        with pytest.raises(Unavailable, match="no TLS with the token endpoint") as raised:
            post(f"https://127.0.0.1:{listener.getsockname()[1]}/token")
        thread.join(10)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert "canary" not in repr((raised.value, vars(raised.value)))
