"""From a delivery's bytes to its text: gzip unpacked, the encoding found, every bad byte kept visible."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

from worker.errors import DeliveryError

_READ_BYTES = 2**18  # at once: at each read, a thread gives up Python's lock, and waits for it among all those of rows
UNPACKED_LIMIT = 16 * 2**30  # bytes; what a gzip file may unfold to

_GZIP = b"\x1f\x8b"
_NOT_TEXT = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an old Office document (.xls)",
    b"PAR1\x15": "a Parquet file",
    b"%PDF-": "a PDF document",
    b"BZh91AY": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
}
_OTHER_TEXT = {  # whose first line would be a header, and whose only line a table without rows
    re.compile(rb"\s*<(?:!doctype|html)\b", re.IGNORECASE): "a web page (HTML): perhaps one to log in at, or an error",
    re.compile(rb"\s*<\?xml\b"): "an XML document",
    re.compile(rb"\s*(?:\{\s*\"|\[\s*[{\[\"])"): "JSON",
}
_BOMS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_BAD_BYTE = 0xDC00  # a lone surrogate, as PEP 383 has it, but for bytes below 0x80 too: UTF-16 has bad ones there


@contextmanager
def open_text(path: Path, opened: BinaryIO | None = None, encoding: str | None = None) -> Iterator[TextIO]:
    """A delivery's text, with line ends as they are and a lone surrogate U+DC00 + byte for each bad byte.

    Without ``encoding`` a byte order mark decides, else it is UTF-8. Reads ``opened`` where given, once from start to
    end, and closes it; a gzip file is first checked as a whole, in ``opened`` if it is seekable, else in ``path``.
    Raises ``DeliveryError`` if there is no text in it, and while the text is read if gzip data turn out damaged.
    """
    with opened or path.open("rb") as raw, _translated_errors():
        data = _buffered(raw)
        head = data.peek(16)
        _refuse_what_is_not_text(head)
        if head.startswith(_GZIP):
            _check_gzip(raw, path, data)
            data = _buffered(gzip.GzipFile(fileobj=data))
            if (head := data.peek(16)).startswith(_GZIP):
                raise DeliveryError("the gzip file holds another one; pack it once")
            _refuse_what_is_not_text(head)
        encoding = _encoding(encoding, data.peek(16))
        with io.TextIOWrapper(data, encoding, errors="longshore.visible", newline="") as text:
            yield text


def shown(text: str) -> str:
    """The text with bad bytes and NUL characters spelled out as ``\\xNN``, so that it can be written."""
    return "".join(f"\\x{ord(c) & 0xFF:02x}" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def is_clean(text: str) -> bool:
    """Whether the text has neither bad bytes nor NUL characters."""
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _buffered(raw: object) -> io.BufferedReader[io.RawIOBase]:
    return io.BufferedReader(cast(io.RawIOBase, raw), _READ_BYTES)  # whose stub knows no other binary files


def _refuse_what_is_not_text(head: bytes) -> None:
    if not head:
        what = "the file is empty (0 bytes); a sender that makes it before it has the data"
        raise DeliveryError(f"{what} has to write it under another name, and rename it")
    found = [what for magic, what in _NOT_TEXT.items() if head.startswith(magic)]
    found += [what for begins, what in _OTHER_TEXT.items() if begins.match(head.removeprefix(codecs.BOM_UTF8))]
    if found:
        raise DeliveryError(f"the file is {found[0]}, not CSV text; export it as CSV and send that")


def _encoding(wanted: str | None, head: bytes) -> str:
    if wanted is None:
        return next((name for mark, name in _BOMS.items() if head.startswith(mark)), "utf-8")
    try:
        "".encode(wanted)  # unlike codecs.lookup, this refuses codecs that are not for text
    except LookupError as error:
        raise DeliveryError(f"there is no text encoding {wanted!r}; correct `encoding` on the job") from error
    return wanted


def _check_gzip(raw: IO[bytes], path: Path, packed: IO[bytes]) -> None:
    if raw.seekable():
        _unfold(packed)
        packed.seek(0)
    else:
        with path.open("rb") as again:
            _unfold(again)


def _unfold(packed: IO[bytes]) -> None:
    size = 0
    with gzip.GzipFile(fileobj=packed) as unpacked:
        while block := unpacked.read(2**20):
            size += len(block)
            if size > UNPACKED_LIMIT:
                raise DeliveryError(f"the gzip file unpacks to more than {UNPACKED_LIMIT} bytes; send it in parts")
    if not size:
        raise DeliveryError("the gzip file is empty (0 bytes when unpacked)")


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DeliveryError("the gzip file is damaged or cut off; send it again") from error
    except UnicodeError as error:  # bad bytes are made visible, so it is the codec that wants a byte order mark
        what = "the file has no byte order mark; name the byte order in `encoding` on the job: utf-16-le or utf-16-be"
        raise DeliveryError(what) from error


def _visible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(_BAD_BYTE + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("longshore.visible", _visible)
