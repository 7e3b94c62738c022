"""Connections and channels, as the rest of the package sees them; all of it belongs to the thread of the loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pika import exceptions, spec

from worker.amqp import codec
from worker.amqp.connection import Connection, Options, parameters
from worker.amqp.loop import Loop, guarded
from worker.amqp.losses import Lost, translated
from worker.amqp.messages import Outgoing
from worker.amqp.steps import Step
from worker.amqp.topology import Queue
from worker.broker_address import Address

_Frame = Any  # pika's, which says little about its types


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
        self._connection = Connection(
            loop.io,
            parameters(address, options),
            on_open_callback=guarded(lambda _: opened()),
            on_open_error_callback=guarded(lambda _, error: self._closed(translated(error))),
            on_close_callback=guarded(lambda _, error: self._closed(translated(error))),
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

    def close(self) -> None:
        """Say goodbye; ``closed`` is called when that is answered, or the connection is lost."""
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def drop(self) -> None:
        """Let go of what is left of it, once the loop runs no more."""
        self._connection.drop()

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
            failed(translated(error))
            return
        self._channel.add_on_close_callback(guarded(lambda _, error: self._end(translated(error))))

    def _end(self, error: Exception) -> None:
        self.is_open = False
        self._take_no_more()
        self._connection.confirmers.pop(self._channel.channel_number, None)
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
                failed(translated(error))

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

    def consume(self, queue: str, arrive: Callable[..., None], cancelled: Callable[[], None]) -> Step:
        """Take messages, each given to ``arrive`` with why not all of it could be read, if so.

        ``cancelled``: the broker stops that, as the queue has gone.
        """
        self._channel.add_on_cancel_callback(guarded(lambda _: cancelled()))
        self._connection.takers[self._channel.channel_number] = guarded(arrive)
        deliver = guarded(lambda _, method, found, body: arrive(*codec.arrived(method, found, body)))
        return self._step(lambda done: self._channel.basic_consume(queue, deliver, callback=done))

    def cancel(self) -> Step:
        """Take no more messages."""
        self._take_no_more()
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
        acked = guarded(lambda number, multiple: confirmed(number, multiple, True))
        self._connection.confirmers[self._channel.channel_number] = acked
        return self._step(lambda done: self._channel.confirm_delivery(guarded(answered), callback=done))

    def publish(self, outgoing: Outgoing, content: bytes, *, mandatory: bool) -> None:
        """Send a message; ``mandatory``: it is returned if no queue takes it. Raises ``Lost``."""
        if not self._channel.is_open:
            raise Lost("the channel is closed")
        try:
            self._connection.publish(self._channel.channel_number, outgoing, content, mandatory=mandatory)
        except exceptions.AMQPError as error:
            raise translated(error) from error

    def ack(self, tag: int, *, multiple: bool) -> None:
        """Take a message, or all up to it, off the queue; raises ``Lost``."""
        self._send(self._channel.basic_ack, tag, multiple)

    def requeue(self, tag: int) -> None:
        """Put a message back; raises ``Lost``."""
        self._send(self._channel.basic_nack, tag, False, True)

    def gathered(self) -> AbstractContextManager[None]:
        """Send all that is published and settled in the ``with`` at once."""
        found: AbstractContextManager[None] = self._connection.gathered()
        return found

    @staticmethod
    def _send(method: Callable[..., None], *values: Any) -> None:
        try:
            method(*values)
        except exceptions.AMQPError as error:
            raise translated(error) from error

    def close(self) -> None:
        """Say goodbye to it; the broker requeues what is not settled."""
        if self._channel.is_open:
            self._take_no_more()
            self._channel.close()

    def _take_no_more(self) -> None:
        """What still comes is for pika, which gives it back."""
        self._connection.takers.pop(self._channel.channel_number, None)
