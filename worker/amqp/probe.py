"""A look at the broker, for somebody who has not started yet."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from worker.amqp import broker, declaring
from worker.amqp.codec import encoded
from worker.amqp.link import advice, said
from worker.amqp.loop import Loop
from worker.amqp.losses import Declined
from worker.amqp.messages import Outgoing
from worker.amqp.steps import Steps, follow
from worker.amqp.topology import Topology
from worker.amqp.wire import Channel, Wire
from worker.broker_address import Address
from worker.errors import ConfigError, Problem, Unavailable
from worker.settings import AmqpSettings

PROBE_SECONDS = 20.0
ACCESS_REFUSED = 403


@dataclass(frozen=True, slots=True)
class Found:
    """What answers at which address, which queues are not there yet, and how others are unlike those of the worker."""

    product: str
    address: str
    missing: tuple[str, ...]
    unlike: tuple[str, ...]


class _Probe:
    """One try at one address, on a loop of its own."""

    def __init__(
        self, settings: AmqpSettings, address: Address, topologies: Iterable[Topology], patience: float
    ) -> None:
        self._address = address
        self._topologies = topologies
        self._loop = Loop()
        self._seen: list[declaring.Seen] = []
        self._end: Exception | None = TimeoutError("no answer in time")
        self._wire = Wire(
            self._loop,
            address,
            replace(broker.options(settings), connect_timeout=patience),
            opened=self._opened,
            closed=self._closed,
            blocked=lambda _: self._hang_up(),
        )

    def run(self) -> Found:
        """Raises ``ConfigError`` for queues that will not do, ``Lost`` or another for a broker that does not answer."""
        self._loop.later(PROBE_SECONDS, self._loop.stop)
        self._loop.run()
        self._wire.drop()
        self._loop.close()
        if self._end:
            raise self._end
        missing = tuple(name for seen in self._seen for name in seen.missing)
        unlike = tuple(what for seen in self._seen for what in seen.unlike)
        return Found(self._product, str(self._address), missing, unlike)

    def _opened(self) -> None:
        self._product = self._wire.product
        follow(self._look(), lambda _: self._finish(None), self._finish)

    def _look(self) -> Steps:
        problems: list[Problem] = []
        for topology in self._topologies:
            try:
                self._seen.append((yield from declaring.look(self._wire, topology)))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        if self._topologies:
            yield from self._send_to_nobody()

    def _send_to_nobody(self) -> Steps:
        """A message that no queue takes: the broker closes the channel for it where this user may not write."""

        def send(sent: Callable[[Any], None], _failed: Callable[[Exception], None]) -> None:
            self._sent = sent
            channel.publish(nobodys, encoded(nobodys), mandatory=True)

        nobodys = Outgoing(f"longshore.nobody.{secrets.token_hex(8)}", b"", message_id="nobodys")
        channel: Channel = yield self._wire.channel(self._not_sent)
        yield channel.confirm(lambda *_: self._sent(None), lambda *_: None)
        yield send

    def _not_sent(self, error: Exception) -> None:
        if isinstance(error, Declined) and error.code == ACCESS_REFUSED:
            what = "this user may not write to queues; let it write to the default exchange (amq.default)"
            error = ConfigError([Problem("broker", "", what)])
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        self._ends_with(error)
        self._wire.close()

    def _hang_up(self) -> None:
        """A broker in need reads nothing more of who has sent something, not even a goodbye; it is there."""
        self._ends_with(None)
        self._loop.stop()

    def _closed(self, error: Exception) -> None:
        self._ends_with(error)
        self._loop.stop()

    def _ends_with(self, error: Exception | None) -> None:
        """What comes first: to part makes ends of its own."""
        if isinstance(self._end, TimeoutError):
            self._end = error


def probe(settings: AmqpSettings, topologies: Iterable[Topology] = (), *, patience: float = 10) -> Found:
    """Connect, within ``patience`` seconds, and look whether the queues will do; nothing is declared.

    Raises ``ConfigError`` for queues that will not do, ``Unavailable`` if no address answers.
    """
    reasons, advices = [], {}
    for address in broker.addresses(settings.urls)():
        try:
            return _Probe(settings, address, tuple(topologies), patience).run()
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - the next one may answer
            reasons.append(f"{address}: {said(error)}")
            advices[advice(error)] = True
    raise Unavailable("amqp", f"no broker can be used ({'; '.join(reasons)}); {'; or '.join(advices)}")
