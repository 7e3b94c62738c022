"""Headers as ``requests`` has them, at a tenth of the cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from requests.structures import CaseInsensitiveDict

Entries = dict[str, tuple[str, str]]
"""By its name in lower case: a header's name as it was written, and its value."""


class Headers(CaseInsensitiveDict[str]):
    """A request's or an answer's; those given several times are joined by commas (RFC 9110 section 5.2)."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        # Not by the parent's way in, nor by its way to an item, which raises and catches for each that is not there.
        self.entries: Entries = {name.lower(): (name, value) for name, value in fields}
        self._store = self.entries
        if len(self._store) < len(fields):
            self._store.clear()
            for name, value in fields:
                before = self._store.get(name.lower())
                self._store[name.lower()] = (name, f"{before[1]}, {value}" if before else value)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._store

    def get(self, name: str, default: Any = None) -> Any:
        """The header's value."""
        found = self._store.get(name.lower())
        return found[1] if found else default

    def copy(self) -> Headers:
        """Another one with the same headers."""
        other = Headers.__new__(Headers)
        other.entries = other._store = self.entries.copy()
        return other


def entries_of(headers: CaseInsensitiveDict[str]) -> Entries:
    """Those of whatever kind of headers."""
    return headers.entries if isinstance(headers, Headers) else Headers(list(headers.items())).entries
