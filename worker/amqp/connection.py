"""pika's connection, with what it lacks: it survives any properties, and sends many frames at once."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from pika import exceptions, frame, spec
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from worker.amqp import codec, incoming
from worker.amqp.incoming import Arrived
from worker.amqp.messages import Outgoing
from worker.broker_address import Address

logging.getLogger("pika").setLevel(logging.CRITICAL)  # whatever it says at each try arrives here as an exception, too


READ_BYTES = 65_536  # at once


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
            # Without a password, OpenSSL would ask the terminal for that of a key which is encrypted by now, and wait.
            context.load_cert_chain(self.client_cert, self.client_key, password="")
        return context


class _Services(SelectorIOServicesAdapter):  # type: ignore[misc]  # says little about its types
    """Knows how to let go of the socket, whatever the connection is about to do with it."""

    def __init__(self, loop: IOLoop) -> None:
        super().__init__(loop)
        self.drop: Callable[[], object] = lambda: None

    def connect_socket(self, sock: socket.socket, *values: Any, **named: Any) -> Any:
        self.drop = sock.close
        return super().connect_socket(sock, *values, **named)

    def create_streaming_connection(self, *values: Any, **named: Any) -> Any:
        under_way = super().create_streaming_connection(*values, **named)
        self.drop = under_way.cancel
        return under_way


class Connection(pika.SelectConnection):  # type: ignore[misc]  # says little about its types
    """Survives properties that pika cannot decode, for which it would drop the connection, again at each redelivery.

    By the number of a channel, and where that can be read without pika, ``takers`` get what is delivered on it, and
    ``confirmers`` the number of what is confirmed, and whether that stands for all before it.
    """

    def __init__(self, loop: IOLoop, *values: Any, **named: Any) -> None:
        self._services = _Services(loop)
        self.takers: dict[int, Callable[[Arrived], None]] = {}
        self.confirmers: dict[int, Callable[[int, bool], None]] = {}
        self._gathered: list[bytes] | None = None
        super().__init__(*values, custom_ioloop=self._services, **named)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Send what is written in here at once: pika would make a system call of each frame, three of a message."""
        self._gathered = []
        try:
            yield
        finally:
            frames, self._gathered = self._gathered, None
            if frames and not self.is_closed:
                super()._output_marshaled_frames([b"".join(frames)])

    def publish(self, channel: int, outgoing: Outgoing, content: bytes, *, mandatory: bool) -> None:
        """Send a message on an open channel."""
        frames = codec.frames(outgoing, content, channel, self._body_max_length, mandatory=mandatory)
        if self._gathered is None:
            self._output_marshaled_frames([frames])
        else:
            self._gathered.append(frames)

    def drop(self) -> None:
        """Close its socket, where the loop, which would close the connection, runs no more."""
        self._services.drop()

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        if self._gathered is None:
            super()._output_marshaled_frames(marshaled_frames)
        else:
            self._gathered += marshaled_frames

    def _proto_connection_made(self, transport: Any) -> None:
        self._services.drop = transport._sock.close
        transport._MAX_RECV_BYTES = READ_BYTES  # 4096 are some messages, the last of them cut off
        if not self.params.ssl_options:  # TLS may hold something back that no poll tells of
            transport._MAX_CONSUME_BYTES = 1  # one system call a poll: a second one mostly finds nothing
        super()._proto_connection_made(transport)

    def _adapter_emit_data(self, data: bytes) -> None:
        """Send at once what the socket takes: pika would first wait for it, and make four system calls of one.

        Each of them gives up Python's lock, which busy threads then do not give back soon.
        """
        transport = self._transport
        waits = transport.get_write_buffer_size() > 0 or transport._state != transport._STATE_ACTIVE
        if not self.params.ssl_options and not waits:
            with suppress(OSError):  # which pika meets again, and tells
                data = data[transport._sock.send(data) :]
        if data:
            transport.write(data)

    def _on_data_available(self, data: bytes) -> None:
        self._frame_buffer += data
        while self._frame_buffer:
            self._trim_frame_buffer(self._confirm(self._frame_buffer, self._take(self._frame_buffer)))
            size, found = self._read_frame()
            if not found:
                return
            self._trim_frame_buffer(size)
            self._process_frame(found)

    def _take(self, data: bytes) -> int:
        """Hand over the deliveries that ``data`` begins with; returns where they end."""
        at = 0
        while self.takers and (delivery := incoming.read(data, at)):
            following, channel, arrived = delivery
            if not (take := self.takers.get(channel)):
                break
            take(arrived)
            at = following
        return at

    def _confirm(self, data: bytes, at: int) -> int:
        """Hand over the confirms from there on; returns where they end."""
        while self.confirmers and (ack := incoming.read_ack(data, at)):
            following, channel, number, multiple = ack
            if not (confirm := self.confirmers.get(channel)):
                break
            confirm(number, multiple)
            at = following
        return at

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


def parameters(address: Address, options: Options) -> pika.ConnectionParameters:
    """As pika wants them; raises ``OSError`` for certificates that cannot be read."""
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
