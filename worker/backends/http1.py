"""HTTP/1.1 as it goes over a connection (RFC 9112): a request of ``requests`` as bytes, and an answer read whole.

An answer that is not exactly one, by the letter of the RFC, is an error: what follows it on the connection would be
taken for the answer to another call.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import NamedTuple, NoReturn

import requests
from requests.cookies import RequestsCookieJar
from requests.utils import get_encoding_from_headers, requote_uri

from worker.backends.headers import Entries, Headers, entries_of
from worker.backends.unfold import BodyTooLong, unfolded, unfolding

Receive = Callable[[], bytes]
"""The next bytes of the connection; none at its end."""

_LONGEST_HEAD = 2**18
_SHORT_HEAD = 2**10
_MOST_FIELDS = 1000
_LONGEST_LINE = 2**12  # of a chunk's size
_TARGET = re.compile(r"[\x21-\x22\x24-\x7e]+")
_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n")
_FIELD = re.compile(r"^([\w!#$%&'*+.^`|~-]+):[ \t]*([^\r\n]*?)[ \t]*\r?\n", re.ASCII | re.MULTILINE)
_FOLD = re.compile(r"\r?\n[ \t]+")
_LINE_END = re.compile(rb"\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_NO_BODY = frozenset({204, 304})
_NO_TIME = timedelta(0)


class Head(NamedTuple):
    """What stands before an answer's body; ``keeps_open``: the connection may serve another call after it.

    ``length`` is the body's in bytes, where that is what it ends by; ``is_plain``: if there is one, these are the bytes
    that were meant. The headers are those of all answers with such a head: not to be changed.
    """

    status: int
    reason: str
    headers: Headers
    keeps_open: bool
    length: int | None
    is_plain: bool


class Answer(requests.Response):
    """A response whose body has been read; what few ask for is made when it is asked for."""

    def __init__(self, request: requests.PreparedRequest, head: Head) -> None:
        # Without the parent's, which takes as long as to read the answer.
        self.request, self.url = request, str(request.url)
        self.status_code, self.reason, self.headers = head.status, head.reason, head.headers
        self.history, self.raw, self.elapsed = [], None, _NO_TIME
        self._content: bytes = b""
        self._content_consumed = True
        self._next = None

    @cached_property
    def encoding(self) -> str | None:  # type: ignore[override] # read and written like the attribute that it stands for
        """What the headers say of the text's encoding."""
        return get_encoding_from_headers(self.headers)

    @cached_property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]
        """None: they are not kept."""
        return RequestsCookieJar()


def request_bytes(request: requests.PreparedRequest, *, by_proxy: bool = False) -> bytes:
    """Head and body as they are sent; to a proxy with the whole URL. Raises ``requests.exceptions.InvalidURL``."""
    host, path = _split(str(request.url))
    target = str(request.url).partition("#")[0] if by_proxy else path
    given = entries_of(request.headers)
    host = "" if "host" in given else f"Host: {host}\r\n"
    coding = "" if "accept-encoding" in given else "Accept-Encoding: gzip, deflate\r\n"
    fields = "".join([f"{name}: {value}\r\n" for name, value in given.values()])
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    length = f"Content-Length: {len(body)}\r\n" if body and "content-length" not in given else ""
    return f"{request.method} {target} HTTP/1.1\r\n{host}{coding}{fields}{length}\r\n".encode("latin-1") + body


def _split(url: str) -> tuple[str, str]:
    """Host and port as the URL names them, and what stands behind them."""
    rest = url.partition("://")[2]
    slash = rest.find("/")
    host, path = rest[:slash], rest[slash:]
    if slash < 0 or not _TARGET.fullmatch(path) or "?" in host:
        host, path = _split_thoroughly(rest)
    return host.rpartition("@")[2], path


def _split_thoroughly(rest: str) -> tuple[str, str]:
    end = min(at for at in (rest.find("/"), rest.find("?"), rest.find("#"), len(rest)) if at >= 0)
    path = requote_uri(rest[end:].partition("#")[0])
    path = path if path.startswith("/") else f"/{path}"
    if not _TARGET.fullmatch(path):
        raise requests.exceptions.InvalidURL(errno.EINVAL, "the URL has characters that cannot be sent")
    return rest[:end], path


def read_answer(request: requests.PreparedRequest, receive: Receive, most: int) -> tuple[Answer, bool]:
    """The answer, with a body of ``most`` bytes at the most, and whether the connection can be used again.

    Raises ``BodyTooLong``, and ``requests.ConnectionError`` for what is no whole answer.
    """
    first = receive()
    return _at_once(request, first, most) or _in_pieces(request, _Incoming(receive, first), most)


def _at_once(request: requests.PreparedRequest, data: bytes, most: int) -> tuple[Answer, bool] | None:
    """The answer, if that is just what the bytes are, as they mostly are."""
    end = _END.search(data)
    if not end or end.start() >= _SHORT_HEAD or request.method == "HEAD":
        return None
    head, body = _known_head(data[: end.start() + 1]), data[end.end() :]
    if not head.is_plain or head.length != len(body) or head.length > most:
        return None
    answer = Answer(request, head)
    answer._content = body
    return answer, head.keeps_open


def _in_pieces(request: requests.PreparedRequest, incoming: _Incoming, most: int) -> tuple[Answer, bool]:
    head = _last_head(incoming)
    answer, given, keeps = Answer(request, head), head.headers.entries, head.keeps_open
    if request.method != "HEAD" and head.status not in _NO_BODY:
        if head.length is not None:
            body = incoming.take(_checked(head.length, most))
        else:
            body = b"".join(_bounded(_pieces(incoming, head), most))
            keeps = keeps and "transfer-encoding" in given and "content-length" not in given
        if body and "content-encoding" in given:
            body = unfolded(body, given["content-encoding"][1], most)
        answer._content = body
    return answer, keeps and incoming.is_empty


def open_answer(request: requests.PreparedRequest, receive: Receive, close: Callable[[], None]) -> Answer:
    """The answer with its body still to be read, by ``iter_content``; ``close`` is called at its end.

    What is not a whole body raises ``requests.ConnectionError`` then.
    """
    incoming = _Incoming(receive)
    head = _last_head(incoming)
    answer = Answer(request, head)
    empty = request.method == "HEAD" or head.status in _NO_BODY
    pieces = iter(()) if empty else _pieces(incoming, head)
    answer._content, answer._content_consumed = False, False  # type: ignore[assignment] # the library's own mark
    answer.raw = _Body(unfolding(pieces, head.headers.get("Content-Encoding", "")), close)
    return answer


class _Body:
    """What ``requests.Response`` reads a body from."""

    def __init__(self, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self.close = close

    def stream(self, _size: int, decode_content: bool = True) -> Iterator[bytes]:  # noqa: ARG002 - the API's
        """The body, piece by piece."""
        try:
            yield from self._pieces
        finally:
            self.close()


def _last_head(incoming: _Incoming) -> Head:
    while True:
        data = incoming.until(_END, _LONGEST_HEAD)  # with the end of the line before it
        head = _known_head(data) if len(data) <= _SHORT_HEAD else _read_head(data)
        if head.status >= 200:
            return head
        if head.status == 101:
            _broken("switched to another protocol, unasked")


def _read_head(data: bytes) -> Head:
    text = data.decode("latin-1")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    status = _STATUS_LINE.match(text)
    if not status:
        _broken("answered something that is not HTTP/1.1")
    fields = _FIELD.findall(text, status.end())
    if len(fields) != text.count("\n") - 1:
        _broken("answered a header that is none")
    if len(fields) > _MOST_FIELDS:
        _broken("answered more headers than anybody needs")
    headers = Headers(fields)
    keeps_open = _keeps_open(status[1], headers.get("Connection"))
    code, length = int(status[2]), _length(headers.entries)
    is_plain = code >= 200 and code not in _NO_BODY and length is not None and "content-encoding" not in headers
    return Head(code, status[3] or "", headers, keeps_open, length, is_plain)


# Many backends give one of a few heads with each answer, until the second in their date has passed.
_known_head = lru_cache(maxsize=64)(_read_head)


def _keeps_open(version: str, options: str | None) -> bool:
    """RFC 9112 section 9.3."""
    if options is None:
        return version == "1"
    named = {option.strip() for option in options.lower().split(",")}
    return "close" not in named and (version == "1" or "keep-alive" in named)


def _length(given: Entries) -> int | None:
    """RFC 9112 section 6.3: one number, be it several times. None where a coding tells the end, and for no number."""
    if "transfer-encoding" in given or "content-length" not in given:
        return None
    values = {value.strip() for value in given["content-length"][1].split(",")}
    value = values.pop()
    return int(value) if not values and value.isascii() and value.isdecimal() and len(value) < 16 else None


def _checked(size: int, most: int) -> int:
    if size > most:
        raise BodyTooLong
    return size


def _pieces(incoming: _Incoming, head: Head) -> Iterator[bytes]:
    given, left = head.headers.entries, head.length
    if "transfer-encoding" in given:
        yield from _chunks(incoming, given)
    elif "content-length" not in given:
        yield from incoming.rest()
    elif left is None:
        _broken("answered with a length that is none")
    else:
        while left:
            piece = incoming.some(left)
            left -= len(piece)
            yield piece


def _bounded(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size = _checked(size + len(piece), most)
        yield piece


def _chunks(incoming: _Incoming, given: Entries) -> Iterator[bytes]:
    """RFC 9112 section 7.1; trailers are left out."""
    if given["transfer-encoding"][1].strip().lower() != "chunked":
        _broken("answered with a transfer coding that was not asked for")
    while size := incoming.chunk_size():
        while size:
            piece = incoming.some(size)
            size -= len(piece)
            yield piece
        if incoming.line().strip():
            _broken("answered with a chunk longer than it says")
    while incoming.line().strip():
        pass


class _Incoming:
    """The bytes of an answer, as they come; those up to ``_at`` are taken."""

    def __init__(self, receive: Receive, first: bytes = b"") -> None:
        self._receive = receive
        self._data = first
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)

    def chunk_size(self) -> int:
        found = _SIZE.fullmatch(self.line())
        if not found:
            _broken("answered with a chunk of no size")
        return int(found[1], 16)

    def line(self) -> bytes:
        return self.until(_LINE_END, _LONGEST_LINE)

    def until(self, end: re.Pattern[bytes], most: int) -> bytes:
        """Up to the first byte of the end, and with it; the end's other bytes are left out."""
        if not self._data:
            self._data = self._more()
        while not (found := end.search(self._data, self._at)):
            if len(self._data) - self._at > most:
                _broken("answered with lines that are too long")
            self._data, self._at = self._data[self._at :] + self._more(), 0
        before, self._at = self._data[self._at : found.start() + 1], found.end()
        return before

    def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        end = self._at + size
        if len(self._data) >= end:
            taken, self._at = self._data[self._at : end], end
            return taken
        pieces = []
        while size:
            pieces.append(self.some(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def some(self, most: int) -> bytes:
        """At least one byte, and not more than so many."""
        if self.is_empty:
            self._data, self._at = self._more(), 0
        taken = self._data[self._at : self._at + most]
        self._at += len(taken)
        return taken

    def rest(self) -> Iterator[bytes]:
        """All up to the connection's end."""
        data, self._data, self._at = self._data[self._at :], b"", 0
        while data or (data := self._receive()):
            yield data
            data = b""

    def _more(self) -> bytes:
        return self._receive() or _broken("broke off before its answer was complete")


def _broken(what: str) -> NoReturn:
    raise requests.ConnectionError(errno.EPROTO, what)
