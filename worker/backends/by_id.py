"""Resources asked for by their ids, many at once, in the way that the server has shown to know."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from worker import exact_json
from worker.backends import bundles
from worker.backends.answers import resource
from worker.backends.calls import Call, Caller
from worker.backends.lookups import GONE, MOST_IDS, Found
from worker.backends.page import Resource
from worker.backends.pages import pages
from worker.backends.search import parameters
from worker.errors import BackendError, Refused, TooCostly, Unauthorized

_FRESH = {"Accept": "application/fhir+json", "Cache-Control": "no-cache"}
_SIGNED_ON = 401


class Learnt:
    """What a server's answers have shown of it, by resource type; one for a backend, kept for all deliveries."""

    def __init__(self) -> None:
        self._unsearchable: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_searchable(self, type_: str) -> bool:
        """Whether a list of ids may be searched for: until that has failed where a batch of reads has not."""
        return type_ not in self._unsearchable

    def not_searchable(self, type_: str) -> None:
        """A list of ids was refused, or part of it not found, and a batch of reads was not."""
        self._unsearchable.add(type_)

    def size(self, type_: str) -> int:
        """How many ids one request may ask for: twice what was too many before, as a server may have grown."""
        return min(MOST_IDS, 2 * self._sizes.get(type_, MOST_IDS))

    def too_many(self, type_: str, ids: int) -> None:
        """So many ids were refused as too costly."""
        with self._lock:
            self._sizes[type_] = min(self._sizes.get(type_, MOST_IDS), max(1, ids // 2))


class ById:
    """Fetches resources by id: one by a read, several by a search or, where there is none, by a batch of reads.

    Raises ``Refused`` where neither goes, and ``ServerFault`` where the server broke, perhaps over one of the ids: who
    asked for several may ask for each.
    """

    def __init__(self, caller: Caller, learnt: Learnt) -> None:
        self._caller = caller
        self._learnt = learnt

    def __call__(self, type_: str, ids: Sequence[str]) -> Found:
        """What was found, by id: a resource, or the error that stands in its place."""
        if len(ids) == 1:
            return {ids[0]: self._read(type_, ids[0])}
        try:
            return self._several(type_, ids)
        except TooCostly:
            self._learnt.too_many(type_, len(ids))
            raise

    def _read(self, type_: str, id_: str) -> Resource:
        return self._expected(type_, id_, self._caller(Call("GET", f"{type_}/{id_}", headers=_FRESH), resource))

    def _several(self, type_: str, ids: Sequence[str]) -> Found:
        if not self._learnt.is_searchable(type_):
            return self._batch(type_, ids)
        try:
            return self._search(type_, ids)
        except (Refused, Unauthorized) as error:
            if isinstance(error, TooCostly) or error.status == _SIGNED_ON:
                raise
        found = self._batch(type_, ids)
        self._learnt.not_searchable(type_)
        return found

    def _search(self, type_: str, ids: Sequence[str]) -> Found:
        found: dict[str, Any] = {}
        for page in pages(self._caller, type_, parameters({"_id": set(ids), "_count": len(ids)})):
            found |= {str(match.get("id")): match for match in page.matches}
            if found.keys() - set(ids):
                raise Refused(self._caller.backend, f"does not search {type_} by _id")
            if len(found) == len(ids):
                break
        return {**found, **self._confirmed(type_, [id_ for id_ in ids if id_ not in found])}

    def _confirmed(self, type_: str, ids: Sequence[str]) -> Found:
        """What reads say of ids that a search left out: it may not know lists, give a part, or lag behind its store.

        Only a read's word counts, so what no batch can tell of is left out here, too: to be asked for by itself.
        """
        if len(ids) < 2:
            return {}
        try:
            said = self._batch(type_, ids)
        except TooCostly:
            half = len(ids) // 2
            return {**self._confirmed(type_, ids[:half]), **self._confirmed(type_, ids[half:])}
        except BackendError:
            return {}
        if any(not isinstance(answer, BackendError) for answer in said.values()):
            self._learnt.not_searchable(type_)
        return said

    def _batch(self, type_: str, ids: Sequence[str]) -> dict[str, Resource | BackendError]:
        """A batch needs no right to search: a server that forbids it may still let each resource be read.

        An entry that says neither what there is nor that there is nothing is left out.
        """
        entries = [{"request": {"method": "GET", "url": f"{type_}/{id_}"}} for id_ in ids]
        body = exact_json.dumps(bundles.bundle("batch", entries))
        call = Call("POST", "", body=body, headers=_BUNDLE, probe=True)
        try:
            answer = self._caller(call, resource)
        except Unauthorized as error:
            if error.status == _SIGNED_ON:
                raise
            raise Refused(self._caller.backend, "forbids a batch", error.status) from error
        outcomes = bundles.outcomes(self._caller.backend, answer, len(ids))
        said = {id_: self._answer(type_, id_, outcome) for id_, outcome in zip(ids, outcomes, strict=True)}
        return {id_: answer for id_, answer in said.items() if not _is_doubtful(answer)}

    def _answer(self, type_: str, id_: str, outcome: bundles.EntryOutcome) -> Resource | BackendError:
        try:
            return outcome.error or self._expected(type_, id_, outcome.resource)
        except Refused as error:
            return error

    def _expected(self, type_: str, id_: str, found: Any) -> Resource:
        if not isinstance(found, Mapping) or (found.get("resourceType"), found.get("id")) != (type_, id_):
            raise Refused(self._caller.backend, f"answered the read of a {type_} with something else")
        return dict(found)


def _is_doubtful(answer: Resource | BackendError) -> bool:
    return isinstance(answer, BackendError) and answer.status not in GONE


_BUNDLE = {**_FRESH, "Content-Type": "application/fhir+json"}
