"""Deliveries and confirms, read from the bytes that came: pika takes several times as long for the objects of each.

Only the usual ones: all there, the body in one frame. The rest is left to pika, and to what guards that.
"""

from __future__ import annotations

import struct
from typing import Any

from pika import spec
from pika.data import decode_table

_METHOD = struct.Struct(">BHII")  # type, channel, size, class with method (AMQP 0-9-1, 4.2.3 and 4.2.4)
_DELIVERY = struct.Struct(">QB")  # tag, whether it is redelivered
_HEADER = struct.Struct(">BHIHHQH")  # type, channel, size, class, weight, size of the body, flags (4.2.6.1)
_BODY = struct.Struct(">BHI")
_ACK = struct.Struct(">BHIIQBB")  # type, channel, size, class with method, number, whether multiple, end
_AROUND = 8  # bytes of a frame before and after what is in it
# Each message would look up a dozen of these in pika's classes and in the structures.
_METHOD_FRAME, _HEADER_FRAME, _BODY_FRAME = spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY
_END, _CLASS, _DELIVER, _ACKED = spec.FRAME_END, spec.Basic.INDEX, spec.Basic.Deliver.INDEX, spec.Basic.Ack.INDEX
_METHOD_BYTES, _HEADER_BYTES, _BODY_BYTES = _METHOD.size, _HEADER.size, _BODY.size
_MORE_FLAGS = 1
_Flag = spec.BasicProperties
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = _Flag.FLAG_CONTENT_TYPE, _Flag.FLAG_CONTENT_ENCODING, _Flag.FLAG_HEADERS
_DELIVERY_MODE, _PRIORITY, _CORRELATION_ID = _Flag.FLAG_DELIVERY_MODE, _Flag.FLAG_PRIORITY, _Flag.FLAG_CORRELATION_ID
_REPLY_TO, _EXPIRATION, _MESSAGE_ID = _Flag.FLAG_REPLY_TO, _Flag.FLAG_EXPIRATION, _Flag.FLAG_MESSAGE_ID
_TIMESTAMP, _TYPE = _Flag.FLAG_TIMESTAMP, _Flag.FLAG_TYPE


Texts = tuple[str, str, str, str, str, str]
"""Message id, correlation id, reply to, content type, content encoding, type; empty: it came without."""

Arrived = tuple[int, bool, Texts, dict[str, Any], bytes]
"""Delivery tag, whether it is redelivered, properties, headers, body."""


def read(data: bytes, start: int) -> tuple[int, int, Arrived] | None:
    """Where the delivery that begins there ends, its channel, and what has arrived; None: it is for pika to read."""
    try:
        return _read(data, start)
    except Exception:  # noqa: BLE001 - it may be anything, or cut off anywhere
        return None


def read_ack(data: bytes, start: int) -> tuple[int, int, int, bool] | None:
    """Where the ack that begins there ends, its channel, its number, and whether it is for all before it as well."""
    if len(data) < start + _ACK.size:
        return None
    kind, channel, size, method, number, multiple, end = _ACK.unpack_from(data, start)
    if kind != _METHOD_FRAME or method != _ACKED or size != _ACK.size - _AROUND:
        return None
    return (start + _ACK.size, channel, number, bool(multiple & 1)) if end == _END else None


def _read(data: bytes, start: int) -> tuple[int, int, Arrived] | None:
    kind, channel, size, method = _METHOD.unpack_from(data, start)
    if kind != _METHOD_FRAME or method != _DELIVER:
        return None
    consumer = start + _METHOD_BYTES
    tag, flag = _DELIVERY.unpack_from(data, consumer + 1 + data[consumer])
    header = start + size + _AROUND
    kind, same, size, content, _, length, flags = _HEADER.unpack_from(data, header)
    body = header + size + _AROUND
    texts, headers, end = _properties(data, header + _HEADER_BYTES, flags)
    fits = same == channel and content == _CLASS and not flags & _MORE_FLAGS and end < body
    if kind != _HEADER_FRAME or not fits or not data[header - 1] == data[body - 1] == _END:
        return None
    if not length:
        return body, channel, (tag, bool(flag & 1), texts, headers, b"")
    kind, same, size = _BODY.unpack_from(data, body)
    following = body + size + _AROUND
    if kind != _BODY_FRAME or same != channel or size != length or data[following - 1] != _END:
        return None
    return following, channel, (tag, bool(flag & 1), texts, headers, data[body + _BODY_BYTES : following - 1])


def _properties(data: bytes, at: int, flags: int) -> tuple[Texts, dict[str, Any], int]:
    """Up to the last that is of use, in the order of their flags; and where they end."""
    content_type = content_encoding = correlation_id = reply_to = message_id = kind = ""
    headers: dict[str, Any] = {}
    if flags & _CONTENT_TYPE:
        content_type, at = _text(data, at)
    if flags & _CONTENT_ENCODING:
        content_encoding, at = _text(data, at)
    if flags & _HEADERS:
        headers, at = decode_table(data, at)
    at += bool(flags & _DELIVERY_MODE) + bool(flags & _PRIORITY)
    if flags & _CORRELATION_ID:
        correlation_id, at = _text(data, at)
    if flags & _REPLY_TO:
        reply_to, at = _text(data, at)
    if flags & _EXPIRATION:
        at += 1 + data[at]
    if flags & _MESSAGE_ID:
        message_id, at = _text(data, at)
    if flags & _TIMESTAMP:
        at += 8
    if flags & _TYPE:
        kind, at = _text(data, at)
    return (message_id, correlation_id, reply_to, content_type, content_encoding, kind), headers, at


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end
