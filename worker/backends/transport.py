"""HTTP under the API of ``requests``: which connection a call goes by, and what ends it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import requests
from requests.adapters import BaseAdapter
from requests.utils import select_proxy

from worker.backends.curl import Certificate, Connection, NotAnswered, Timeout, Way
from worker.backends.http1 import Answer
from worker.forks import forks

_Parts = tuple[str, Timeout, bool | str, Certificate, str]
"""Those of a ``Way``, which is made only where a new connection is: to make one takes longer than to look it up."""


class CutOff(requests.ConnectionError):
    """The call was ended, or not begun, as the process is to end. It may have been done."""


class UnderWay:
    """The connections that calls are being made on, of one adapter or several."""

    def __init__(self) -> None:
        self._connections: set[Connection] = set()
        self.is_cut_off = False

    def add(self, connection: Connection) -> None:
        """A call begins; raises ``CutOff`` where none may any more."""
        self._connections.add(connection)
        if self.is_cut_off:
            raise CutOff

    def discard(self, connection: Connection) -> None:
        """It has ended."""
        self._connections.discard(connection)

    def cut_off(self) -> None:
        """End all calls, and let none begin; one that is still connecting ends when it is connected."""
        self.is_cut_off = True
        for connection in self._connections.copy():
            connection.break_off()


class ClosedMeanwhile(requests.ConnectionError):
    """A connection that had been used before ended without an answer, as any server may end it at any time.

    The request may have been done. Sent again, it goes by a new connection.
    """


class CurlAdapter(BaseAdapter):
    """A transport for ``requests`` that reads its answers whole, or as they come where ``stream`` is asked for.

    An answer has to be complete ``seconds`` after its request; one whose body, unfolded, has more than ``max_body``
    bytes is given up with ``BodyTooLong``. What else goes wrong is the exception that ``requests`` has for it, its
    ``strerror`` a sentence. TLS is always verified, nothing is taken from the environment, no cookies are kept, and
    redirects are the caller's. Once its calls ``under_way`` are cut off, each ends with ``CutOff``.
    """

    def __init__(self, seconds: float, max_body: int, under_way: UnderWay | None = None) -> None:
        super().__init__()
        self._under_way = under_way or UnderWay()
        self._seconds = seconds
        self._max_body = max_body
        self._idle: defaultdict[_Parts, list[Connection]] = defaultdict(list)
        self._closed = False
        self._forks = forks.count

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Timeout = None,
        verify: bool | str = True,
        cert: Certificate = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer; ``timeout`` is for connecting, and for a silence before or within an answer."""
        url = str(request.url)
        proxy = (select_proxy(url, dict(proxies)) or "") if proxies else ""
        path = url.find("/", url.find("://") + 3)
        way = url if path < 0 else url[:path], timeout, verify, cert, proxy
        try:
            return self._open(Way(*way), request) if stream else self._answer(way, request)
        except Exception as error:
            if self._under_way.is_cut_off:  # which is why, most likely
                raise CutOff(*error.args) from error
            raise

    def _answer(self, way: _Parts, request: requests.PreparedRequest) -> Answer:
        connection = self._take(way)
        try:
            return self._exchange(connection or Connection(Way(*way)), request)
        except NotAnswered as error:
            if not connection:
                raise requests.ConnectionError(*error.args) from error
            self._close(self._idle[way])  # its likes are no better
            raise ClosedMeanwhile(*error.args) from error

    def _open(self, way: Way, request: requests.PreparedRequest) -> Answer:
        """On a connection of its own, which ends with the answer."""
        connection = Connection(way)

        def close() -> None:
            self._under_way.discard(connection)
            connection.close()

        try:
            self._under_way.add(connection)
            return connection.open(request, self._seconds, close)
        except BaseException as error:
            close()
            if isinstance(error, NotAnswered):
                raise requests.ConnectionError(*error.args) from error
            raise

    def _exchange(self, connection: Connection, request: requests.PreparedRequest) -> Answer:
        try:
            self._under_way.add(connection)
            answer, is_open = connection.exchange(request, self._seconds, self._max_body)
        except BaseException:
            connection.close()
            raise
        finally:
            self._under_way.discard(connection)
        if is_open and not self._closed:
            self._idle[connection.way].append(connection)
            if self._closed:
                self.close()
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the connections; those in use, when they are done."""
        self._closed = True
        for idle in list(self._idle.values()):
            self._close(idle)

    def _close(self, idle: list[Connection]) -> None:
        while True:
            try:
                idle.pop().close()
            except IndexError:  # also where another thread took the last one
                return

    def _take(self, way: _Parts) -> Connection | None:
        if self._forks != forks.count:
            # We are a fork. The connections are the parent's: not to be used here, nor closed, which would end its TLS.
            self._parents, self._idle, self._forks = self._idle, defaultdict(list), forks.count
        while True:
            try:
                connection = self._idle[way].pop()  # the last one used, so that those too many grow old
            except IndexError:
                return None
            if connection.is_quiet():
                return connection
            connection.close()
