"""A connection that is always made anew, to the next address of the list, after waits that grow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import random as any_number
from typing import Protocol

from worker import log
from worker.amqp.backoff import Backoff
from worker.amqp.connection import Options
from worker.amqp.loop import Loop
from worker.amqp.losses import START, Declined, Lost
from worker.amqp.wire import Wire
from worker.broker_address import Address
from worker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class State:
    """Whether something is up, and since when; ``reason`` is why not, and ``advice`` what to do about it.

    ``blocked`` is why the broker takes no messages.
    """

    up: bool
    since: datetime
    reason: str = ""
    advice: str = ""
    blocked: str = ""


class User(Protocol):
    """Who has use for a connection; called on the loop's thread."""

    def up(self, wire: Wire) -> None:
        """There is one."""

    def down(self, error: Exception) -> None:
        """There is none any more; ``error`` is what the broker or the network said."""

    def unblocked(self) -> None:
        """The broker takes messages again."""


Addresses = Callable[[], Sequence[Address]]
"""The nodes of the broker, read anew at each try, as their password may be rotated; raises ``ConfigError``."""


class Link:
    """A connection for one purpose, from ``open`` to ``close``; all on the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        addresses: Addresses,
        options: Options,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = any_number,
    ) -> None:
        self._loop = loop
        self._addresses = addresses
        self._options = options
        self._clock = clock
        self._backoff = Backoff(random)
        self._turn = itertools.count()
        self._users: list[User] = []
        self._attempt: Wire | None = None
        self._closed_for_good: Callable[[], None] | None = None
        self._log = log.get_logger()
        self.wire: Wire | None = None
        self.state = State(up=False, since=clock(), reason="not connected yet", advice=START)

    @property
    def closing(self) -> bool:
        """Whether it is not made again."""
        return self._closed_for_good is not None

    def add(self, user: User) -> None:
        """Tell it of each connection from now on, the present one included."""
        self._users.append(user)
        if self.wire:
            user.up(self.wire)

    def open(self) -> None:
        """Connect."""
        if self.closing:
            return
        try:
            addresses = self._addresses()
            address = addresses[next(self._turn) % len(addresses)]
            self._attempt = Wire(
                self._loop, address, self._options, opened=self._opened, closed=self._closed, blocked=self._blocked
            )
        except (OSError, ConfigError, ValueError) as error:
            self._closed(error)

    def close(self, done: Callable[[], None]) -> None:
        """Disconnect for good."""
        self._closed_for_good = done
        if self._attempt:
            self._attempt.close()
        else:
            done()

    def renew(self) -> None:
        """Give the connection up, as it may be broken, and make another one."""
        if self._attempt:
            self._attempt.close()

    def drop(self) -> None:
        """Let go of what is left of it, once the loop runs no more."""
        if self._attempt:
            self._attempt.drop()

    def _opened(self) -> None:
        self.wire = self._attempt
        assert self.wire  # noqa: S101 - it is what has opened
        self._backoff.reset()
        self.state = State(up=True, since=self._clock())
        self._log.info("broker connected", broker=self.wire.product, connection=self._options.name)
        for user in self._users:
            user.up(self.wire)

    def _blocked(self, reason: str) -> None:
        self.state = State(up=self.state.up, since=self._clock(), blocked=reason)
        self._log.warning("broker takes no messages" if reason else "broker takes messages again", reason=reason)
        if not reason:
            for user in self._users:
                user.unblocked()

    def _closed(self, error: Exception) -> None:
        was_up, self.wire, self._attempt = self.wire is not None, None, None
        reason = said(error)
        if was_up or self.state.reason != reason:  # the same trouble is told once
            self.state = State(up=False, since=self._clock(), reason=reason, advice=advice(error))
            if not self.closing:
                self._log.warning("broker not connected", reason=reason, connection=self._options.name)
        if was_up:
            for user in self._users:
                user.down(error)
        if self._closed_for_good:
            self._closed_for_good()
        else:
            self._loop.later(self._backoff.wait(), self.open)


def advice(error: Exception) -> str:
    """What to do where there can be no connection; nothing where ``said`` says that, too."""
    if isinstance(error, ConfigError):
        return ""
    return error.advice if isinstance(error, Lost) else START


def said(error: Exception) -> str:
    """Why there is no connection, in a sentence without anything secret."""
    if isinstance(error, Declined):
        return f"the broker closed it: {error}"
    if isinstance(error, OSError):
        return f"{error.strerror or 'unreadable'}: {error.filename}" if error.filename else str(error.strerror)
    return str(error)
