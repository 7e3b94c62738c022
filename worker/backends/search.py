"""FHIR search parameters, written the way fhirpy's users know them (https://hl7.org/fhir/R4/search.html)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from worker.backends.calls import Call
from worker.errors import Reject

Parameter = tuple[str, str]

_LONGEST_QUERY = 1500
_PREFIXES = frozenset({"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"})
_MODIFIERS = frozenset(
    {"exact", "contains", "not", "text", "text_advanced", "code_text", "missing", "above", "below", "in", "not_in"}
    | {"of_type", "identifier", "iterate"}
)
# They say how to answer, not which resources: lists of names whose commas stand as they are.
_RESULT_PARAMETERS = frozenset(
    {"_sort", "_count", "_include", "_revinclude", "_summary", "_total", "_elements", "_contained", "_containedType"}
    | {"_format", "_pretty"}
)
# What they say is about kinds and states of records, not about people: all else may be, a custom parameter, too.
_HARMLESS = _RESULT_PARAMETERS | {
    *("_id", "_lastUpdated", "_profile", "_security", "_tag", "_type"),
    *("active", "category", "class", "clinical-status", "code", "date", "intent", "issued", "priority", "role"),
    *("specialty", "status", "type", "verification-status"),
}
_PLAIN = re.compile(r"[A-Za-z0-9.-]+")
_TOKEN = re.compile(r"((?:[a-z][a-z0-9+.-]*://|urn:)[^|\s]+)\|([^|]*)", re.IGNORECASE)


def parameters(criteria: dict[str, Any]) -> list[Parameter]:
    """The query parameters that keyword arguments stand for.

    ``name__contains`` is ``name:contains``; ``date__ge`` puts ``ge`` before the value;
    ``general_practitioner__Organization__name`` is ``general-practitioner:Organization.name``. A list is "all of" (the
    parameter is repeated), a set "any of" (values joined by commas), a tuple a token ``system|value``. Raises
    ``Reject`` for an empty value, of a token, too, which a server would ignore and answer with everything, and
    ``TypeError`` for a value that has no form in a search.
    """
    return [parameter for name, value in criteria.items() for parameter in _parameter(name, value)]


def search_call(type_: str, query: list[Parameter], *, posted: bool | None = None) -> Call:
    """The request for a search; ``posted`` as ``is_posted`` says, unless it is given."""
    headers = {
        "Accept": "application/fhir+json",
        "Prefer": "handling=strict",
        # HAPI answers the same search from a cache for a minute, also after a write.
        "Cache-Control": "no-cache",
    }
    if not (is_posted(query) if posted is None else posted):
        return Call("GET", type_, query, headers=headers)
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    return Call("POST", f"{type_}/_search", body=urlencode(query).encode(), headers=headers, probe=True)


def is_posted(query: list[Parameter]) -> bool:
    """Whether a search goes by POST: because it may put personal data into a URL, or is long."""
    return not is_harmless(query) or len(urlencode(query, safe=",")) > _LONGEST_QUERY


def is_harmless(query: Iterable[Parameter]) -> bool:
    """Whether a search may stand in a URL, which others on the way, and the server itself, keep in their logs."""
    return all(_segments(name) <= _HARMLESS for name in _names(query))


def filters(query: Iterable[Parameter]) -> set[str]:
    """The names, without modifiers and chains, of the parameters that say which resources are asked for."""
    return {_base(name) for name in _names(query)} - _RESULT_PARAMETERS


def _names(query: Iterable[Parameter]) -> Iterator[str]:
    return (name for name, _ in query)


def _base(name: str) -> str:
    return re.split(r"[:.]", name, maxsplit=1)[0]


def _segments(name: str) -> set[str]:
    """The parameters that a name goes through, without modifiers and types."""
    first, *others = re.split(r"[:.]", name)
    return {first, *(each for each in others if each.replace("-", "_") not in _MODIFIERS and not each[:1].isupper())}


def _parameter(keyword: str, value: Any) -> list[Parameter]:
    name, prefix = _name(keyword)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise Reject(f"the search parameter {name!r} has no values")
    return [(name, _any_of(name, prefix, one)) for one in values]


def _name(keyword: str) -> tuple[str, str]:
    head, *rest = re.split(r"(?<=[^_])__", keyword)
    prefix = rest.pop() if rest and rest[-1] in _PREFIXES else ""
    name = _hyphens(head)
    if name == "_has":
        return ":".join([name, *(_hyphens(segment) for segment in rest)]), prefix
    for segment in rest:
        is_modifier = segment in _MODIFIERS or segment[:1].isupper()
        name += (":" if is_modifier else ".") + _hyphens(segment)
    return name, prefix


def _hyphens(segment: str) -> str:
    return segment[:1] + segment[1:].replace("_", "-")


def _any_of(name: str, prefix: str, value: Any) -> str:
    if isinstance(value, set | frozenset):
        if not value:
            raise Reject(f"the search parameter {name!r} has no values")
        return ",".join(sorted(prefix + _value(name, one) for one in value))
    return prefix + _value(name, value)


def _value(name: str, value: Any) -> str:
    if type(value) is str and _PLAIN.fullmatch(value):  # as ids are
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"the time given for {name!r} needs a time zone, as FHIR's dateTime does")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return _token(name, ["" if part is None else str(part) for part in value])
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} cannot be searched for with {name!r}")
    if not value.strip():
        raise Reject(f"the search parameter {name!r} is empty")
    if name in _RESULT_PARAMETERS:
        return value
    token = _TOKEN.fullmatch(value)
    if not token:
        return _escaped(value)
    if not token[2] and is_harmless([(name, value)]):  # all codes of a system; never all people that it names
        return f"{_escaped(token[1])}|"
    return _token(name, [token[1], token[2]])


def _token(name: str, parts: list[str]) -> str:
    """``system|value``, ``system|code|value`` or ``number|system|unit``; ``system|`` would find all of a system."""
    needed = parts[-1:] if len(parts) < 3 else [parts[0], parts[-1]]
    if not needed or not all(part.strip() for part in needed):
        raise Reject(f"the search parameter {name!r} is empty")
    return "|".join(map(_escaped, parts))


def _escaped(value: str) -> str:
    r"""FHIR's own escapes for ``\ , $ |`` (section 3.1.1.3.1, escaping search parameters)."""
    return re.sub(r"[\\,$|]", lambda found: "\\" + found[0], value)
