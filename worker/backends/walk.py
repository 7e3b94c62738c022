"""What keeps the pages of a search honest: a part of the answer is never taken for the whole, and each walk ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from worker.backends.page import Page, Resource
from worker.backends.search import Parameter
from worker.errors import Refused

MOST_PAGES = 10_000

_INCLUDES = ("_include", "_revinclude")


class Walk:
    """One walk from page to page; a resource that is given twice in a row of them counts once.

    Servers repeat the end of a page at the beginning of the next when something is created meanwhile; and one that does
    not understand its own links gives the same page again and again.
    """

    def __init__(self, backend: str, type_: str, query: Iterable[Parameter]) -> None:
        names = {name.partition(":")[0]: value for name, value in query}
        self._backend = backend
        self._type = type_
        self._includes = any(name in names for name in _INCLUDES)
        counted = names.get("_summary") != "count" and names.get("_count") != "0"
        self._is_exact = counted and names.get("_total") != "estimate"
        self._links: set[str] = set()
        self._last: set[str] = set()
        self._found = 0
        self._total = 0

    def passed(self, page: Page) -> Page:
        """The page without what was on the one before; raises ``Refused`` if it leads astray."""
        if page.next in self._links:
            raise self._refused("its pages go round in a circle")
        if len(self._links) >= MOST_PAGES:
            raise self._refused(f"gives more than {MOST_PAGES} pages; ask for larger ones (_count), or for less")
        self._links.add(page.next)
        matches, others = _by_type(page.matches, self._type)
        if others and not self._includes:
            raise self._refused("gives something else as a match")
        new = {_name(each): each for each in matches}
        if page.next and new and new.keys() <= self._last:
            raise self._refused("gives the same page twice")
        fresh = [each for name, each in new.items() if name not in self._last]
        self._last = set(new)
        self._found += len(fresh)  # a total is of matches, not of what was included
        self._total = self._total if page.total is None else page.total
        return replace(page, matches=fresh, included=page.included + others)

    def end(self) -> None:
        """There is no next page; raises ``Refused`` if there are fewer matches than the server has said."""
        if self._is_exact and self._found < self._total:
            raise self._refused(f"says that {self._total} match, and gives {self._found}")

    def _refused(self, what: str) -> Refused:
        return Refused(self._backend, f"asked for {self._type}, {what}")


def _by_type(found: Iterable[Resource], type_: str) -> tuple[list[Resource], list[Resource]]:
    """Those of a type, and the others: what came along need not be marked as such."""
    matches: list[Resource] = []
    others: list[Resource] = []
    for each in found:
        (matches if each.get("resourceType") == type_ else others).append(each)
    return matches, others


def _name(resource: Resource) -> str:
    return str(resource.get("id", id(resource)))
