"""Messages as pika has them, and as the rest has them: to bytes before the loop sees them, and back."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from pika import spec
from pika.data import encode_table

from worker.amqp import properties
from worker.amqp.incoming import Arrived
from worker.amqp.messages import Outgoing
from worker.errors import DeliveryError

FRAME_MAX = 131_072
_HEADER_OVERHEAD = 64  # a header frame's own bytes, and some to spare
_FRAME = struct.Struct(">BHI")  # type, channel, size
_NEXT_FRAME = struct.Struct(">BBHI")  # the end of the one before, and then this one's
_FRAME_END = bytes((spec.FRAME_END,))
_HEADER = struct.Struct(">BHIHHQ")  # type, channel, size, class, weight, size of the body
_HEADER_BYTES = 12  # of these, from the class on
_HEADER_TYPE, _BODY_TYPE, _CLASS = spec.FRAME_HEADER, spec.FRAME_BODY, spec.Basic.INDEX
_PERSISTENT = b"\x02"
_LENGTHS = tuple(bytes((length,)) for length in range(256))  # of a text
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 14, 1 << 13, 1 << 12
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TYPE = 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 5


def encoded(outgoing: Outgoing) -> bytes:
    """A message's properties as they go over the wire; by the thread that sends, to spare the loop's.

    The flags and what is present, in their order (AMQP 0-9-1, 4.2.6.1); pika takes several times as long. Raises
    ``DeliveryError`` for what cannot be sent.
    """
    properties.check(outgoing)
    flags, first, last = _kind(outgoing.content_type, outgoing.content_encoding, outgoing.type)
    pieces = [b"", first]
    if outgoing.headers:
        flags |= _HEADERS
        encode_table(pieces, dict(outgoing.headers))
    pieces.append(_PERSISTENT)
    if outgoing.correlation_id:
        flags |= _CORRELATION_ID
        pieces.append(_text(outgoing.correlation_id))
    if outgoing.reply_to:
        flags |= _REPLY_TO
        pieces.append(_text(outgoing.reply_to))
    if outgoing.expiration is not None:
        flags |= _EXPIRATION
        pieces.append(_text(str(round(outgoing.expiration * 1000))))
    pieces += _text(outgoing.message_id), last
    pieces[0] = flags.to_bytes(2, "big")
    content = b"".join(pieces)
    if len(content) + _HEADER_OVERHEAD > FRAME_MAX:  # for which the broker would close the connection
        raise DeliveryError("the headers of the message to send are too large for one frame")
    return content


@lru_cache(maxsize=256)
def _kind(content_type: str, content_encoding: str, kind: str) -> tuple[int, bytes, bytes]:
    """What many messages have in common: the flags of these and of what all have, what comes first, what comes last."""
    present = (_CONTENT_TYPE, content_type), (_CONTENT_ENCODING, content_encoding), (_TYPE, kind)
    flags = sum((flag for flag, text in present if text), start=_DELIVERY_MODE | _MESSAGE_ID)
    first = b"".join(_text(text) for text in (content_type, content_encoding) if text)
    return flags, first, _text(kind) if kind else b""


def _text(text: str) -> bytes:
    content = text.encode()
    return _LENGTHS[len(content)] + content


def frames(outgoing: Outgoing, content: bytes, channel: int, longest: int, *, mandatory: bool) -> bytes:
    """A message as it goes over the wire, with its properties as ``encoded``, its body in pieces of ``longest`` bytes.

    A method, a header and body frames (AMQP 0-9-1, 4.2.3 and 4.2.6); pika takes several times as long for them.
    """
    body = outgoing.body
    size = len(body)
    method = _publish(outgoing.exchange, outgoing.routing_key, channel, mandatory)
    header = _HEADER.pack(_HEADER_TYPE, channel, _HEADER_BYTES + len(content), _CLASS, 0, size)
    if 0 < size <= longest:  # as most are
        begin = _NEXT_FRAME.pack(spec.FRAME_END, _BODY_TYPE, channel, size)
        return b"".join((method, header, content, begin, body, _FRAME_END))
    found = [method, header, content, _FRAME_END]
    for at in range(0, size, longest):
        piece = body[at : at + longest]
        found += _FRAME.pack(_BODY_TYPE, channel, len(piece)), piece, _FRAME_END
    return b"".join(found)


@lru_cache(maxsize=256)
def _publish(exchange: str, routing_key: str, channel: int, mandatory: bool) -> bytes:
    arguments = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory).encode()
    method = b"".join((spec.Basic.Publish.INDEX.to_bytes(4, "big"), *arguments))
    return _FRAME.pack(spec.FRAME_METHOD, channel, len(method)) + method + _FRAME_END


def arrived(method: Any, found: Any, body: bytes) -> tuple[Arrived, str]:
    """What pika delivers, and why not all of it could be read."""
    texts: Any = (
        found.message_id or "",
        found.correlation_id or "",
        found.reply_to or "",
        found.content_type or "",
        found.content_encoding or "",
        found.type or "",
    )
    unreadable = getattr(found, "unreadable", "")
    if bytes in map(type, texts):
        texts = tuple("" if type(text) is bytes else text for text in texts)
        unreadable = "its properties are not UTF-8 text"
    return (method.delivery_tag, method.redelivered, texts, found.headers or {}, body), unreadable


def readable(content: bytes) -> Any:
    """The properties without their headers, which are most likely what cannot be read; else none of them."""
    flags = int.from_bytes(content[:2], "big")
    found = spec.BasicProperties()
    try:
        if flags & _HEADERS:
            start = _end_of_text(content, 2, flags & _CONTENT_TYPE)
            start = _end_of_text(content, start, flags & _CONTENT_ENCODING)
            end = start + 4 + int.from_bytes(content[start : start + 4], "big")
            found.decode((flags & ~_HEADERS).to_bytes(2, "big") + content[2:start] + content[end:])
    except Exception:  # noqa: BLE001 - as above
        found = spec.BasicProperties()
    found.unreadable = "its headers cannot be read"
    return found


def _end_of_text(content: bytes, start: int, present: int) -> int:
    return start + 1 + content[start] if present else start
