"""HTTP by libcurl under the API of ``requests``: the interpreter is free from a request until its answer is there.

A handle of libcurl's serves one thread at a time and keeps one connection; whoever sends takes an idle one.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pycurl
import requests
from requests.adapters import BaseAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_encoding_from_headers, select_proxy

Timeout = None | float | tuple[float | None, float | None]
Certificate = None | bytes | str | tuple[bytes | str, bytes | str]

_ALWAYS = (
    (pycurl.NOSIGNAL, 1),
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),  # a handle's connection has one request at a time
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
    (pycurl.ACCEPT_ENCODING, "gzip, deflate"),
    (pycurl.NOPROXY, ""),  # else libcurl looks into the environment by itself
    (pycurl.HEADEROPT, pycurl.HEADER_SEPARATE),  # the proxy before a TLS server gets no token
    (pycurl.PATH_AS_IS, 1),
    (pycurl.MAXCONNECTS, 1),
    (pycurl.LOW_SPEED_LIMIT, 1),
    # Python's signal handlers run on the main thread, in between its own instructions: this gives it some every second.
    (pycurl.XFERINFOFUNCTION, lambda *_: 0),
)
_ERRORS = {
    pycurl.E_SSL_CONNECT_ERROR: requests.exceptions.SSLError,
    pycurl.E_PEER_FAILED_VERIFICATION: requests.exceptions.SSLError,
    pycurl.E_SSL_CACERT_BADFILE: requests.exceptions.SSLError,
    pycurl.E_SSL_CERTPROBLEM: requests.exceptions.SSLError,
    pycurl.E_COULDNT_RESOLVE_PROXY: requests.exceptions.ProxyError,
    pycurl.E_BAD_CONTENT_ENCODING: requests.exceptions.ContentDecodingError,
}


class BodyTooLong(requests.RequestException):
    """The answer's body, unfolded, is longer than it may be."""


class CurlAdapter(BaseAdapter):
    """A transport for ``requests`` that reads its answers whole.

    An answer has to be complete ``seconds`` after its request; one whose body, unfolded, has more than ``max_body``
    bytes is given up with ``BodyTooLong``. What else goes wrong is the exception that ``requests`` has for it, its
    ``strerror`` a sentence. TLS is always verified, nothing is taken from the environment, no cookies are kept, and
    redirects are the caller's.
    """

    def __init__(self, seconds: float, max_body: int) -> None:
        super().__init__()
        self._seconds = seconds
        self._max_body = max_body
        self._idle: list[_Handle] = []
        self._closed = False
        self._process = os.getpid()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 - the API's
        timeout: Timeout = None,
        verify: bool | str = True,
        cert: Certificate = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer; ``timeout`` is for connecting and for a silence, which is told in whole seconds."""
        proxy = (select_proxy(str(request.url), dict(proxies)) or "") if proxies else ""
        way = _Way(timeout, verify, cert, proxy)
        handle = self._take(way)
        try:
            handle.configure(way)
            response = handle.exchange(request)
        except BaseException:
            handle.close()
            raise
        self._give_back(handle)
        return response

    def close(self) -> None:
        """Close the connections; those in use, when they are done."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take(self, way: _Way) -> _Handle:
        if self._process != os.getpid():
            # We are a fork. The connections are the parent's: not to be used here, nor closed, which would end its TLS.
            self._parents, self._idle, self._process = self._idle, [], os.getpid()
        try:
            handle = self._idle.pop()  # the last one used, so that those too many grow old and are closed by the server
        except IndexError:
            return _Handle(self._seconds, self._max_body)
        if handle.shows_another_certificate(way):
            handle.close()
            return _Handle(self._seconds, self._max_body)
        return handle

    def _give_back(self, handle: _Handle) -> None:
        self._idle.append(handle)
        if self._closed:
            self.close()


class _Way(NamedTuple):
    """How a server is reached; the same for all requests to one backend."""

    timeout: Timeout
    verify: bool | str
    cert: Certificate
    proxy: str


class _Handle:
    """One of libcurl's easy handles with its connection, and the answer that is coming in on it."""

    def __init__(self, seconds: float, max_body: int) -> None:
        self._max_body = max_body
        self._way: _Way | None = None
        self._verb = ("GET", False)
        self._fields: list[bytes] = []
        self._size = 0
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._curl = pycurl.Curl()
        for option, value in _ALWAYS:
            self._curl.setopt(option, value)
        self._curl.setopt(pycurl.TIMEOUT_MS, _milliseconds(seconds))
        self._curl.setopt(pycurl.HEADERFUNCTION, self._head.append)
        self._curl.setopt(pycurl.WRITEFUNCTION, self._write)

    def close(self) -> None:
        self._curl.close()

    def shows_another_certificate(self, way: _Way) -> bool:
        """A handle cannot be told to forget one."""
        return self._way is not None and self._way.cert not in (None, way.cert)

    def configure(self, way: _Way) -> None:
        if way == self._way:
            return
        self._way = way
        connecting, silence = way.timeout if isinstance(way.timeout, tuple) else (way.timeout, way.timeout)
        self._curl.setopt(pycurl.CONNECTTIMEOUT_MS, _milliseconds(connecting))
        self._curl.setopt(pycurl.LOW_SPEED_TIME, math.ceil(silence or 0))
        self._curl.setopt(pycurl.PROXY, way.proxy)
        authorities = way.verify if isinstance(way.verify, str) else DEFAULT_CA_BUNDLE_PATH
        self._curl.unsetopt(pycurl.CAINFO)
        self._curl.unsetopt(pycurl.CAPATH)
        self._curl.setopt(pycurl.CAPATH if Path(authorities).is_dir() else pycurl.CAINFO, authorities)
        if way.cert:
            certificate, key = way.cert if isinstance(way.cert, tuple) else (way.cert, way.cert)
            self._curl.setopt(pycurl.SSLCERT, certificate)
            self._curl.setopt(pycurl.SSLKEY, key)

    def exchange(self, request: requests.PreparedRequest) -> requests.Response:
        self._ask(request)
        self._size = 0
        self._head.clear()
        self._body.clear()
        try:
            self._curl.perform()
        except pycurl.error as error:
            raise self._translated(*error.args) from error
        return self._answer(request)

    def _ask(self, request: requests.PreparedRequest) -> None:
        curl, body = self._curl, request.body
        curl.setopt(pycurl.NOPROGRESS, threading.current_thread() is not threading.main_thread())
        curl.setopt(pycurl.URL, request.url)
        verb = str(request.method), body is not None
        if verb != self._verb:
            self._verb = verb
            curl.setopt(pycurl.NOBODY, request.method == "HEAD")
            if request.method != "HEAD":
                curl.setopt(pycurl.HTTPGET if body is None else pycurl.POST, 1)
            curl.setopt(pycurl.CUSTOMREQUEST, request.method)
        if body is not None:
            curl.setopt(pycurl.POSTFIELDS, body)
        fields = [b"Expect:", *(_field(name, value) for name, value in request.headers.items())]
        if body is not None and "Content-Type" not in request.headers:
            fields.append(b"Content-Type:")
        if fields != self._fields:
            self._fields = fields
            curl.setopt(pycurl.HTTPHEADER, fields)

    def _write(self, piece: bytes) -> int:
        self._size += len(piece)
        if self._size > self._max_body:
            return 0  # less than was given: libcurl hangs up
        self._body.append(piece)
        return len(piece)

    def _answer(self, request: requests.PreparedRequest) -> requests.Response:
        response = requests.Response()
        response.status_code = self._curl.getinfo(pycurl.RESPONSE_CODE)
        _read_head(self._head, response)
        response.encoding = get_encoding_from_headers(response.headers)
        response.url = str(request.url)
        response.request = request
        response._content = b"".join(self._body)
        response._content_consumed = True  # type: ignore[attr-defined] # it has no other door for a body that was read
        return response

    def _translated(self, code: int, text: str) -> requests.RequestException:
        if code == pycurl.E_WRITE_ERROR and self._size > self._max_body:
            return BodyTooLong(code, text)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            was_sent = self._curl.getinfo(pycurl.REQUEST_SIZE) > 0
            return (requests.ReadTimeout if was_sent else requests.ConnectTimeout)(code, text)
        if code == pycurl.E_COULDNT_CONNECT and (number := self._curl.getinfo(pycurl.OS_ERRNO)):
            return requests.ConnectionError(number, os.strerror(number))
        return _ERRORS.get(code, requests.ConnectionError)(code, text)


def _milliseconds(seconds: float | None) -> int:
    return max(1, round(seconds * 1000)) if seconds else 0


def _field(name: str, value: str) -> bytes:
    """A header as libcurl takes it: without a value, it would be left out."""
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


def _read_head(lines: Iterable[bytes], response: requests.Response) -> None:
    """Reason and headers of the last head, behind "100 Continue" and the like; what follows the body is left out."""
    values: dict[str, str] = {}
    is_open = False
    for line in lines:
        text = line.decode("latin-1").rstrip("\r\n")
        name, colon, value = text.partition(":")
        if not is_open and text.startswith("HTTP/"):
            response.reason = text.partition(" ")[2].partition(" ")[2]
            response.headers.clear()
            values.clear()
            is_open = True
        elif is_open and colon:
            key, value = name.lower(), value.strip()
            response.headers[name] = values[key] = f"{values[key]}, {value}" if key in values else value
        elif not text:
            is_open = False
