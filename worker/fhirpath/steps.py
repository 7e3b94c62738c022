"""What the parts of a path do: each takes a collection of values and gives one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from worker import exact_json
from worker.errors import Reject

Collection = list[Any]
Expression = Callable[[Collection], Collection]

# What may stand behind the name of an element value[x] (https://hl7.org/fhir/R4/formats.html#choice), R5's too.
_TYPE = re.compile(
    "Address|Age|Annotation|Attachment|Availability|Base64Binary|Boolean|Canonical|Code|CodeableConcept"
    "|CodeableReference|Coding|ContactDetail|ContactPoint|Contributor|Count|DataRequirement|Date|DateTime|Decimal"
    "|Distance|Dosage|Duration|Expression|ExtendedContactDetail|HumanName|Id|Identifier|Instant|Integer|Integer64"
    "|Markdown|Meta|Money|Oid|ParameterDefinition|Period|PositiveInt|Quantity|Range|Ratio|RatioRange|Reference"
    "|RelatedArtifact|SampledData|Signature|String|Time|Timing|TriggerDefinition|UnsignedInt|Uri|Url|UsageContext|Uuid"
)


def this(items: Collection) -> Collection:
    """The collection itself."""
    return items


def literal(value: Any) -> Expression:
    """The same value always."""
    return lambda _: [value]


def chain(first: Expression, then: Expression) -> Expression:
    """One after the other."""
    return lambda items: then(first(items))


def child(name: str) -> Expression:
    """The elements of that name; of ``value[x]`` whichever is there."""

    def step(items: Collection) -> Collection:
        found: Collection = []
        for item in items:
            fields = item if type(item) is dict else _fields(item)
            value = fields[name] if name in fields else _choice(fields, name)
            if type(value) is list:
                found += [each for each in value if each is not None]
            elif value is not None:
                found.append(value)
        return found

    return step


def root(name: str) -> Expression:
    """What an expression begins with: an element, or the type of the resource itself."""
    element = child(name)

    def step(items: Collection) -> Collection:
        if found := element(items):
            return found
        return [item for item in items if _fields(item).get("resourceType") == name]

    return step


@dataclass(frozen=True, slots=True)
class Element:
    """An element that the next step looks at the name of; ``first``: the expression begins with it."""

    name: str
    first: bool

    def step(self) -> Expression:
        """The elements of that name."""
        return (root if self.first else child)(self.name)


def of_type(element: Element | None, type_: str) -> Expression:
    """The elements that are of a type: of ``value[x]``, or resources."""
    elements = element.step() if element else this
    chosen = child(element.name + type_[:1].upper() + type_[1:]) if element else None

    def step(items: Collection) -> Collection:
        resources = [each for each in elements(items) if _fields(each).get("resourceType") == type_]
        return chosen(items) + resources if chosen else resources

    return step


def extensions(element: Element | None, url: Expression) -> Expression:
    """The extensions with this address, of elements with parts and, in ``_birthDate``, of those without."""
    elements: list[Expression] = [element.step(), child(f"_{element.name}")] if element else [this]
    extension = child("extension")

    def step(items: Collection) -> Collection:
        found = [each for elements_of in elements for each in extension(elements_of(items))]
        wanted = url(items)
        return [each for each in found if [_fields(each).get("url")] == wanted]

    return step


def at(place: int) -> Expression:
    """The item at that place, counted from 0."""
    return lambda items: items[place : place + 1]


def union(left: Expression, right: Expression) -> Expression:
    """The values of both, each once."""

    def step(items: Collection) -> Collection:
        found: Collection = []
        for value in left(items) + right(items):
            if not any(_same(value, other) for other in found):
                found.append(value)
        return found

    return step


def equal(left: Expression, right: Expression, expected: bool) -> Expression:
    """Whether both are the same, or not; nothing where one is empty."""

    def step(items: Collection) -> Collection:
        one, other = left(items), right(items)
        if not one or not other:
            return []
        return [(len(one) == len(other) and all(map(_same, one, other))) is expected]

    return step


def both(left: Expression, right: Expression) -> Expression:
    """Whether both hold."""
    return lambda items: [holds(left(items)) and holds(right(items))]


def either(left: Expression, right: Expression) -> Expression:
    """Whether one of them holds."""
    return lambda items: [holds(left(items)) or holds(right(items))]


def holds(answer: Collection) -> bool:
    """Whether a condition is met: nothing is no, one value that is no boolean yes; raises ``Reject`` for several."""
    if len(answer) > 1:
        raise Reject("a condition in a column's path has several values; use exists() or first() in it")
    return bool(answer) and answer[0] is not False


def _same(one: Any, other: Any) -> bool:
    # True is 1 in Python, and in no other language.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _fields(item: Any) -> Mapping[str, Any]:
    if isinstance(item, BaseModel):
        item = exact_json.loads(exact_json.dumps(item))
    return item if isinstance(item, Mapping) else {}


def _choice(fields: Mapping[str, Any], name: str) -> Any:
    """What stands at ``value[x]``; never a list, so that ``referenceRange`` is not taken for a ``reference[x]``."""
    length = len(name)
    for key, value in fields.items():
        if key[:length] == name and type(value) is not list and _TYPE.fullmatch(key, length):
            return value
    return None


def text(value: Any) -> str:
    """A primitive value as FHIR writes it; raises ``Reject`` for an element that has parts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | Decimal):
        return str(value)
    raise Reject("join() in a column's path joins texts and numbers, and there are elements with parts of their own")
