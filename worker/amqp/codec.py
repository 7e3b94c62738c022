"""Messages as pika has them, and as the rest has them: to bytes before the loop sees them, and back."""

from __future__ import annotations

import struct
from typing import Any

from pika import spec

from worker.amqp import properties
from worker.amqp.messages import Message, Outgoing, Settling
from worker.errors import DeliveryError

FRAME_MAX = 131_072
_HEADER_OVERHEAD = 64  # a header frame's own bytes, and some to spare
_PERSISTENT = 2


class Encoded:
    """A message's properties as they go over the wire; made by the thread that sends, to spare the loop's."""

    __slots__ = ("_content",)
    INDEX = spec.BasicProperties.INDEX

    def __init__(self, outgoing: Outgoing) -> None:
        """Raises ``DeliveryError`` for what cannot be sent."""
        properties.check(outgoing)
        wait = outgoing.expiration
        found = spec.BasicProperties(
            content_type=outgoing.content_type or None,
            content_encoding=outgoing.content_encoding or None,
            headers=dict(outgoing.headers) or None,
            delivery_mode=_PERSISTENT,
            correlation_id=outgoing.correlation_id or None,
            reply_to=outgoing.reply_to or None,
            expiration=None if wait is None else str(round(wait * 1000)),
            message_id=outgoing.message_id,
            type=outgoing.type or None,
        )
        self._content = b"".join(found.encode())
        if not self.fits(FRAME_MAX):
            raise DeliveryError("the headers of the message to send are too large for one frame")

    def fits(self, frame_max: int) -> bool:
        """Whether the broker would not close the connection for its size."""
        return len(self._content) + _HEADER_OVERHEAD <= frame_max

    def encode(self) -> list[bytes]:
        """What pika asks properties for."""
        return [self._content]


def message(queue: str, generation: int, settling: Settling, method: Any, found: Any, body: bytes) -> Message:
    """What pika delivers, as a message."""
    texts: tuple[Any, ...] = (
        found.message_id or "",
        found.correlation_id or "",
        found.reply_to or "",
        found.content_type or "",
        found.content_encoding or "",
        found.type or "",
    )
    unreadable = getattr(found, "unreadable", "")
    for text in texts:
        if type(text) is bytes:
            texts = tuple("" if type(each) is bytes else each for each in texts)
            unreadable = "its properties are not UTF-8 text"
            break
    headers = found.headers or {}
    redelivered, tag = method.redelivered, method.delivery_tag
    return Message(queue, body, *texts, headers, redelivered, unreadable, generation, tag, settling)  # type: ignore[call-arg]


def readable(content: bytes) -> Any:
    """The properties without their headers, which are most likely what cannot be read; else none of them."""
    flags = struct.unpack_from(">H", content)[0]
    found = spec.BasicProperties()
    try:
        if flags & spec.BasicProperties.FLAG_HEADERS:
            start = _end_of_text(content, 2, flags & found.FLAG_CONTENT_TYPE)
            start = _end_of_text(content, start, flags & found.FLAG_CONTENT_ENCODING)
            end = start + 4 + struct.unpack_from(">I", content, start)[0]
            found.decode(struct.pack(">H", flags & ~found.FLAG_HEADERS) + content[2:start] + content[end:])
    except Exception:  # noqa: BLE001 - as above
        found = spec.BasicProperties()
    found.unreadable = "its headers cannot be read"
    return found


def _end_of_text(content: bytes, start: int, present: int) -> int:
    return start + 1 + content[start] if present else start
