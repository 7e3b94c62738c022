"""What the properties of a message may hold, checked before the client library sees it.

It would raise in the middle of a publish, or the broker would close the connection and all that is under way on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

from worker.amqp.messages import Outgoing
from worker.errors import DeliveryError

_SHORT = 255  # AMQP 0-9-1 section 4.2.5.3, in bytes of UTF-8
_LONG = 1 << 63
_DECIMAL = 1 << 31
_DEPTH = 32
_LONGEST_EXPIRATION = 315_360_000.0  # ten years; the broker counts milliseconds in 32 or more bits
_TEXTS = (
    *("routing_key", "exchange", "message_id", "correlation_id", "reply_to"),
    *("content_type", "content_encoding", "type"),
)
_of = attrgetter(*_TEXTS)


def check(outgoing: Outgoing) -> None:
    """Raise ``DeliveryError`` for what cannot be sent; the sentence names the place, not the value."""
    try:
        together = "".join(_of(outgoing))  # as one: where that will do, each of them will
    except TypeError:
        together = "\0"
    if len(together) > _SHORT or not together.isascii() or "\0" in together:
        for name in _TEXTS:
            _check_text(name, getattr(outgoing, name))
    if not outgoing.message_id:
        raise DeliveryError("the message to send has no message_id")
    if not isinstance(outgoing.body, bytes):
        raise DeliveryError(f"the body of the message to send is {type(outgoing.body).__name__}, not bytes")
    if outgoing.expiration is not None and not 0 <= outgoing.expiration <= _LONGEST_EXPIRATION:
        raise DeliveryError("the message to send has an expiration that is out of range")
    if outgoing.headers:
        _check_value("headers", outgoing.headers, _DEPTH)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise DeliveryError(f"the {name} of the message to send is {type(text).__name__}, not text")
    if len(text) > _SHORT or len(_utf8(name, text)) > _SHORT:
        raise DeliveryError(f"the {name} of the message to send is longer than {_SHORT} bytes")
    if "\0" in text:
        raise DeliveryError(f"the {name} of the message to send holds a zero character")


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise DeliveryError(f"the {name} of the message to send is no Unicode text") from None


def _check_value(name: str, value: Any, depth: int) -> None:
    if not depth:
        raise DeliveryError(f"the {name.split('.')[0]} of the message to send are nested too deeply")
    match value:
        case None | bool() | bytes():
            pass
        case str():
            _utf8(name, value)
        case int() | Decimal() | datetime():
            if not _fits(value):
                raise DeliveryError(f"the {name} of the message to send holds a number or time that is out of range")
        case list() | tuple():
            for item in value:
                _check_value(name, item, depth - 1)
        case Mapping():
            for key, item in value.items():
                _check_key(name, key)
                _check_value(name, item, depth - 1)
        case _:
            raise DeliveryError(f"the {name} of the message to send hold a {type(value).__name__}; make it text")


def _check_key(name: str, key: object) -> None:
    if not isinstance(key, bytes) or len(key) > _SHORT:  # bytes: a name that came in and was no UTF-8
        _check_text(f"{name}' name", key)


def _fits(value: int | Decimal | datetime) -> bool:
    if isinstance(value, int):
        return -_LONG <= value < _LONG
    if isinstance(value, datetime):
        return value.year >= 1970
    if not value.is_finite():
        return False
    exponent = value.normalize().as_tuple().exponent
    scale = max(-int(exponent), 0)
    return scale <= _SHORT and -_DECIMAL <= value.scaleb(scale) < _DECIMAL
