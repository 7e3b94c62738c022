"""Headers as ``requests`` has them, at a tenth of the cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from requests.structures import CaseInsensitiveDict


class Headers(CaseInsensitiveDict[str]):
    """A request's or an answer's; those given several times are joined by commas (RFC 9110 section 5.2)."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        # Not by the parent's way in, nor by its way to an item, which raises and catches for each that is not there.
        self._store = {name.lower(): (name, value) for name, value in fields}
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

    def fields(self) -> Iterable[tuple[str, str]]:
        """Names, written as they were given, and values."""
        return self._store.values()

    def copy(self) -> Headers:
        """Another one with the same headers."""
        return Headers(list(self.fields()))


def fields_of(headers: CaseInsensitiveDict[str]) -> Iterable[tuple[str, str]]:
    """Names and values, whatever kind of headers they are."""
    return headers.fields() if isinstance(headers, Headers) else headers.items()
