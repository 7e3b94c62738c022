"""Connections: made by libcurl, and a call is two system calls on one of them.

libcurl resolves, connects, goes through proxies and does TLS; the messages are ours (``http1``). Were they libcurl's,
it would come back into Python for every header of an answer, and each time would have to wait for its turn among all
threads: at 128 calls in flight that is twice the time. The socket blocks, so that a thread waits in the kernel,
without Python's lock, from its request until there is an answer.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pycurl
import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from worker.backends.http1 import Answer, open_answer, read_answer, request_bytes

Timeout = None | float | tuple[float | None, float | None]
Certificate = None | bytes | str | tuple[bytes | str, bytes | str]

_ALWAYS = (
    (pycurl.CONNECT_ONLY, 1),
    (pycurl.NOSIGNAL, 1),
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
    (pycurl.NOPROXY, ""),  # else libcurl looks into the environment by itself
    (pycurl.USERAGENT, ""),  # what a proxy need not know
    # Python's signal handlers run on the main thread, in between its own instructions: this gives it some every second.
    (pycurl.XFERINFOFUNCTION, lambda *_: 0),
)
_ERRORS = {
    pycurl.E_OPERATION_TIMEDOUT: requests.ConnectTimeout,
    pycurl.E_SSL_CONNECT_ERROR: requests.exceptions.SSLError,
    pycurl.E_PEER_FAILED_VERIFICATION: requests.exceptions.SSLError,
    pycurl.E_SSL_CACERT_BADFILE: requests.exceptions.SSLError,
    pycurl.E_SSL_CERTPROBLEM: requests.exceptions.SSLError,
    pycurl.E_COULDNT_RESOLVE_PROXY: requests.exceptions.ProxyError,
}
_FIRST_PIECE = 2**12  # most answers; memory that is asked for and not used costs more than to read them
_PIECE = 2**16
_PACE = 2**16  # bytes of a body that is read as it comes: so many have to come in the time that a whole answer may take
_SHORTEST_IDLE = 0.01  # seconds
_INT = struct.calcsize("i")
_KEEPS_LOCK = 1025  # bytes: with a buffer of fewer, fcntl.ioctl gives up Python's lock
_LONGEST_IDLE = 100.0  # seconds: after some minutes firewalls forget a connection and tell nobody


class Way(NamedTuple):
    """How a server is reached; a connection serves one way."""

    origin: str
    timeout: Timeout
    verify: bool | str
    cert: Certificate
    proxy: str

    @property
    def timeouts(self) -> tuple[float | None, float | None]:
        """For connecting, and for a silence."""
        return self.timeout if isinstance(self.timeout, tuple) else (self.timeout, self.timeout)

    @property
    def is_forwarded(self) -> bool:
        """Whether a proxy is told the whole URL, instead of being asked for a tunnel."""
        return self.origin.startswith("http:") and self.proxy.startswith(("http:", "https:"))


class NotAnswered(Exception):
    """The connection ended before the first byte of an answer."""


class Connection:
    """A connection that libcurl has made, used by one thread at a time."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self._is_forwarded = way.is_forwarded
        connecting, self._silence = way.timeouts
        self._until = self._ended = 0.0
        self._is_answering = self._may_have_more = False
        self._unread = bytearray(_KEEPS_LOCK)
        self._closing = threading.Lock()
        self._curl = pycurl.Curl()
        try:
            self._connect(connecting)
        except pycurl.error as error:
            raise self._translated(*error.args) from error
        self._number: int | None = self._curl.getinfo(pycurl.ACTIVESOCKET)
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        self._patience = 0.0

    def _connect(self, seconds: float | None) -> None:
        way, curl = self.way, self._curl
        for option, value in _ALWAYS:
            curl.setopt(option, value)
        curl.setopt(pycurl.URL, f"{way.origin}/")
        curl.setopt(pycurl.NOPROGRESS, threading.current_thread() is not threading.main_thread())
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, round(seconds * 1000)) if seconds else 0)
        curl.setopt(pycurl.PROXY, way.proxy)
        authorities = way.verify if isinstance(way.verify, str) else DEFAULT_CA_BUNDLE_PATH
        curl.setopt(pycurl.CAPATH if Path(authorities).is_dir() else pycurl.CAINFO, authorities)
        if way.cert:
            certificate, key = way.cert if isinstance(way.cert, tuple) else (way.cert, way.cert)
            curl.setopt(pycurl.SSLCERT, certificate)
            curl.setopt(pycurl.SSLKEY, key)
            curl.setopt(pycurl.KEYPASSWD, "")  # of one that is encrypted by now, OpenSSL would ask the terminal
        curl.perform()

    def is_quiet(self) -> bool:
        """Whether nothing came unasked since the last answer: an end, or what the next call would take for its own.

        One that is hardly at rest is not asked for its end, as that costs a turn at Python's lock.
        """
        idle = time.monotonic() - self._ended
        if idle <= _SHORTEST_IDLE:
            return not self._has_more()
        return idle < _LONGEST_IDLE and not self._poll.poll(0)

    def _has_more(self) -> bool:
        """Whether bytes lie there to be read; a system call for which Python keeps its lock."""
        if self._number is None:
            return True
        fcntl.ioctl(self._number, termios.FIONREAD, self._unread)
        return any(self._unread[:_INT])

    @contextmanager
    def _socket(self) -> Iterator[socket.socket]:
        """The socket, which stays libcurl's to close."""
        # Of whatever family: nothing is asked of it that depends on that.
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self._number)
        try:
            if socket.getdefaulttimeout() is not None:  # which makes each new object's socket one that does not block
                borrowed.setblocking(True)
            yield borrowed
        finally:
            borrowed.detach()

    def break_off(self) -> None:
        """End what another thread does with it. Not once it is closed: the number may be another socket's by then."""
        with self._closing, suppress(OSError):
            if self._number is not None:
                with self._socket() as borrowed:
                    borrowed.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; from the thread that uses it."""
        with self._closing:
            self._number = None
            self._curl.close()

    def exchange(self, request: requests.PreparedRequest, seconds: float, most: int) -> tuple[Answer, bool]:
        """The answer, complete after so many seconds, and whether another can follow; raises ``NotAnswered``."""
        unsent = self._ask(request, seconds)
        try:
            answer, is_open = read_answer(request, self._receive, most)
        except NotAnswered as error:
            raise unsent or error from error
        self._ended = time.monotonic()
        return answer, is_open and not (unsent or self._may_have_more)

    def open(self, request: requests.PreparedRequest, seconds: float, close: Callable[[], None]) -> Answer:
        """The answer with its body still to come, at a pace, and to be closed so; raises ``NotAnswered``."""
        unsent = self._ask(request, seconds)
        come = 0

        def receive() -> bytes:
            nonlocal come
            data = self._receive()
            come += len(data)
            if come >= _PACE:
                self._until, come = time.monotonic() + seconds, 0
            return data

        try:
            return open_answer(request, receive, close)
        except NotAnswered as error:
            raise unsent or error from error

    def _ask(self, request: requests.PreparedRequest, seconds: float) -> Exception | None:
        """Send the request, to be answered in so many seconds; returns why not all of it went."""
        self._until, self._is_answering = time.monotonic() + seconds, False
        if (patience := min(seconds, self._silence or seconds)) != self._patience:
            self._be_patient(patience)
        if self._is_forwarded:
            request = request.copy()
            request.headers.update(HTTPAdapter().proxy_headers(self.way.proxy))
        return self._send(request_bytes(request, by_proxy=self._is_forwarded))

    def _send(self, data: bytes) -> Exception | None:
        """Send all, or return why that cannot be done: there may be an answer all the same, say that it is too much."""
        at = 0
        try:
            at = self._curl.send(data)
            while at < len(data):
                self._watch_the_time()
                at += self._curl.send(memoryview(data)[at:])
        except BlockingIOError:
            return requests.ReadTimeout(0, "the request was not taken in time")
        except pycurl.error as error:
            return NotAnswered(*error.args)
        return None

    def _receive(self) -> bytes:
        while True:
            began = time.monotonic()
            if self._is_answering:
                self._watch_the_time()
            most = _PIECE if self._is_answering else _FIRST_PIECE
            try:
                data: bytes = self._curl.recv(most)
            except BlockingIOError:
                # Also after a signal, whose handler has run by now.
                if time.monotonic() - began >= 0.9 * self._patience > 0:
                    raise requests.ReadTimeout(0, "no answer in time") from None
                self._watch_the_time()
                continue
            except pycurl.error as error:
                if not self._is_answering:
                    raise NotAnswered(*error.args) from error
                raise requests.ConnectionError(*error.args) from error
            if not data and not self._is_answering:
                raise NotAnswered(0, "the connection was closed without an answer")
            self._is_answering = True
            self._may_have_more = len(data) == most  # in the memory of TLS, where nobody can look
            return data

    def _watch_the_time(self) -> None:
        """Wait no longer than until the answer has to be complete."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise requests.ReadTimeout(0, "the answer was not complete in time")
        if (patience := min(left, self._silence or left)) != self._patience:
            self._be_patient(patience)

    def _be_patient(self, patience: float) -> None:
        """Let the kernel wait so many seconds at a time."""
        self._patience = patience
        whole = int(patience)
        timeval = struct.pack("ll", whole, max(1, int((patience - whole) * 1e6)))
        with self._socket() as borrowed:
            borrowed.setblocking(True)
            borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _translated(self, code: int, text: str) -> requests.RequestException:
        if code == pycurl.E_COULDNT_CONNECT and (number := self._curl.getinfo(pycurl.OS_ERRNO)):
            text = os.strerror(number)
            if self.way.proxy:
                return requests.exceptions.ProxyError(number, f"{text} at the proxy (see proxy, HTTPS_PROXY)")
            return requests.ConnectionError(number, text)
        return _ERRORS.get(code, requests.ConnectionError)(code, text)
