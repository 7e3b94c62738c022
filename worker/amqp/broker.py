"""One thread that owns all connections to the broker."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from random import random as any_number

from worker import log
from worker.amqp.backoff import Backoff
from worker.amqp.connection import Options
from worker.amqp.consuming import Consumption, Receive
from worker.amqp.link import Addresses, Link, State
from worker.amqp.loop import Loop
from worker.amqp.messages import Outgoing
from worker.amqp.news import News
from worker.amqp.publishing import Done, Publisher
from worker.amqp.topology import DIRECT_REPLY, Topology
from worker.broker_address import Address
from worker.records import Pause
from worker.secret import Secret
from worker.settings import AmqpSettings

GOODBYE_SECONDS = 5.0
TRIES = 10


class Broker:
    """The broker that ``[amqp]`` names, from ``start`` to ``close``: connected to again however often it goes.

    It has one connection for consuming, one for publishing (a broker in need stops reading from those that publish,
    and acks must not wait for that), and, once somebody asks for direct replies, one for those: a made-up target
    makes the broker close the connection.
    """

    def __init__(self, addresses: Addresses, options: Options, *, random: Callable[[], float] = any_number) -> None:
        self._random = random
        self._loop = Loop()
        self._addresses = addresses
        self._options = options
        self._links: dict[str, Link] = {}
        self._publisher = Publisher(self._loop, self._link("publishing"), random)
        self._direct = Publisher(self._loop, self._link("direct replies"), random, direct=True)
        self._link("consuming")
        self._used: set[str] = set()
        self._closing = threading.Event()
        self._backoff = Backoff(random)
        self._news = News()
        self._log = log.get_logger()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    @classmethod
    def of(cls, settings: AmqpSettings) -> Broker:
        """The one that the settings name."""
        return cls(addresses(settings.urls), options(settings))

    def _link(self, purpose: str) -> Link:
        named = replace(self._options, name=f"{self._options.name} ({purpose})")
        self._links[purpose] = Link(self._loop, self._addresses, named)
        return self._links[purpose]

    @property
    def state(self) -> State:
        """The worst of its connections'; from any thread. Not of the one that a made-up target may close."""
        states = [self._links[purpose].state for purpose in ("consuming", "publishing") if purpose in self._used]
        return min(states, key=lambda state: (state.up, not state.blocked), default=self._links["consuming"].state)

    def news(self, neglected: str = "") -> Pause | None:
        """That it is away, or is there again, where that was not told yet; called by one thread.

        ``neglected`` is a queue that is not worked off though it is there, and why.
        """
        return None if self._closing.is_set() else self._news.of(self.state, neglected)

    def start(self, first: Callable[[], None] = lambda: None) -> None:
        """Begin to connect; its thread calls ``first`` before."""
        self._loop.wake(first)
        self._loop.wake(lambda: self._use("publishing", self._publisher))
        self._thread.start()

    def _use(self, purpose: str, user: Publisher | Consumption) -> None:
        link = self._links[purpose]
        link.add(user)
        if purpose not in self._used:
            self._used.add(purpose)
            link.open()

    def consume(self, topology: Topology, *, prefetch: int, receive: Receive) -> Consumption:
        """Take messages from a queue, at most ``prefetch`` that are not settled; its topology is made sure of first."""
        consumption = Consumption(self._loop, self._links["consuming"], topology, prefetch, receive, self._random)
        self._loop.wake(lambda: self._use("consuming", consumption))
        return consumption

    def publish(self, outgoing: Outgoing, done: Done, *, tries: int = TRIES) -> None:
        """Send a message until the broker has it; ``done`` is told once what became of it. From any thread.

        A broker that says no is asked ``tries`` times, with waits. Raises ``DeliveryError`` for what cannot be sent.
        """
        if not outgoing.exchange and outgoing.routing_key.startswith(DIRECT_REPLY):
            self._loop.wake(self._use_direct)
            self._direct.publish(outgoing, done, tries)
        else:
            self._publisher.publish(outgoing, done, tries)

    def gathered(self) -> AbstractContextManager[None]:
        """Send what is published in the ``with`` at its end, but for direct replies; for one thread at a time."""
        return self._publisher.gathered()

    def _use_direct(self) -> None:
        if "direct replies" not in self._used:
            self._use("direct replies", self._direct)

    def close(self, grace: float = 0, goodbye: float = GOODBYE_SECONDS) -> None:
        """Disconnect, once what was published is answered or ``grace`` seconds are over; the rest ends as UNKNOWN.

        The broker has ``goodbye`` seconds to agree.
        """
        if not self._thread.is_alive():
            return
        answered = threading.Event()
        self._loop.wake(lambda: self._publisher.when_idle(lambda: self._direct.when_idle(answered.set)))
        answered.wait(grace)
        self._loop.wake(self._say_goodbye)
        self._thread.join(goodbye)
        self._closing.set()
        self._loop.wake(self._loop.stop)
        self._thread.join(goodbye)

    def _say_goodbye(self) -> None:
        left = set(self._used)
        self._closing.set()

        def gone(purpose: str) -> None:
            left.discard(purpose)
            if not left:
                self._loop.stop()

        for purpose in tuple(left):
            self._links[purpose].close(partial(gone, purpose))

    def _run(self) -> None:
        while True:
            try:
                self._loop.run()
            except Exception:  # noqa: BLE001 - a bug of the loop must not end the worker
                if self._closing.is_set():  # pika fails an assertion where a connection is closed before it is open
                    break
                self._log.exception("broker loop failed")
                self._closing.wait(self._backoff.wait())
                for purpose in self._used:
                    self._links[purpose].renew()
            if self._closing.is_set():
                break
        for purpose in self._used:
            self._links[purpose].drop()
        self._loop.close()
        for publisher in (self._publisher, self._direct):
            publisher.give_up()


def addresses(urls: Sequence[Secret]) -> Callable[[], list[Address]]:
    """The nodes of the broker, read anew at each call."""
    return lambda: [_address(url) for url in urls]


def _address(url: Secret) -> Address:
    try:
        return Address.read(url.reveal())
    except ValueError as error:
        raise url.mistake(str(error)) from None


def options(settings: AmqpSettings) -> Options:
    """How to connect; the name is what the broker's own tools show."""
    return Options(
        name=f"longshore {socket.gethostname()}:{os.getpid()}",
        heartbeat=settings.heartbeat,
        ca_file=settings.ca_file,
        client_cert=settings.client_cert,
        client_key=settings.client_key,
    )
