"""FHIR backends: resources, searches and Bundles (https://hl7.org/fhir/R4/http.html)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, overload
from urllib.parse import urlencode

from pydantic import BaseModel

from worker import exact_json
from worker.backends import bundles, models, repeats
from worker.backends.answers import resource
from worker.backends.bulk.export import Export, Turn
from worker.backends.bulk.question import Question, Wanted
from worker.backends.bundles import Entry, EntryOutcome, Given
from worker.backends.by_id import ById, Learnt
from worker.backends.calls import Call, Caller
from worker.backends.http import Http, HttpCaller
from worker.backends.lookups import Lookups
from worker.backends.page import Resource
from worker.backends.pages import SearchSet, asked
from worker.backends.search import parameters
from worker.backends.statement import Statement
from worker.backends.written import Reader, Written
from worker.errors import DeliveryError, Refused, Reject
from worker.records import Meter, RowKey

Model = TypeVar("Model", bound=BaseModel)

_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9\-.]{1,64}")
_TYPE = re.compile(r"[A-Z][A-Za-z]+")
_FHIR_JSON = "application/fhir+json"
_JSON_PATCH = "application/json-patch+json"
_CONFLICT = 409
_RACE_SECONDS = (0.1, 0.4, 1.6)


class Fhir:
    """What a job sees as ``ctx.fhir[name]``.

    Resources are dicts, the server's JSON untouched (numbers exact); where a ``fhir.resources`` model class is given
    for a type, a validated model. Whatever is written may be either and is validated first: a wrong one raises
    ``Reject`` and is not sent. All raise ``Unavailable``, ``Refused`` or ``Unauthorized``.
    """

    def __init__(self, session: FhirSession, key: RowKey) -> None:
        self._session = session
        self._key = key

    @overload
    def read(self, type_: str, id: str | int, *, fresh: bool = False) -> Resource: ...

    @overload
    def read(self, type_: type[Model], id: str | int, *, fresh: bool = False) -> Model: ...

    def read(self, type_: Any, id: str | int, *, fresh: bool = False) -> Any:
        """The resource with this id; raises ``Refused`` if there is none, ``Reject`` for what cannot be an id.

        Reads of many rows are shared and travel together; within a delivery a resource is asked for once, unless it
        is written meanwhile or a ``fresh`` one is asked for.
        """
        name = _type_name(type_)
        found = self._session.lookups.read_one(name, _checked_id(name, id), fresh=fresh)
        if isinstance(found, BaseException):
            raise found
        return found if type(type_) is str else self._as_asked(type_, found)

    @overload
    def read_many(self, type_: str, ids: Iterable[str | int], *, missing_ok: bool = False) -> dict[str, Resource]: ...

    @overload
    def read_many(
        self, type_: type[Model], ids: Iterable[str | int], *, missing_ok: bool = False
    ) -> dict[str, Model]: ...

    def read_many(self, type_: Any, ids: Iterable[str | int], *, missing_ok: bool = False) -> dict[str, Any]:
        """The resources with these ids, by id, in the order asked and in few requests; equal ids are asked for once.

        Raises ``Refused`` if any is missing, and says which by their places; with ``missing_ok`` the others are
        returned.
        """
        name = _type_name(type_)
        if isinstance(ids, str):
            raise TypeError("read_many takes several ids, and not a text, each of whose letters would be one")
        answers = self._session.lookups.read(name, [_checked_id(name, id_) for id_ in ids])
        errors = [answer for answer in answers.values() if isinstance(answer, BaseException)]
        if other := next((error for error in errors if not _is_missing(error)), None):
            raise other
        if errors and not missing_ok:
            places = ", ".join(str(place) for place, answer in enumerate(answers.values(), 1) if _is_missing(answer))
            what = f"{len(errors)} of {len(answers)} {name} are missing: number {places} of those asked for"
            raise Refused(self._session.backend, what, 404)
        found = {id_: answer for id_, answer in answers.items() if not isinstance(answer, BaseException)}
        return {id_: self._as_asked(type_, answer) for id_, answer in found.items()}

    def resources(self, type_: Any) -> SearchSet:
        """All resources of a type, to be searched."""
        return SearchSet(self._session.caller, _type_name(type_))

    def export(self, *what: Any, of: str = "", since: datetime | str | None = None, partial_ok: bool = False) -> Export:
        """Everything, or all of some types, as the server makes it in its own time (Bulk Data Access IG 2.0.0).

        ``what`` are types or sets such as ``resources("Observation").search(status="final")``; ``of`` is "Patient" for
        what belongs to patients, "Group/ID" for those of one group. ``since`` leaves out what has not changed since:
        an earlier export's ``time``. What the server says it could not export raises ``Refused`` unless ``partial_ok``.
        """
        wanted = [Wanted(_type_name(each)) if not isinstance(each, SearchSet) else _wanted(each) for each in what]
        return self._session.export(Question.of_these(wanted, of, since), partial_ok=partial_ok)

    def create(self, resource_: Any, *, if_none_exist: Mapping[str, Any] | None = None) -> Any:
        """Create a resource and return it as the server keeps it; where it shows nothing, a dict with type and id.

        ``if_none_exist`` holds the search criteria that find it if it is there already: only then is it created once
        for certain, since FHIR servers do not have to know the ``Idempotency-Key`` that is always sent. Without it, a
        create that is sent again because its answer did not come looks for the resource's own identifiers.
        """
        sent = self._valid(resource_)
        if if_none_exist is not None and not if_none_exist:
            raise Reject("if_none_exist is empty: nothing would be looked for, and the resource created each time")
        given = urlencode(parameters(dict(if_none_exist or {})))
        call = self._call("POST", sent["resourceType"], sent, {"Idempotency-Key": self._key.next()})
        if found := given or repeats.criteria(sent):
            conditional = replace(call, headers={**call.headers, "If-None-Exist": found})
            call = conditional if given else replace(call, again=lambda: conditional)
        conflict = "several resources match if_none_exist"
        return self._write(call, Written(sent["resourceType"]), conflict, races=bool(given))

    def update(self, resource_: Any, *, if_match: str | None = None) -> Any:
        """Put a resource in the place of the one with its id; ``if_match`` is the version that may be replaced.

        Raises ``Refused`` where another version is there, or none.
        """
        sent = self._valid(resource_)
        type_, id_ = sent["resourceType"], str(sent.get("id", ""))
        call = self._call("PUT", f"{type_}/{_checked_id(type_, id_)}", sent, _if_match(if_match))
        return self._write(call, Written(type_, id_, replaces=bool(if_match)))

    def patch(
        self, type_: Any, id: str | int, operations: Sequence[Mapping[str, Any]], *, if_match: str | None = None
    ) -> Any:
        """Change parts of a resource by JSON Patch (RFC 6902), and return it as the server keeps it."""
        name = _type_name(type_)
        headers = {"Idempotency-Key": self._key.next(), "Content-Type": _JSON_PATCH, **_if_match(if_match)}
        id_ = _checked_id(name, id)
        call = self._call("PATCH", f"{name}/{id_}", _operations(operations), headers)
        return self._write(call, Written(name, id_))

    def delete(self, type_: Any, id: str | int) -> None:
        """Delete a resource; one that is not there is as good as deleted."""
        name = _type_name(type_)
        try:
            self._write(self._call("DELETE", f"{name}/{_checked_id(name, id)}", None, {}))
        except Refused as error:
            if error.status not in (404, 410):
                raise

    def transaction(self, entries: Given) -> list[EntryOutcome]:
        """Send a Bundle, or its entries, of which all are done or none; the outcomes stand in their order."""
        kept, places = bundles.merged(bundles.entries_of(entries))
        done = self._send_bundle("transaction", kept)
        return [done[place] for place in places]

    def batch(self, entries: Given) -> list[EntryOutcome]:
        """Send a Bundle, or its entries, each done or refused by itself: look at every outcome's ``error``."""
        return self._send_bundle("batch", bundles.entries_of(entries))

    def _send_bundle(self, type_: str, entries: list[Entry]) -> list[EntryOutcome]:
        if not entries:
            return []  # FHIR's JSON has no empty arrays
        plain = [
            {**entry, "resource": self._valid(entry["resource"])} if "resource" in entry else entry for entry in entries
        ]
        call = self._call("POST", "", bundles.bundle(type_, plain), {"Idempotency-Key": self._key.next()})

        def again() -> Call:
            return replace(call, body=exact_json.dumps(bundles.bundle(type_, repeats.conditional(plain))))

        conflict = "the condition of an entry does not hold"
        answer = self._write(replace(call, again=again), conflict=conflict, races=repeats.may_race(plain))
        return bundles.outcomes(self._session.backend, answer, len(entries))

    def _valid(self, resource_: Any) -> Resource:
        plain = models.as_dict(resource_)
        if wrong := models.problems(self._session.version, plain):
            self._session.refuse_another_version()
            more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
            raise Reject(f"the resource is not valid {self._session.version}: {'; '.join(wrong[:3])}{more}")
        return dict(plain)

    def _call(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Call:
        kind = {"Accept": _FHIR_JSON, "Content-Type": _FHIR_JSON, "Prefer": "return=representation"}
        sent = None if body is None else exact_json.dumps(body)
        return Call(method, path, body=sent, headers={**kind, **headers})

    def _write(
        self, call: Call, read: Reader = resource, conflict: str = "version conflict", *, races: bool = False
    ) -> Any:
        """What ``read`` makes of the answer; ``races``: a conflict may be with another row's write, found next."""
        for seconds in _RACE_SECONDS if races else ():
            try:
                return self._write_once(call, read, conflict)
            except Refused as error:
                if error.status != _CONFLICT:
                    raise
            self._session.caller.wait(seconds)
        return self._write_once(call, read, conflict)

    def _write_once(self, call: Call, read: Reader, conflict: str) -> Any:
        written = None
        try:
            written = self._session.caller(call, read)
            return written
        except Refused as error:
            if error.status == 412 or (error.status == _CONFLICT and "If-Match" in call.headers):
                raise error.within(f"{conflict}: ") from error
            if error.status in (400, 422):
                self._session.refuse_another_version()
            raise
        finally:
            self._session.wrote(call.path, written)

    def _as_asked(self, type_: Any, found: Resource) -> Any:
        if isinstance(type_, str):
            return found
        try:
            return models.parse(type_, found)
        except ValueError as error:
            self._session.refuse_another_version()
            name, version = _type_name(type_), self._session.version
            if package := models.better_import(version, type_):
                raise DeliveryError(f"the job's {name} is not of FHIR {version}: import it from {package}") from error
            raise Refused(self._session.backend, f"gave as {name} what is not valid: {error}") from error


class FhirSession:
    """A FHIR backend opened for one delivery: the lookups of all its rows are shared."""

    def __init__(
        self, caller: Caller, learnt: Learnt, statement: Statement, *, folder: Path | None, longest: int
    ) -> None:
        self.caller = caller
        self.backend = caller.backend
        self.version = statement.version
        self.lookups = Lookups(ById(caller, learnt), most=learnt.size)
        self._statement = statement
        self._folder = folder
        self._longest = longest
        self._exporting = Turn()

    def at(self, key: RowKey) -> Fhir:
        """What the job sees while it works on one row."""
        return Fhir(self, key)

    def export(self, question: Question, *, partial_ok: bool) -> Export:
        """The export that answers a question, one for all rows that ask it."""
        return Export(
            self.caller, question, self._folder, self._exporting, longest=self._longest, partial_ok=partial_ok
        )

    def wrote(self, path: str, written: Any) -> None:
        """Forget what a write to this path has changed; ``written`` is what it came to, as far as that is known."""
        type_, _, id_ = path.partition("/")
        if not type_:
            self.lookups.forget_all()
        elif named := id_ or (written or {}).get("id"):
            self.lookups.forget(type_, named)
        else:
            self.lookups.forget_missing(type_)

    def refuse_another_version(self) -> None:
        """Where something is not valid: see whether the server speaks the configured version.

        Raises ``DeliveryError`` if it does not, as no row can do anything about that.
        """
        if wrong := self._statement.contradiction(self.caller):
            raise DeliveryError(f"{self.backend}: {wrong}")


class FhirBackend:
    """A FHIR backend."""

    kind = "fhir"

    def __init__(self, http: Http, version: str) -> None:
        self.name = http.name
        self.limits = http.limits
        self._http = http
        self._learnt = Learnt()
        self._statement = Statement(version)

    def open(self, meter: Meter, stop: threading.Event, folder: Path | None = None) -> FhirSession:
        """A session for one delivery; ``folder`` is the delivery's own, if it has one."""
        caller = HttpCaller(self._http, meter, stop, self._http.retries + 1)
        return FhirSession(caller, self._learnt, self._statement, folder=folder, longest=self._http.max_body)

    def check(self) -> str:
        """Ask for the CapabilityStatement; raises ``Refused`` if its FHIR version is not the configured one."""
        release = self._statement.ask(HttpCaller(self._http, Meter(), threading.Event(), attempts=1))
        if wrong := self._statement.contradicts(release):
            raise Refused(self.name, wrong)
        return f"FHIR {release} at {self._http.origin}"

    def contradiction(self, stop: threading.Event) -> str:
        """What is wrong with ``version`` by the server's own word, "" if nothing; raises ``BackendError``."""
        caller = HttpCaller(self._http, Meter(), stop, attempts=1)
        release = self._statement.ask_openly(caller)
        return self._statement.contradicts(release) if release else ""

    def still_answers(self, meter: Meter, stop: threading.Event) -> bool:
        """Whether it answers what it has answered before."""
        return self._http.still_answers(meter, stop)

    def reload(self) -> None:
        """Read certificates, key and proxy anew."""
        self._http.reload()

    def cut_off(self) -> None:
        """End the calls that are being made, with ``Interrupted``, and let none begin; from any thread."""
        self._http.under_way.cut_off()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()


@lru_cache(maxsize=256)
def _type_name(type_: Any) -> str:
    name = type_ if isinstance(type_, str) else models.type_name(type_)
    if not _TYPE.fullmatch(name):
        raise ValueError(f"{name!r} is not a FHIR resource type")
    return name


def _wanted(found: SearchSet) -> Wanted:
    type_, query = asked(found)
    return Wanted(type_, tuple(query))


def _checked_id(type_: str, id_: str | int) -> str:
    """The id, if it is one (https://hl7.org/fhir/R4/datatypes.html#id); in a message it may have come as a number."""
    if type(id_) is int:
        id_ = str(id_)
    if not isinstance(id_, str) or not _ID.fullmatch(id_):
        raise Reject(f"the {type_} id is {'blank' if not str(id_ or '').strip() else 'not a FHIR id'}")
    return id_


def _is_missing(answer: Any) -> bool:
    return isinstance(answer, Refused) and answer.status in (404, 410)


def _if_match(version: str | None) -> dict[str, str]:
    if version is None:
        return {}
    if not version.strip():
        raise Reject("if_match is blank: it names the version that may be replaced")
    return {"If-Match": version if version.startswith(("W/", '"')) else f'W/"{version}"'}


def _operations(given: Any) -> list[Any]:
    """Those of a JSON Patch; raises ``Reject`` for anything else, such as a single one, or a Parameters resource."""
    operations = list(given) if isinstance(given, Iterable) and not isinstance(given, Mapping) else [None]
    if not all(isinstance(each, Mapping) for each in operations):
        raise Reject("a patch takes a list of JSON Patch operations (RFC 6902), each of them a mapping")
    return operations
