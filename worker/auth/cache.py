"""One token for every thread, process and host that asks for the same: one request, whoever and how many they are.

In a process, one thread leads a flight and the others wait for its end. Across processes, a leader takes a lease in
the store, asks the OAuth server, and saves; the leaders of other processes look into the store until it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from worker.auth.client import Client
from worker.auth.failure import Failure, moment
from worker.auth.store import SteadyStore, TokenStore
from worker.auth.token import Token
from worker.errors import ConfigError, Unauthorized, Unavailable
from worker.log import get_logger
from worker.records import LONGEST_RETRY, Meter, TokenEntry

log = get_logger()

# Of a lifetime: when a new token is asked for early (each process a little earlier or later), and when the old one is
# not used any more, lest it ends on its way.
REFRESH_FROM = 0.80
REFRESH_SPREAD = 0.05
MARGIN = 0.15
MAX_MARGIN_SECONDS = 60.0

LOOK_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 30.0
TOO_YOUNG_SECONDS = 5.0
HEAR_SECONDS = 1.0  # between looks whether somebody else was granted a token that was refused here


@dataclass(frozen=True, slots=True)
class Held:
    """The token that this process has; ``successor``: it came in place of one that a backend had refused."""

    token: Token
    fresh_until: float
    usable_until: float
    successor: bool = False


Flight = Future[Held | Failure]


class TokenCache:
    """The current token of one client. ``lease`` is how long a leader may be silent, in seconds.

    ``clock`` is monotonic; ``now`` is the time of day, which only people are told.
    """

    def __init__(
        self,
        client: Client,
        store: TokenStore,
        *,
        owner: str,
        lease: float,
        clock: Callable[[], float],
        now: Callable[[], float],
        sleep: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        self._client = client
        self._store = SteadyStore(store)
        self._owner = owner
        self._lease = lease
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._refresh_from = REFRESH_FROM - REFRESH_SPREAD * random()
        self._lock = threading.Lock()
        self._held: Held | None = None
        self._flight: Flight | None = None
        self._failure: Failure | None = None
        self._failures = 0
        self._hear_at = 0.0
        self._refused = ""

    def get(self, meter: Meter) -> Token:
        """A token that is not about to end; raises ``Unavailable`` or ``Unauthorized``.

        Waits where there is none. One that is merely getting old is handed out while its successor is on the way.
        """
        held = self._held  # read once: no lock is needed for a fresh one
        if held is not None and self._clock() < held.fresh_until:
            return held.token
        return self._get_or_wait(meter)

    def refused(self, token: Token) -> bool:
        """A backend answered 401: forget that very token, for everyone. True if another one is worth a try.

        A backend that says 401 to every token must not make the fleet ask for new ones all the time: the successor of
        a refused token is not thrown away in its first seconds.
        """
        with self._lock:
            held = self._held
            if held is None or held.token.access_token != token.access_token:
                return True
            if held.successor and token.age(self._clock()) < TOO_YOUNG_SECONDS:
                return False
            self._held, self._refused = None, token.access_token
        self._forget_in_store(token)
        return True

    def reload(self) -> None:
        """Read the client's secrets anew, and let the next request be sent at once if a refusal held it off.

        That is so for the whole fleet. A token of an older secret goes on until it ends. Raises ``ConfigError`` if
        they cannot be read.
        """
        client = self._client.reread()
        with self._lock:
            self._client, self._failure = client, None
        self._forgive(client)

    def _forgive(self, client: Client) -> None:
        entry = self._store.read(client.key)
        if entry and not entry.lease_left and Failure.told(client.name, entry, 0.0).refused:
            self._store.fail(client.key, entry.version, entry.failure, 0.0)

    def _get_or_wait(self, meter: Meter) -> Token:
        with self._lock:
            held, failure, now = self._held, self._failure, self._clock()
            holding_off = failure is not None and now < failure.until
            usable = held if held is not None and now < held.usable_until else None
            if usable and (self._flight or holding_off or now < usable.fresh_until):
                return usable.token
            if failure is not None and holding_off and not (failure.refused and now >= self._hear_at):
                raise failure.error(now)
            flight, joined = self._flight or Flight(), self._flight is not None
            self._flight = flight
        if usable:
            self._fly_behind(flight, meter)
            return usable.token
        if not joined:
            self._fly(flight, meter)
        return self._landed(flight)

    def _landed(self, flight: Flight) -> Token:
        found = flight.result()
        if isinstance(found, Failure):
            raise found.error(self._clock())
        return found.token

    def _fly_behind(self, flight: Flight, meter: Meter) -> None:
        behind = threading.Thread(
            target=self._fly, args=(flight, meter), kwargs={"early": True}, name="token refresh", daemon=True
        )
        try:
            behind.start()
        except RuntimeError:  # no more threads, or the interpreter is going down: others may wait for this flight
            self._fly(flight, meter, early=True)

    def _fly(self, flight: Flight, meter: Meter, *, early: bool = False) -> None:
        try:
            found = self._heard(early) or self._renew(meter, early)
        except BaseException as error:
            self._flight = None
            flight.set_exception(error)
            raise
        self._land(found, early)
        flight.set_result(found)

    def _land(self, found: Held | Failure, early: bool) -> None:
        with self._lock:
            self._flight = None
            if isinstance(found, Held):
                successor = self._held is None and bool(self._refused)
                self._held = Held(found.token, found.fresh_until, found.usable_until, successor)
                self._failure, self._failures = None, 0
            else:
                self._failure, self._hear_at = found, self._clock() + HEAR_SECONDS
        if early and isinstance(found, Failure):
            log.warning("no new token yet, the old one serves on", auth=found.auth, reason=found.detail)

    def _heard(self, early: bool) -> Held | Failure | None:
        """What the fleet says while a failure holds off here; None if none does, or not any more."""
        failure = self._failure
        if failure is None or self._clock() >= failure.until:
            return None
        found = self._look(self._client, early)
        if found is None and self._store.read(self._client.key) is None:  # it cannot be asked
            return failure
        return found

    def _renew(self, meter: Meter, early: bool) -> Held | Failure:
        found = self._obtain(self._client, meter, early)
        if isinstance(found, Failure) and found.refused:
            found = self._renew_with_other_secrets(found, meter, early)
        if isinstance(found, Failure):
            self._failures += 1
        return found

    def _renew_with_other_secrets(self, refused: Failure, meter: Meter, early: bool) -> Held | Failure:
        """The same with the secrets as they read now, if they read otherwise."""
        try:
            before, self._client = self._client, self._client.reread()
        except ConfigError as error:
            log.warning("the client's secrets cannot be read again", auth=self._client.name, reason=error.detail)
            # Somebody is just replacing them, or has to: that the server says no to the old ones is no last word.
            return replace(refused, refused=False, detail=f"{refused.detail}; {error.detail}")
        if self._client is before:
            return refused
        log.info("trying the client's secrets as they read now", auth=self._client.name)
        return self._obtain(self._client, meter, early)

    def _obtain(self, client: Client, meter: Meter, early: bool) -> Held | Failure:
        while True:
            if found := self._look(client, early):
                return found
            version = self._store.lead(client.key, self._owner, self._lease)
            if version is None:
                self._sleep(LOOK_SECONDS)
                continue
            if found := self._look(client, early):  # saved by another between our look and our lease
                self._store.fail(client.key, version, "", 0.0)
                return found
            return self._fetch(client, version, meter)

    def _look(self, client: Client, early: bool) -> Held | Failure | None:
        """What the fleet has: a token (if ``early``, a fresh one), a failure, or nothing that is of use."""
        token, entry, now = self._in_store(client)
        if token is not None and token.access_token != self._refused:
            held = self._hold(token)
            if now < (held.fresh_until if early else held.usable_until):
                return held
        told = entry is not None and 0 < entry.retry_in <= LONGEST_RETRY
        return Failure.told(client.name, entry, now) if entry and told else None

    def _fetch(self, client: Client, version: int, meter: Meter) -> Held | Failure:
        try:
            token = client.fetch(meter)
        except (Unavailable, Unauthorized) as error:
            retry_in = self._retry_in(error)
            failure = Failure.of(error, until=self._clock() + retry_in, since=self._failing_since(client))
            self._store.fail(client.key, version, failure.text, retry_in)
            return failure
        except BaseException:
            self._store.fail(client.key, version, "", 0.0)
            raise
        self._store.save(client.key, version, client.seal.close(token), token.left(self._clock()))
        return self._hold(token)

    def _failing_since(self, client: Client) -> str:
        """When the failures began, as far as anybody in the fleet remembers."""
        entry = self._store.read(client.key)
        if entry and entry.failure:
            return Failure.told(client.name, entry, 0.0).since
        return self._failure.since if self._failure else moment(self._now())

    def _retry_in(self, error: Unavailable | Unauthorized) -> float:
        if isinstance(error, Unavailable) and error.retry_after is not None:
            return error.retry_after
        return min(MAX_BACKOFF_SECONDS, 2.0 ** min(self._failures, 10))

    def _hold(self, token: Token) -> Held:
        usable_until = token.expires - min(MAX_MARGIN_SECONDS, MARGIN * token.lifetime)
        return Held(token, token.expires - (1 - self._refresh_from) * token.lifetime, usable_until)

    def _in_store(self, client: Client) -> tuple[Token | None, TokenEntry | None, float]:
        now = self._clock()
        entry = self._store.read(client.key)
        if entry is None or entry.sealed is None:
            return None, entry, now
        return client.seal.open(entry.sealed, now, entry.expires_in), entry, now

    def _forget_in_store(self, token: Token) -> None:
        found, entry, _ = self._in_store(self._client)
        # A lease means that a successor is on its way and will replace it; forgetting now would end that lease.
        if found and entry and not entry.lease_left and found.access_token == token.access_token:
            self._store.forget(self._client.key, entry.version)
