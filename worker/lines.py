"""From text to records: physical lines are joined where a quote spans them, and what is not well-formed is marked.

The rules are those of RFC 4180, section 2, with any delimiter and any line end. Only the well-formed records are parsed
afterwards: pandas by itself fills up a row with too few fields in silence and stops at one with too many.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple, Self, TextIO

from worker.decoding import is_clean
from worker.errors import DeliveryError

RECORD_LIMIT = 2**20  # characters

_BLANK = ("\n", "\r\n", "\r")
_DELIMITERS = ",;\t|"
# How the header of a rejects file ends, whoever has saved it since: a spreadsheet has a delimiter of its own.
_REJECTS = re.compile(r'([,;\t|])("?)_line\2\1\2_error\2\1\2_detail\2[\r\n]*$')
_QUOTED = re.compile(r'"[^"]*"?')
# What Excel writes and reads above the header, to say what stands between the values.
_TOLD = re.compile(r'("?)sep=([^\w\s"]|\t)\1(?:\r\n?|\n)', re.IGNORECASE)
_MISMATCH = "the quotes of {} do not match: one is not closed, or text follows a closed one"

# The csv module's own limit of 128 KiB would refuse fields that RECORD_LIMIT allows; two lines can come to twice that.
csv.field_size_limit(max(csv.field_size_limit(), 2 * RECORD_LIMIT + 2))


class Record(NamedTuple):
    """A record as it is written, line end included, and the line it begins in; ``fault`` says why it is no row."""

    line: int
    text: str
    fault: str = ""


class Header(NamedTuple):
    """The first record: its text without a byte order mark, its fields, and the delimiter between them."""

    text: str
    names: list[str]
    delimiter: str


class Lines:
    """The physical lines of a text, one after the other; ``number`` is that of the last one drawn, from 1 on."""

    def __init__(self, text: TextIO) -> None:
        self.number = 0
        self.encoding = text.encoding.upper().removesuffix("-SIG")
        self._read = text.readline
        self._waiting: deque[str] = deque()

    def draw(self) -> str:
        """The next line with its end; "" after the last. Of one longer than RECORD_LIMIT, only its beginning."""
        if self._waiting:
            line = self._waiting.popleft()
        elif len(line := self._read(RECORD_LIMIT + 1)) > RECORD_LIMIT:
            rest = line
            while rest and not rest.endswith(_BLANK):
                rest = self._read(RECORD_LIMIT)
        if line:
            self.number += 1
        return line

    def put_back(self, lines: list[str]) -> None:
        """Undo the drawing of the last lines."""
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)


def read_header(lines: Lines, delimiter: str | None) -> Header:
    """Draw the first record that is not blank; where the delimiter is None, a first line ``sep=;`` tells it, or it is
    sniffed.

    Raises ``DeliveryError`` if there is none or it is not well-formed.
    """
    first = lines.draw().removeprefix("\ufeff")
    if told := _TOLD.fullmatch(first):
        delimiter = delimiter or told[2]
        first = lines.draw()
    while first in _BLANK:
        first = lines.draw()
    if not first:
        raise DeliveryError(f"the file has no header, only {f'the line sep={told[2]}' if told else 'blank lines'}")
    where = f"the header in line {lines.number}"
    delimiter = delimiter or _sniffed(first)
    parser = _Parser(lines, delimiter)
    try:
        names = parser.parse(first)
    except csv.Error as error:
        raise DeliveryError(_MISMATCH.format(where)) from error
    text = "".join((first, *parser.more))
    if not is_clean(text):
        raise DeliveryError(f"{where} is not {lines.encoding} text; set `encoding` on the job to what the sender uses")
    if len(text) > RECORD_LIMIT:
        raise DeliveryError(f"{where} is longer than {RECORD_LIMIT} characters; is this CSV?")
    return Header(text, names, delimiter)


def records(lines: Lines, delimiter: str, width: int) -> Iterator[Record]:
    """The records below the header, in order, blank lines left out; those without ``fault`` have ``width`` fields.

    A quote that does not match costs only the line that it stands in.
    """
    gaps = width - 1
    parser = _Parser(lines, delimiter)
    while text := lines.draw():
        if text in _BLANK:
            continue
        line = lines.number
        if '"' in text:
            text, fault = _quoted(parser, text, width)
        else:
            fault = "" if text.count(delimiter) == gaps else _miscount(text.count(delimiter) + 1, width)
        if len(text) > RECORD_LIMIT:
            fault = f"the row is longer than {RECORD_LIMIT} characters; only its beginning is kept"
        elif not is_clean(text):
            fault = "the row has a NUL character" if "\0" in text else f"a byte is not {lines.encoding}"
        yield Record(line, text, fault)


def fields(text: str, delimiter: str) -> list[str]:
    """The fields of one record; where its quotes do not match, they are taken literally."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return text.rstrip("\r\n").split(delimiter)


class _Parser:
    """Finds the end of a record that has quotes.

    It feeds its csv reader itself, so that one reader serves all records: to make one costs more than to use it.
    """

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self.delimiter = delimiter
        self.more: list[str] = []  # the lines that the record goes on in after its first
        self._lines = lines
        self._reader = csv.reader(self, delimiter=delimiter, strict=True)
        self._first = ""
        self._size = 0

    def parse(self, first: str) -> list[str]:
        """The fields of the record that begins with a line.

        Raises ``csv.Error``, with the further lines put back, if its quotes do not match within RECORD_LIMIT.
        """
        self._first, self._size, self.more = first, 0, []
        try:
            return next(self._reader)
        except csv.Error:
            self.put_back()
            raise

    def put_back(self) -> None:
        """Leave the further lines to the next records."""
        self._lines.put_back(self.more)
        self.more = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._first:
            line, self._first = self._first, ""
        elif self._size <= RECORD_LIMIT and (line := self._lines.draw()):
            self.more.append(line)
        else:
            raise StopIteration
        self._size += len(line)
        return line


def _quoted(parser: _Parser, first: str, width: int) -> tuple[str, str]:
    """The text and the fault of a record that has quotes."""
    try:
        found = len(parser.parse(first))
    except csv.Error:
        return first, _MISMATCH.format("the row")
    if found != width and parser.more and first.count(parser.delimiter) == width - 1:
        # Whole without its quote: a stray one, which must not swallow the rows up to the next quote.
        parser.put_back()
        return first, _MISMATCH.format("the row")
    text = "".join((first, *parser.more)) if parser.more else first
    return text, "" if found == width else _miscount(found, width)


def _sniffed(header: str) -> str:
    """The delimiter that stands most often outside quotes; a comma where there is none."""
    if told := _REJECTS.search(header):
        return told[1]
    counts = Counter(_QUOTED.sub("", header))
    return max(_DELIMITERS, key=lambda delimiter: counts[delimiter])


def _miscount(found: int, width: int) -> str:
    return f"the row has {found} field{'s' if found != 1 else ''}, the header {width}"
