"""What an export is asked for (Bulk Data Access IG 2.0.0, "Bulk Data Kick-off Request")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from worker import exact_json
from worker.backends.calls import Call
from worker.backends.search import Parameter, is_harmless

_OF = re.compile(r"(?:Patient|Group/[A-Za-z0-9\-.]{1,64})?")
_HEADERS = {"Accept": "application/fhir+json", "Prefer": "respond-async"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Resources of one type, all of them or those that a search would find."""

    type: str
    query: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """An export's parameters; ``since`` is a FHIR instant or "", ``of`` as at ``Fhir.export``."""

    wanted: tuple[Wanted, ...]
    of: str = ""
    since: str = ""

    @classmethod
    def of_these(cls, wanted: Iterable[Wanted], of: str, since: datetime | str | None) -> Question:
        """The question; raises ``ValueError`` for what no server could understand."""
        if not _OF.fullmatch(of):
            raise ValueError('an export is of everything (""), of "Patient", or of a group ("Group/ID")')
        return cls(tuple(dict.fromkeys(wanted)), of, _instant(since) if since else "")

    @property
    def types(self) -> list[str]:
        """The types asked for; none stands for all."""
        return list(dict.fromkeys(each.type for each in self.wanted))

    @property
    def key(self) -> str:
        """A name for it, the same at every attempt."""
        said = exact_json.dumps([self.of, self.since, [[each.type, each.query] for each in self.wanted]])
        return hashlib.sha256(said).hexdigest()[:16]

    def call(self) -> Call:
        """The request that begins the export; by POST where a filter would put personal data into the URL."""
        path = f"{self.of}/$export".lstrip("/")
        if all(is_harmless(each.query) for each in self.wanted):
            return Call("GET", path, self._parameters(), headers=_HEADERS, probe=False)
        body = {"resourceType": "Parameters", "parameter": [_parameter(*each) for each in self._parameters()]}
        kind = {"Content-Type": "application/fhir+json"}
        return Call("POST", path, body=exact_json.dumps(body), headers={**_HEADERS, **kind})

    def _parameters(self) -> list[Parameter]:
        given = [("_type", ",".join(self.types))] if self.wanted else []
        if self.since:
            given.append(("_since", self.since))
        all_of = {each.type for each in self.wanted if not each.query}  # a filter would leave some of them out
        filters = [f"{each.type}?{urlencode(each.query)}" for each in self.wanted if each.type not in all_of]
        return given + [("_typeFilter", each) for each in filters]


def _parameter(name: str, value: str) -> dict[str, str]:
    return {"name": name, "valueInstant" if name == "_since" else "valueString": value}


def _instant(moment: datetime | str) -> str:
    """https://hl7.org/fhir/R4/datatypes.html#instant"""
    parsed = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    if parsed.tzinfo is None:
        raise ValueError("the time that an export goes back to needs a time zone, as FHIR's instant does")
    return moment if isinstance(moment, str) else moment.isoformat(timespec="milliseconds")
