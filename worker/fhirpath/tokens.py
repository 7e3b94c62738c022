"""A FHIRPath expression, cut into tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "text", "number", "this", "symbol", "end"]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<name>[A-Za-z_]\w*|`[^`]+`)
    |(?P<text>'(?:[^'\\]|\\.)*')
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<this>\$this\b)
    |(?P<symbol>!=|[.()\[\],|=])
    |(?P<end>$)
    )""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


class PathError(ValueError):
    """This is not FHIRPath, or a part of it that cannot be used here."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an expression, and where it begins, counted from 1."""

    kind: Kind
    text: str
    position: int

    def wrong(self, what: str) -> PathError:
        """The error that this token is in its place."""
        return PathError(f"{what} at position {self.position}")


def tokens(expression: str) -> Iterator[Token]:
    """The tokens, the last of kind ``end``; raises ``PathError`` for what is none."""
    start = 0
    while True:
        found = _TOKEN.match(expression, start)
        if found is None:
            rest = expression[start:].lstrip()
            position = len(expression) - len(rest) + 1
            raise PathError(f"{rest[0]!r} is not understood at position {position}")
        kind = found.lastgroup
        yield Token(kind, _plain(found[kind or 0]), found.start(kind or 0) + 1)  # type: ignore[arg-type]  # as in Kind
        if kind == "end":
            return
        start = found.end()


def _plain(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    if text.startswith("'"):
        return _ESCAPE.sub(lambda e: chr(int(e[1], 16)) if e[1] else _ESCAPED.get(e[2], e[2]), text[1:-1])
    return text
