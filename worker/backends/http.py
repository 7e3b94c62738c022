"""One backend's HTTP: a pool of connections shared by all threads, with limits, tokens, redirects and retries."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import requests
import stamina
import urllib3
from requests.adapters import BaseAdapter

from worker.backends.answers import TooCostly, check
from worker.backends.calls import Call, Result
from worker.backends.deadline import DeadlineAdapter
from worker.backends.limits import LONGEST_WAIT, Clock, Limits, Sleep
from worker.backends.origin import locate
from worker.errors import Refused, Unavailable
from worker.http_terms import origin_of
from worker.log import get_logger
from worker.records import Meter

if TYPE_CHECKING:
    from worker.auth.credentials import Credential, Ticket
    from worker.config import BackendSettings

log = get_logger()

_REDIRECTS = 5
_PIECE = 65536
_ANSWER_TIMEOUTS = 6
_SHORTEST_ANSWER = 30.0
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 20.0
_JSON = "application/json, */*;q=0.1"


class Http:
    """The connections to one backend; thread-safe. The arguments are those of ``open_backend``."""

    def __init__(
        self,
        name: str,
        settings: BackendSettings,
        credential: Credential | None,
        *,
        threads: int,
        sleep: Sleep,
        random: Callable[[], float],
        clock: Clock,
        transport: BaseAdapter | None,
    ) -> None:
        self.name = name
        self.url = settings.url
        self.origin = origin_of(settings.url)
        self.retries = settings.retries
        self.limits = Limits(
            name, settings.max_concurrency, settings.rate_limit, threads=threads, clock=clock, sleep=sleep
        )
        self.random = random
        self._timeout = settings.timeout
        self._max_body = int(settings.max_body_mib * 2**20)
        self._credential = credential
        complete = max(_ANSWER_TIMEOUTS * settings.timeout, _SHORTEST_ANSWER)
        self._session = _session(settings.url, settings.ca_file, transport or DeadlineAdapter(threads, complete))

    def locate(self, path: str) -> str:
        """The URL that a job's path means; raises ``Refused`` for one that leads elsewhere."""
        try:
            return locate(self.url, path)
        except ValueError as error:
            raise Refused(self.name, f"this path cannot be called below {self.origin}: {error}") from error

    def exchange(self, call: Call, meter: Meter, stop: threading.Event) -> requests.Response:
        """Send a call once, or twice where the first token had been revoked; raises ``BackendError``."""
        url = self.locate(call.path)
        response, ticket = self._authorized(call, url, meter, stop)
        if response.status_code == 401 and self._credential and ticket and self._credential.refused(ticket):
            response, _ = self._authorized(call, url, meter, stop)
        check(self.name, response)
        return response

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _authorized(
        self, call: Call, url: str, meter: Meter, stop: threading.Event
    ) -> tuple[requests.Response, Ticket | None]:
        ticket = self._credential.ticket(meter, self.origin) if self._credential else None
        with self.limits.turn(stop):
            response = self._follow(self._prepare(call, url, ticket), meter)
            if response.status_code != 401:
                check(self.name, response)  # within the turn, so that the limits learn of it
        return response, ticket

    def _prepare(self, call: Call, url: str, ticket: Ticket | None) -> requests.PreparedRequest:
        headers = {"Accept": _JSON, **call.headers}
        request = requests.Request(call.method, url, headers, data=call.body, params=call.params, auth=ticket)
        try:
            return self._session.prepare_request(request)
        except ValueError:
            # Without its cause, which quotes the URL or the header.
            raise Refused(self.name, "the request's path, parameters or headers cannot be sent") from None

    def _follow(self, request: requests.PreparedRequest, meter: Meter) -> requests.Response:
        for _ in range(_REDIRECTS):
            response = self._send(request, meter)
            target = response.headers.get("Location")
            if not (300 <= response.status_code < 400 and target and request.method in ("GET", "HEAD")):
                return response
            request.url = self._redirect(str(request.url), target)
        raise Refused(self.name, f"redirected {_REDIRECTS} times in a row; correct the backend's url")

    def _redirect(self, url: str, target: str) -> str:
        try:
            where = urljoin(url, target)
            origin = origin_of(where)
        except ValueError:
            origin = "something that is not an http URL"
        if origin != self.origin:
            raise Refused(self.name, f"redirects to {origin}, which gets no token; correct the backend's url")
        return where

    def _send(self, request: requests.PreparedRequest, meter: Meter) -> requests.Response:
        meter.call(self.name)
        try:
            response = self._session.send(request, stream=True, timeout=self._timeout, allow_redirects=False)
            with closing(response.raw) as raw:
                body = self._read(raw)
                raw.release_conn()
        except (OSError, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, requests.RequestException):
                error.request = None  # it carries the token
            raise Unavailable(self.name, f"{self.origin} {self._trouble(error)}") from error
        response.raw = io.BytesIO(body)
        return response

    def _read(self, raw: urllib3.BaseHTTPResponse) -> bytes:
        """The body, no longer than it may be; ``read1`` does not wait for a whole piece."""
        body = bytearray()
        while piece := raw.read1(_PIECE, decode_content=True):
            body += piece
            if len(body) > self._max_body:
                raise TooCostly(self.name, f"answered more than {self._max_body} bytes; ask for less")
        return bytes(body)

    def _trouble(self, error: Exception) -> str:
        if isinstance(error, requests.ConnectTimeout):
            return f"accepted no connection within {self._timeout:g} s"
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            return f"did not answer in time (timeout = {self._timeout:g})"
        root: BaseException = error
        while root.__context__:
            root = root.__context__
        reason = (root.strerror if isinstance(root, OSError) else None) or type(root).__name__
        return f"could not be asked: {reason}"


@dataclass(frozen=True, slots=True)
class HttpCaller:
    """Sends calls on behalf of one delivery, and sends them again while the backend is unavailable."""

    http: Http
    meter: Meter
    stop: threading.Event
    attempts: int

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self.http.name

    def __call__(self, call: Call, read: Callable[[str, requests.Response], Result]) -> Result:
        """What ``read`` makes of a good answer; raises ``BackendError``, or ``Stopping`` if a wait was cut short."""
        wait = 0.0

        def is_worth_another(error: Exception) -> bool | float:
            nonlocal wait
            if not isinstance(error, Unavailable) or (error.retry_after or 0) > LONGEST_WAIT:
                return False
            wait = error.retry_after or wait
            return 0.0  # the waiting is done below, where stopping ends it

        for attempt in stamina.retry_context(
            is_worth_another,
            attempts=self.attempts,
            timeout=None,
            wait_initial=_FIRST_BACKOFF,
            wait_max=_LONGEST_BACKOFF,
            wait_jitter=0,
        ):
            with attempt:
                self.http.limits.pause(self.stop, wait)
                wait = attempt.next_wait * (0.5 + self.http.random())
                return read(self.backend, self.http.exchange(call, self.meter, self.stop))
        raise AssertionError("the last attempt returns or raises")


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    # Instead of the library's own hooks, which log the error's text: it may quote what the backend says of a record.
    error = details.caused_by
    if isinstance(error, Unavailable):
        log.info("trying again", backend=error.backend, status=error.status, attempt=details.retry_num + 1)


stamina.instrumentation.set_on_retry_hooks([_log_retry])


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - redirects are followed by Http
        return None


def _session(url: str, ca_file: str | os.PathLike[str] | None, transport: BaseAdapter) -> requests.Session:
    session = _Session()
    # A netrc file must not override the token; proxies and CA bundle are looked up here, once instead of at each call.
    session.trust_env = False
    session.proxies = dict(requests.utils.get_environ_proxies(url))
    session.verify = (
        str(ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or "") or True
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = "longshore"
    for adapter in session.adapters.values():
        adapter.close()
    session.adapters.clear()
    session.mount(url.partition(":")[0].lower() + "://", transport)
    return session
