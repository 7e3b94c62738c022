"""An end to answers that drip: ``requests``' timeout is for each piece, and a header of a byte at a time never ends."""

from __future__ import annotations

import io
import time
from functools import partial
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter


class DeadlineAdapter(HTTPAdapter):
    """A pool of ``threads`` connections, each of whose answers has to be complete ``seconds`` after its request."""

    def __init__(self, threads: int, seconds: float) -> None:
        super().__init__(pool_connections=1, pool_maxsize=threads, max_retries=0)
        self._response_class = staticmethod(partial(_Response, seconds))

    def get_connection_with_tls_context(self, *args: Any, **named: Any) -> Any:
        """The pool for a request, its connections made to keep the deadline."""
        pool: Any = super().get_connection_with_tls_context(*args, **named)
        if not isinstance(pool.ConnectionCls.response_class, partial):
            pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": self._response_class})
        return pool


class _Response(HTTPResponse):
    def __init__(self, seconds: float, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), time.monotonic() + seconds))


class _Bounded(io.RawIOBase):
    """The bytes of a socket until the deadline; then ``TimeoutError``."""

    def __init__(self, raw: io.RawIOBase, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._deadline:
            raise TimeoutError
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
