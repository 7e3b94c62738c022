"""Bodies that were compressed on their way (RFC 9110 section 8.4.1), unfolded up to a limit."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator

import requests

MOST_CODINGS = 5
MOST_MEMBERS = 100
"""A body that is compressed more often, or in more parts, is made to keep us busy: each costs a look at the rest."""

_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"
_PIECE = 2**16
_SMALL_MEMBER = 2**10
_CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


class BodyTooLong(requests.RequestException):
    """The answer's body, unfolded, is longer than it may be."""

    def __init__(self) -> None:
        super().__init__(errno.EMSGSIZE, "the answer is too long")


def unfolded(body: bytes, codings: str, most: int) -> bytes:
    """The body without the codings of its ``Content-Encoding``.

    Raises ``BodyTooLong`` where it would have more than ``most`` bytes, and ``requests``' ``ContentDecodingError``.
    """
    named = [each.strip().lower() for each in codings.split(",")]
    if len(named) > MOST_CODINGS:
        raise _trouble("the answer is compressed too many times")
    for coding in reversed(named):
        if coding not in ("", "identity"):
            if coding not in _CODINGS:
                raise _trouble("the answer is compressed in a way that was not asked for")
            try:
                body = _inflated(body, coding, most)
            except zlib.error as error:
                raise _trouble("the answer is not compressed as it says") from error
        if len(body) > most:
            raise BodyTooLong
    return body


def unfolding(pieces: Iterator[bytes], codings: str) -> Iterator[bytes]:
    """A body of any length without the one coding that it may have, in pieces that are never much longer than given.

    Raises ``requests``' ``ContentDecodingError``.
    """
    coding = codings.strip().lower()
    if coding in ("", "identity"):
        return pieces
    if coding not in _CODINGS:
        raise _trouble("the answer is compressed in a way that was not asked for")
    return _inflating(pieces, _CODINGS[coding])


def _inflating(pieces: Iterator[bytes], window: int) -> Iterator[bytes]:
    machine = zlib.decompressobj(window)
    members, size = 1, 0
    is_begun = False
    try:
        for piece in pieces:
            left, is_begun = piece, True
            while left:
                if machine.eof:  # a gzip file may go on with another (RFC 1952 section 2.2)
                    machine, members = zlib.decompressobj(window), members + 1
                    if members > MOST_MEMBERS + size // _SMALL_MEMBER:  # large files are made of many
                        raise _trouble("the answer is compressed in too many parts")
                more = machine.decompress(left, _PIECE)
                size += len(more)
                yield more
                left = machine.unconsumed_tail or machine.unused_data
    except zlib.error as error:
        raise _trouble("the answer is not compressed as it says") from error
    while rest := machine.decompress(b"", _PIECE):
        yield rest
    if is_begun and not machine.eof:
        raise _trouble("the answer's compressed body is cut")


def _inflated(body: bytes, coding: str, most: int) -> bytes:
    window = _CODINGS[coding]
    if coding == "deflate" and body and (body[0] & 0x0F != zlib.DEFLATED or int.from_bytes(body[:2], "big") % 31):
        window = -zlib.MAX_WBITS  # without zlib's frame (RFC 1950), as some servers understand the word
    pieces: list[bytes] = []
    size = 0
    for _ in range(MOST_MEMBERS):
        machine = zlib.decompressobj(window)
        pieces.append(machine.decompress(body, most + 1 - size))
        size += len(pieces[-1])
        if size > most:
            return b"".join(pieces)
        if not machine.eof:
            raise _trouble("the answer's compressed body is cut")
        body = machine.unused_data
        if not body.startswith(_MAGIC):  # a gzip file may go on with another (RFC 1952 section 2.2)
            return b"".join(pieces)
    raise _trouble("the answer is compressed in too many parts")


def _trouble(what: str) -> requests.exceptions.ContentDecodingError:
    return requests.exceptions.ContentDecodingError(errno.EPROTO, what)
