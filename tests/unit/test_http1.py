import gzip
import zlib

import pytest
import requests

from worker.backends.answers import whole
from worker.backends.http1 import read_answer, request_bytes
from worker.backends.unfold import BodyTooLong

REQUEST = requests.Request("GET", "http://backend.example/plans").prepare()
OK = b"HTTP/1.1 200 OK\r\n"
MOST = 1000


def read(*pieces, method="GET", most=MOST):
    """The answer in these pieces, behind which the connection ends; and whether it can be used again."""
    left = list(pieces)
    request = requests.Request(method, "http://backend.example/plans").prepare()
    return read_answer(request, lambda: left.pop(0) if left else b"", most)


def at(url):
    request = REQUEST.copy()
    request.url = url
    return request


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("http://a.example:81/b?c=d#e", "GET /b?c=d HTTP/1.1", "a.example:81"),
        ("http://a.example", "GET / HTTP/1.1", "a.example"),
        ("http://a.example?b=/c", "GET /?b=/c HTTP/1.1", "a.example"),
        ("http://user:canary@a.example/b", "GET /b HTTP/1.1", "a.example"),
        ("http://a.example/ř b", "GET /%C5%99%20b HTTP/1.1", "a.example"),
        ("http://a.example/b\r\nX-Forged:1", "GET /b%0D%0AX-Forged:1 HTTP/1.1", "a.example"),
    ],
)
def test_a_request_names_its_target_and_host(url, line, host):
    lines = request_bytes(at(url)).decode().split("\r\n")
    assert lines[:2] == [line, f"Host: {host}"]


def test_an_answer_may_come_byte_by_byte():
    text = OK + b"Transfer-Encoding: chunked\r\nX-A: 1\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
    answer, is_open = read(*[text[n : n + 1] for n in range(len(text))])
    assert (answer.content, answer.headers, is_open) == (b"abcde", {"Transfer-Encoding": "chunked", "X-A": "1"}, True)


def test_many_small_chunks_that_come_at_once_are_taken_one_after_the_other():
    chunks = b"".join(b"1\r\n%c\r\n" % (97 + n % 26) for n in range(900))
    answer, is_open = read(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert (answer.content[:28], len(answer.content), is_open) == (b"abcdefghijklmnopqrstuvwxyzab", 900, True)


def test_what_follows_an_answer_is_not_another_one():
    for body in (b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"):
        answer, is_open = read(OK + body + OK + body)
        assert (answer.content, is_open) == (b"{}", False)
    assert read(OK.replace(b"200", b"204") + b"\r\n{}")[1] is False


def test_a_folded_header_is_one_line():
    answer, _ = read(OK + b"X-A: 1\r\n  2\r\nContent-Length: 0\r\n\r\n")
    assert answer.headers["X-A"] == "1 2"


@pytest.mark.parametrize("body", [b"{}", b"\r\n\r\n", b"\n\n"])
@pytest.mark.parametrize("blank", [b"\n", b"\r\n"])
def test_bare_line_feeds_end_lines_too(blank, body):
    answer, is_open = read(b"HTTP/1.1 200 OK\nContent-Length: %d\n%b%b" % (len(body), blank, body))
    assert (answer.content, is_open) == (body, True)


@pytest.mark.parametrize("more", [b"", b"X-Long: " + 2000 * b"x" + b"\r\n"])
def test_what_jobs_get_of_answers_with_the_same_head_has_headers_of_its_own(more):
    answer = whole("billing", read(OK + more + b"X-A: 1\r\nContent-Length: 1\r\n\r\na")[0])
    answer.headers["X-A"] = "2"
    answer.headers.pop("Content-Length")
    other, is_open = read(OK + more + b"X-A: 1\r\nContent-Length: 1\r\n\r\nb")
    assert (other.content, other.headers["X-A"], is_open) == (b"b", "1", True)


def test_without_a_length_the_body_ends_with_the_connection():
    answer, is_open = read(OK + b"\r\nab", b"cd")
    assert (answer.content, is_open) == (b"abcd", False)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
        OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\n",
        OK + b"Content-Length: 2\r\n\r\n{}",
    ],
    ids=["HTTP/1.0", "close", "too much"],
)
def test_a_connection_is_not_used_again_after(head):
    assert read(head + b"{}")[1] is False


def test_a_connection_of_http_1_0_is_used_again_where_it_says_so():
    assert read(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}")[1] is True


def test_an_answer_to_head_has_a_length_and_no_body():
    answer, is_open = read(OK + b"Content-Length: 2\r\n\r\n", method="HEAD")
    assert (answer.content, answer.headers["Content-Length"], is_open) == (b"", "2", True)


def test_chunks_win_over_a_length_and_end_the_connection():
    answer, is_open = read(OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    assert (answer.content, is_open) == (b"{}", False)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"X-A : 1\r\n\r\n",
        OK + b"X-A Content-Length: 2\r\n\r\n{}",
        OK + b"X: 1\r\n" * 1001 + b"\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: +2\r\n\r\n{}",
        OK + b"Content-Length: 3\r\n\r\n{}",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2" + b" " * 5000,
        OK + b"X-A: " + b"x" * 300_000,
    ],
)
def test_what_is_not_exactly_an_answer_is_an_error(text):
    with pytest.raises(requests.ConnectionError) as caught:
        read(text)
    assert caught.value.strerror


def folded(body, window):
    machine = zlib.compressobj(wbits=window)
    return machine.compress(body) + machine.flush()


def coded(coding, body):
    return OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding, len(body)) + body


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", gzip.compress(b"{}")),
        (b"X-Gzip", gzip.compress(b"{") + gzip.compress(b"}")),
        (b"deflate", folded(b"{}", 15)),
        (b"deflate", folded(b"{}", -15)),
        (b"gzip, identity", gzip.compress(b"{}")),
        (b"deflate, gzip", gzip.compress(folded(b"{}", 15))),
    ],
)
def test_a_body_is_unfolded(coding, body):
    assert read(coded(coding, body))[0].content == b"{}"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"br", b"{}"),
        (b"gzip", b"{}"),
        (b"gzip", gzip.compress(b"{}")[:-3]),
        (b"deflate", b"\xff\xff"),
        (b"deflate, gzip", gzip.compress(b"")),
        (b"gzip, " * 5 + b"gzip", gzip.compress(b"{}")),
        (b"gzip", gzip.compress(b"") * 101),
    ],
    ids=["unknown", "not gzip", "cut", "not deflate", "nothing", "too many times", "too many parts"],
)
def test_a_body_that_cannot_be_unfolded_is_an_error(coding, body):
    with pytest.raises(requests.exceptions.ContentDecodingError):
        read(coded(coding, body), most=10_000)


@pytest.mark.parametrize(
    "text",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        OK + b"\r\n" + b"x" * 1001,
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 2**40 + b"x" * 1001,
        coded(b"gzip", gzip.compress(b"x" * 1001)),
        coded(b"gzip", gzip.compress(b"x" * 600) * 2),
        coded(b"gzip, gzip", gzip.compress(gzip.compress(b"x" * 10**6))),
    ],
)
def test_a_body_that_is_too_long_is_given_up(text):
    with pytest.raises(BodyTooLong):
        read(text)


def test_an_answer_is_a_response_of_requests():
    answer, _ = read(
        OK + b"Content-Type: application/json\r\nSet-Cookie: a=b\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'
    )
    assert (answer.json(), answer.text, answer.encoding, answer.ok) == ({"a": 1}, '{"a":1}', "utf-8", True)
    assert (list(answer.cookies), answer.history, answer.elapsed.seconds) == ([], [], 0)
    assert answer.headers.copy() == answer.headers
    answer.encoding = "latin-1"
    assert answer.text == '{"a":1}'
    answer.close()
