"""The pages of a FHIR search, and the set of resources they make up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from worker.backends.calls import Call, Caller
from worker.backends.page import Page, Resource, read_page
from worker.backends.search import Parameter, filters, is_harmless, is_posted, parameters, search_call
from worker.backends.walk import Walk
from worker.errors import Refused
from worker.log import get_logger

log = get_logger()

_NOT_POSTED = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Whole:
    """All that a search found: the matches, and what was included with them, by reference (``Practitioner/1``)."""

    matches: list[Resource]
    included: dict[str, Resource]


def pages(caller: Caller, type_: str, query: list[Parameter]) -> Iterator[Page]:
    """A search's pages, each fetched when it is asked for.

    Raises ``Refused`` if the server ignored a parameter, links to another origin, or gives something else than the
    whole (see ``Walk``): never a part of the answer in its place.
    """
    walk = Walk(caller.backend, type_, query)
    page = _first(caller, type_, query)
    if page.warnings:
        log.warning("a search was answered with warnings", backend=caller.backend, codes=" ".join(page.warnings))
    _refuse_ignored_parameters(caller.backend, query, page.self_link)
    while True:
        page = walk.passed(page)
        yield page
        if not page.next:
            return walk.end()
        page = caller(Call("GET", page.next, headers={"Accept": "application/fhir+json"}), read_page)


def _first(caller: Caller, type_: str, query: list[Parameter]) -> Page:
    """The first page; by GET where a server takes no search by POST, but only if all of it may stand in a URL."""
    try:
        return caller(search_call(type_, query), read_page)
    except Refused as error:
        if error.status not in _NOT_POSTED or not is_posted(query):
            raise
        if not is_harmless(query):
            what = "; does it take searches by POST? This one may hold personal data, which must not stand in a URL"
            raise error.within("", what) from error
    return caller(search_call(type_, query, posted=False), read_page)


class SearchSet:
    """The resources of one type that match some criteria; asked for only when read.

    ``search`` narrows it; the criteria are described at ``worker.backends.search.parameters``.
    """

    def __init__(self, caller: Caller, type_: str, query: list[Parameter] | None = None) -> None:
        self._caller = caller
        self._type = type_
        self._query = query or []

    def search(self, **criteria: Any) -> SearchSet:
        """The part of this set that also meets these criteria."""
        return SearchSet(self._caller, self._type, self._query + parameters(criteria))

    def get(self) -> Resource:
        """The only match; raises ``Refused`` if there is none or more than one."""
        found: list[Resource] = []
        for resource_ in self._at_most(2).iterate():
            found.append(resource_)
            if len(found) > 1:
                raise Refused(self._caller.backend, f"more than one {self._type} matches")
        if not found:
            raise Refused(self._caller.backend, f"no {self._type} matches")
        return found[0]

    def first(self) -> Resource | None:
        """The first match in the server's order, or None."""
        return next(self._at_most(1).iterate(), None)

    def iterate(self) -> Iterator[Resource]:
        """Every match, page by page; what was only included stands in ``pages()`` and ``gather()``."""
        for page in self.pages():
            yield from page.matches

    __iter__ = iterate

    def pages(self) -> Iterator[Page]:
        """The pages with everything in them."""
        return pages(self._caller, self._type, self._query)

    def gather(self) -> Whole:
        """All pages at once: for a search whose answer fits into memory, with ``_include`` or ``_revinclude``."""
        found = Whole([], {})
        for page in self.pages():
            found.matches.extend(page.matches)
            found.included.update({f"{each.get('resourceType')}/{each.get('id')}": each for each in page.included})
        return found

    def count(self) -> int:
        """How many there are, as the server counts; where it gives no total they are read and counted."""
        total = next(self.search(_summary="count").pages()).total
        return sum(1 for _ in self.iterate()) if total is None else total

    def _at_most(self, count: int) -> SearchSet:
        asked = any(name == "_count" for name, _ in self._query)
        return self if asked else self.search(_count=count)


def asked(found: SearchSet) -> tuple[str, list[Parameter]]:
    """The type and the parameters of a set."""
    return found._type, found._query


def _refuse_ignored_parameters(backend: str, query: list[Parameter], self_link: str) -> None:
    """A server that does not know a parameter may ignore it and answer with everything; its self link tells."""
    used = parse_qsl(urlsplit(self_link).query, keep_blank_values=True)
    if not self_link or (not used and is_posted(query)):
        return  # HAPI's self link for a POST never has parameters
    if ignored := filters(query) - filters(used):
        raise Refused(backend, f"does not know the search parameter {', '.join(sorted(ignored))}")
