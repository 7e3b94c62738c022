"""Loop, connections and channels, as the rest of the package sees them. Together with ``codec`` all that knows pika.

All of it belongs to the thread of the loop; only ``Loop.wake`` is for others. No callback lets an exception out: pika
would abort the connection for it.
"""

from __future__ import annotations

import logging
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from pika import exceptions, frame, spec
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from worker import log
from worker.amqp import codec
from worker.amqp.messages import Outgoing
from worker.amqp.steps import Step
from worker.amqp.topology import Queue
from worker.broker_address import Address

logging.getLogger("pika").setLevel(logging.CRITICAL)  # whatever it says at each try arrives here as an exception, too

_Frame = Any  # pika's, which says little about its types


class Lost(Exception):
    """The connection is gone; a sentence says why."""


class Declined(Exception):
    """The broker closed the channel or connection for what was asked: its code (AMQP 0-9-1 section 1.3), its words."""

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        self.said = said
        super().__init__(f"{code} {said}")


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect; times are seconds."""

    name: str
    heartbeat: int = 30
    blocked_timeout: float = 300
    connect_timeout: float = 10
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    def tls(self) -> ssl.SSLContext:
        """Read anew at each connection, so that certificates may be rotated; raises ``OSError``."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.client_cert:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


def guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """The callback, with what it raises logged and kept away from the loop."""

    def call(*values: Any) -> None:
        try:
            callback(*values)
        except Exception:  # noqa: BLE001 - whatever it is
            log.get_logger().exception("broker callback failed")

    return call


class Loop:
    """Waits for sockets and timers. What it was woken for is kept even if it has to begin anew."""

    def __init__(self) -> None:
        self._woken: deque[Callable[[], None]] = deque()
        self.io = IOLoop()

    def run(self) -> None:
        """Return after ``stop``; whatever pika lets escape is raised."""
        self.io.start()

    def renew(self) -> None:
        """Forget connections and timers, after ``run`` has raised."""
        self.io = IOLoop()
        self.io.add_callback_threadsafe(self._answer)

    def stop(self) -> None:
        """End ``run``."""
        self.io.stop()

    def close(self) -> None:
        """Give back what it waits with; who wakes it from now on does so in vain."""
        self.io.close()

    def wake(self, callback: Callable[[], None]) -> None:
        """Call it soon, on the loop's thread; from any thread."""
        self._woken.append(callback)
        self.io.add_callback_threadsafe(self._answer)

    def _answer(self) -> None:
        if self._woken:
            guarded(self._woken.popleft())()

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it after a while; returns what cancels that."""
        timer = self.io.call_later(seconds, guarded(callback))
        return lambda: self.io.remove_timeout(timer)


class Bell:
    """Wakes the loop for a callback, once however often it rings before the callback is called; from any thread."""

    def __init__(self, loop: Loop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._rung = False

    def ring(self) -> None:
        """Ask for the callback; what was appended to a deque before will be seen by it."""
        if not self._rung:
            self._rung = True
            self._loop.wake(self._answer)

    def _answer(self) -> None:
        self._rung = False
        self._callback()


class Wire:
    """A connection. Calls ``opened`` once, then ``closed`` once with the reason, or only the latter."""

    def __init__(
        self,
        loop: Loop,
        address: Address,
        options: Options,
        *,
        opened: Callable[[], None],
        closed: Callable[[Exception], None],
        blocked: Callable[[str], None],
    ) -> None:
        self._closed = guarded(closed)
        self._connection = _Connection(
            _parameters(address, options),
            on_open_callback=guarded(lambda _: opened()),
            on_open_error_callback=guarded(lambda _, error: self._closed(_translated(error))),
            on_close_callback=guarded(lambda _, error: self._closed(_translated(error))),
            custom_ioloop=loop.io,
        )
        self._connection.add_on_connection_blocked_callback(
            guarded(lambda _, method: blocked(method.method.reason or "the broker has an alarm"))
        )
        self._connection.add_on_connection_unblocked_callback(guarded(lambda *_: blocked("")))

    @property
    def product(self) -> str:
        """What the broker says it is."""
        found = self._connection.server_properties or {}
        return f"{found.get('product', 'AMQP')} {found.get('version', '')}".strip()

    @property
    def frame_max(self) -> int:
        """The largest frame that both sides take, in bytes."""
        return int(self._connection.params.frame_max)

    def close(self) -> None:
        """Say goodbye; ``closed`` is called when that is answered, or the connection is lost."""
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def channel(self, closed: Callable[[Exception], None]) -> Step:
        """A step that opens a ``Channel``; ``closed`` is for the end of that outside of any step."""

        def open_channel(done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
            Channel(self._connection, closed).open(done, failed)

        return open_channel


class Channel:
    """A channel; its methods that return a ``Step`` are for one step at a time."""

    def __init__(self, connection: Any, closed: Callable[[Exception], None]) -> None:
        self._connection = connection
        self._closed = guarded(closed)
        self._failed: Callable[[Exception], None] | None = None
        self._channel: Any = None
        self.is_open = False

    def open(self, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """The first step."""

        def opened(_channel: Any) -> None:
            self.is_open = True
            self._failed = None
            done(self)

        self._failed = failed
        try:
            self._channel = self._connection.channel(on_open_callback=guarded(opened))
        except exceptions.AMQPError as error:
            failed(_translated(error))
            return
        self._channel.add_on_close_callback(guarded(lambda _, error: self._end(_translated(error))))

    def _end(self, error: Exception) -> None:
        self.is_open = False
        failed, self._failed = self._failed, None
        (failed or self._closed)(error)

    def _step(self, ask: Callable[[Callable[[_Frame], None]], object]) -> Step:
        def step(done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
            def answered(answer: _Frame) -> None:
                self._failed = None
                done(answer.method)

            self._failed = failed
            try:
                ask(guarded(answered))
            except exceptions.AMQPError as error:
                self._failed = None
                failed(_translated(error))

        return step

    def declare(self, queue: Queue, *, passive: bool) -> Step:
        """A queue, durable; ``passive``: only look whether it is there (what is not closes the channel, with 404)."""
        arguments = {} if passive else dict(queue.arguments)
        return self._step(
            lambda done: self._channel.queue_declare(
                queue.name, passive=passive, durable=True, arguments=arguments, callback=done
            )
        )

    def delete(self, queue: str) -> Step:
        """A queue, and what is in it."""
        return self._step(lambda done: self._channel.queue_delete(queue, callback=done))

    def prefetch(self, count: int) -> Step:
        """Take no more than so many messages that are not settled."""
        return self._step(lambda done: self._channel.basic_qos(prefetch_count=count, callback=done))

    def consume(self, queue: str, arrived: Callable[..., None], cancelled: Callable[[], None]) -> Step:
        """Take messages; ``cancelled``: the broker stops that, as the queue has gone."""
        self._channel.add_on_cancel_callback(guarded(lambda _: cancelled()))
        deliver = guarded(lambda _, method, found, body: arrived(method, found, body))
        return self._step(lambda done: self._channel.basic_consume(queue, deliver, callback=done))

    def cancel(self) -> Step:
        """Take no more messages."""
        (tag,) = self._channel.consumer_tags
        return self._step(lambda done: self._channel.basic_cancel(tag, callback=done))

    def confirm(self, confirmed: Callable[[int, bool, bool], None], returned: Callable[[str, str, str], None]) -> Step:
        """Have what is published confirmed: its number, whether for all before it as well, and whether it was taken.

        ``returned`` gets exchange, routing key and message id of what no queue takes, before that is confirmed.
        """

        def answered(answer: _Frame) -> None:
            method = answer.method
            confirmed(method.delivery_tag, method.multiple, isinstance(method, spec.Basic.Ack))

        self._channel.add_on_return_callback(
            guarded(lambda _, method, found, _body: returned(method.exchange, method.routing_key, found.message_id))
        )
        return self._step(lambda done: self._channel.confirm_delivery(guarded(answered), callback=done))

    def publish(self, outgoing: Outgoing, encoded: codec.Encoded) -> None:
        """Send a message, mandatory; raises ``Lost``."""
        self._send(
            self._channel.basic_publish, outgoing.exchange, outgoing.routing_key, outgoing.body, encoded, mandatory=True
        )

    def ack(self, tag: int, *, multiple: bool) -> None:
        """Take a message, or all up to it, off the queue; raises ``Lost``."""
        self._send(self._channel.basic_ack, tag, multiple)

    def requeue(self, tag: int) -> None:
        """Put a message back; raises ``Lost``."""
        self._send(self._channel.basic_nack, tag, False, True)

    @staticmethod
    def _send(method: Callable[..., None], *values: Any, **named: Any) -> None:
        try:
            method(*values, **named)
        except exceptions.AMQPError as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Say goodbye to it; the broker requeues what is not settled."""
        if self._channel.is_open:
            self._channel.close()


class _Connection(pika.SelectConnection):  # type: ignore[misc]  # says little about its types
    """Survives properties that pika cannot decode, for which it would drop the connection, again at each redelivery."""

    def _read_frame(self) -> tuple[int, Any]:
        try:
            found: tuple[int, Any] = super()._read_frame()
            return found
        except exceptions.InvalidFrameError:
            raise
        except Exception:  # noqa: BLE001 - a decoder that is given anything may raise anything
            return self._salvaged()

    def _salvaged(self) -> tuple[int, Any]:
        kind, channel, size = struct.unpack_from(">BHI", self._frame_buffer)
        content = bytes(self._frame_buffer[7 : 7 + size])
        if kind != spec.FRAME_HEADER:
            raise exceptions.InvalidFrameError("a frame that cannot be read")
        return 8 + size, frame.Header(channel, struct.unpack_from(">Q", content, 4)[0], codec.readable(content[12:]))


def _parameters(address: Address, options: Options) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password, erase_on_connect=True),
        ssl_options=pika.SSLOptions(options.tls(), address.host) if address.encrypted else None,
        heartbeat=options.heartbeat,
        blocked_connection_timeout=options.blocked_timeout,
        socket_timeout=options.connect_timeout,
        stack_timeout=options.connect_timeout * 1.5,
        connection_attempts=1,
        frame_max=codec.FRAME_MAX,
        client_properties={"connection_name": options.name, "product": "Longshore"},
    )


def _translated(error: BaseException) -> Exception:
    """What pika says, as one of ours; its own text may hold anything."""
    match error:
        case exceptions.ProbableAuthenticationError():
            return Lost("the broker does not take this user and password")
        case exceptions.ProbableAccessDeniedError():
            return Lost("the broker has no such virtual host, or not for this user")
        case exceptions.ConnectionClosedByBroker() | exceptions.ChannelClosedByBroker():
            return Declined(error.reply_code, error.reply_text)
        case exceptions.ConnectionClosedByClient() | exceptions.ChannelClosedByClient():
            return Lost("closed by this worker")
        case exceptions.ConnectionBlockedTimeout():
            return Lost("the broker blocked it for too long")
        case exceptions.AMQPHeartbeatTimeout():
            return Lost("the broker has gone silent")
        case exceptions.IncompatibleProtocolError():
            return Lost("what answers there does not speak AMQP 0-9-1")
    return Lost(_system_reason(error))


def _system_reason(error: BaseException) -> str:
    for inner in _chain(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {inner.verify_message}"
        if isinstance(inner, ssl.SSLError):
            return f"TLS failed: {inner.reason or 'broken off'}"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        if isinstance(inner, TimeoutError):
            return "no answer in time"
    return "the connection was cut"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that it was made from, outermost first."""
    inner = [each for each in error.args if isinstance(each, BaseException)]
    if isinstance(error, AMQPConnectorException | exceptions.AMQPConnectionWorkflowFailed):
        inner += list(getattr(error, "exceptions", ()))
    return [error, *(found for each in inner for found in _chain(each))]
