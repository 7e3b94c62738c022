"""One backend's HTTP: a pool of connections shared by all threads, with limits, tokens, redirects and retries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin

import requests
import stamina
from requests.adapters import BaseAdapter

from worker.backends.answers import REDIRECTS, check
from worker.backends.budget import RetryBudget
from worker.backends.calls import Call, Result
from worker.backends.limits import LONGEST_WAIT, Clock, Limits, Sleep
from worker.backends.origin import elsewhere, locate
from worker.backends.prepare import Unsendable, prepare
from worker.backends.route import Route
from worker.backends.transport import ClosedMeanwhile, CurlAdapter, CutOff, UnderWay
from worker.backends.unfold import BodyTooLong
from worker.errors import BackendError, Interrupted, LeftAlone, Refused, Stopping, TooCostly, Unavailable
from worker.http_terms import origin_of
from worker.log import get_logger
from worker.records import Meter

if TYPE_CHECKING:
    from worker.auth.credentials import Credential, Ticket
    from worker.config import BackendSettings

log = get_logger()

_MOST_REDIRECTS = 5
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # RFC 9110 section 9.2.2
_ANSWER_TIMEOUTS = 6
_SHORTEST_ANSWER = 30.0
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 20.0
_LONGEST_REASON = 2**16  # bytes
_TLS_ADVICE = "; check url, its certificate's names and dates, and ca_file"

Asked = tuple[Call, Callable[[str, requests.Response], Any]]
"""A call, and what reads its answer."""


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
        self.budget = RetryBudget(clock)
        self.went_well: Asked | None = None
        self.random = random
        self.max_body = int(settings.max_body_mib * 2**20)
        self._timeout = settings.timeout
        self._credential = credential
        complete = max(_ANSWER_TIMEOUTS * settings.timeout, _SHORTEST_ANSWER)
        self.under_way = UnderWay()
        self._connect: Callable[[], BaseAdapter] = lambda: (
            transport or CurlAdapter(complete, self.max_body, self.under_way)
        )
        self._transport = self._connect()
        self._read_route = partial(Route.read, name, settings)
        self._route = self._read_route()

    def locate(self, path: str, *, public: bool = False) -> str:
        """The URL that a path means; raises ``Refused`` for one that leads elsewhere, unless that may be."""
        try:
            leads_away = public and "://" in path and self._is_elsewhere(path)
            return elsewhere(path) if leads_away else locate(self.url, path)
        except ValueError as error:
            raise Refused(self.name, f"this path cannot be called below {self.origin}: {error}") from error

    def _is_elsewhere(self, url: str) -> bool:
        return origin_of(url) != self.origin

    def exchange(self, call: Call, meter: Meter, stop: threading.Event) -> requests.Response:
        """Send a call once, or twice where the first token had been revoked; raises ``BackendError``."""
        url = self.locate(call.path, public=call.public)
        response, ticket = self._authorized(call, url, meter, stop)
        if response.status_code == 401:
            if self._credential and ticket and self._credential.refused(ticket):
                response, _ = self._authorized(call, url, meter, stop)
            check(self.name, response)
        return response

    def still_answers(self, meter: Meter, stop: threading.Event) -> bool:
        """Whether the last question that was answered well is so again; False where there was none yet."""
        if self.went_well is None:
            return False
        call, read = self.went_well
        try:
            with self.limits.turn(stop, meter, even_if_down=True):
                ticket = self._credential.ticket(meter, self.origin) if self._credential else None
                answer = self._follow(self._prepare(call, self.locate(call.path), ticket), meter)
                check(self.name, answer)
                read(self.name, answer)
        except BackendError:
            return False
        return True

    def reload(self) -> None:
        """Read certificates, key and proxy anew; where they are other ones, connections are made anew, too.

        Raises ``ConfigError`` if they cannot be read.
        """
        route = self._read_route()
        if route != self._route:
            before, self._transport, self._route = self._transport, self._connect(), route
            before.close()  # calls under way still come to their end

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _authorized(
        self, call: Call, url: str, meter: Meter, stop: threading.Event
    ) -> tuple[requests.Response, Ticket | None]:
        ticket = self._credential.ticket(meter, self.origin) if self._credential and not call.public else None
        request = self._prepare(call, url, ticket)  # before the turn: what cannot be sent says nothing of the backend
        is_foreign = call.public and self._is_elsewhere(url)  # what another origin answers says nothing of it either
        with nullcontext() if is_foreign else self.limits.turn(stop, meter, of=call.fingerprint):
            response = self._follow(request, meter, stream=call.stream)
            if not 200 <= response.status_code < 300 and response.status_code != 401:
                check(self.name, response)  # within the turn, so that the limits learn of it
        return response, ticket

    def _prepare(self, call: Call, url: str, ticket: Ticket | None) -> requests.PreparedRequest:
        try:
            request = prepare(call, url)
        except Unsendable as error:
            raise Refused(self.name, str(error)) from None
        except (TypeError, ValueError):  # its cause would quote the URL
            raise Refused(self.name, "the request's path or parameters cannot be sent") from None
        return ticket(request) if ticket else request

    def _follow(self, request: requests.PreparedRequest, meter: Meter, *, stream: bool = False) -> requests.Response:
        for _ in range(_MOST_REDIRECTS):
            response = self._send(request, meter, stream=stream)
            if response.status_code not in REDIRECTS or request.method not in ("GET", "HEAD"):
                return response
            if not (target := response.headers.get("Location")):
                return response
            request.url = self._redirect(str(request.url), target)
        raise Refused(self.name, f"redirected {_MOST_REDIRECTS} times in a row; correct the backend's url")

    def _redirect(self, url: str, target: str) -> str:
        try:
            where = urldefrag(urljoin(url, target)).url
            origin = origin_of(where)
        except ValueError:
            origin = "something that is not an http URL"
        if origin != origin_of(url):
            raise Refused(self.name, f"redirects to {origin}, which gets no token; correct the backend's url")
        return self.locate(where, public=origin != self.origin)

    def _send(self, request: requests.PreparedRequest, meter: Meter, *, stream: bool) -> requests.Response:
        try:
            try:
                return self._sent(request, meter, stream=stream)
            except ClosedMeanwhile:
                if request.method not in _IDEMPOTENT:
                    raise  # what is sent the second time may have to differ
                return self._sent(request, meter, stream=stream)
        except BodyTooLong as error:
            raise TooCostly(self.name, f"answered more than {self.max_body} bytes; ask for less") from error
        except CutOff as error:
            raise Interrupted(Stopping(f"{self.name}: the call was cut off, as the worker is stopping")) from error
        except OSError as error:
            raise Unavailable(self.name, f"{self.origin} {self._trouble(error)}") from error

    def _sent(self, request: requests.PreparedRequest, meter: Meter, *, stream: bool) -> requests.Response:
        meter.call(self.name)
        route, cert, proxies = self._route, self._route.cert, self._route.proxies
        if self._is_elsewhere(str(request.url)):
            cert, proxies = None, route.proxies_to(str(request.url))
        response = self._transport.send(
            request, stream=stream, timeout=self._timeout, verify=route.verify, cert=cert, proxies=proxies
        )
        if not stream:
            if response.raw is not None:  # a transport may read it only when it is asked for
                _ = response.content
        elif not 200 <= response.status_code < 300:
            _read_beginning(response)
        return response

    def _trouble(self, error: OSError) -> str:
        if isinstance(error, requests.ConnectTimeout):
            return f"accepted no connection within {self._timeout:g} s"
        if isinstance(error, requests.Timeout):
            return f"did not answer in time (timeout = {self._timeout:g})"
        advice = _TLS_ADVICE if isinstance(error, requests.exceptions.SSLError) else ""
        return f"could not be asked: {error.strerror or type(error).__name__}{advice}"


def _read_beginning(response: requests.Response) -> None:
    """Take so much of a bad answer, whose body may be of any length, as its reason."""
    with closing(response):
        response._content = next(response.iter_content(_LONGEST_REASON), b"")


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
        """What ``read`` makes of a good answer; raises ``BackendError``, or ``Interrupted`` if a wait was cut short."""
        try:
            return self._once(call, read)
        except Unavailable as error:
            if isinstance(error, LeftAlone) or self.attempts == 1:
                raise
            return self._again(call, read, error)

    def wait(self, seconds: float) -> None:
        """Wait so long, or only look; raises ``Interrupted`` when ``stop`` is set."""
        self.http.limits.pause(self.stop, seconds)
        if self.stop.is_set():
            raise Interrupted(Stopping(f"{self.backend}: the worker is stopping"))

    def _once(self, call: Call, read: Callable[[str, requests.Response], Result]) -> Result:
        http = self.http
        result = read(http.name, http.exchange(call, self.meter, self.stop))
        http.budget.earn()
        if call.is_probe:
            http.went_well = call, read
        return result

    def _again(self, call: Call, read: Callable[[str, requests.Response], Result], failure: Unavailable) -> Result:
        repetitions = _Repetitions(self.http.budget, self.attempts - 1, failure)
        for attempt in stamina.retry_context(
            repetitions.is_worth_another,
            attempts=self.attempts,
            timeout=None,
            wait_initial=_FIRST_BACKOFF,
            wait_max=_LONGEST_BACKOFF,
            wait_jitter=0,
        ):
            with attempt:
                self.http.limits.pause(self.stop, repetitions.wait)
                repetitions.wait = attempt.next_wait * (0.5 + self.http.random())
                if attempt.num == 1:
                    raise failure
                try:
                    return self._once(call.again() if call.again else call, read)
                except LeftAlone as alone:
                    raise repetitions.end(alone) from alone
        raise AssertionError("the last attempt returns or raises")


class _Repetitions:
    """Whether a call that has failed is sent again, and after how many seconds of ``wait``."""

    def __init__(self, budget: RetryBudget, left: int, failure: Unavailable) -> None:
        self._budget = budget
        self._left = left
        self._failure = failure
        self.wait = 0.0

    def is_worth_another(self, error: Exception) -> bool | float:
        """What ``stamina`` asks after each failure."""
        if not isinstance(error, Unavailable) or (error.retry_after or 0) > LONGEST_WAIT:
            return False
        if not self._left or not self._budget.spend():
            return False
        self._left -= 1
        self._failure = error
        self.wait = error.retry_after or self.wait
        return 0.0  # the waiting is done by the caller, where stopping ends it

    def end(self, alone: LeftAlone) -> Unavailable:
        """The circuit has opened meanwhile: what is raised is why, and for how long."""
        self._left = 0
        self._failure.retry_after = max(self._failure.retry_after or 0.0, alone.retry_after or 0.0)
        return self._failure


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    # Instead of the library's own hooks, which log the error's text: it may quote what the backend says of a record.
    error = details.caused_by
    if isinstance(error, Unavailable):
        log.info("trying again", backend=error.backend, status=error.status, attempt=details.retry_num + 1)


stamina.instrumentation.set_on_retry_hooks([_log_retry])
