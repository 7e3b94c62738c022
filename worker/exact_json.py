"""JSON that keeps numbers as they were written: 1.10 stays 1.10, in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from math import isfinite, isinf
from typing import Any

import orjson
from pydantic import BaseModel

_FOR_PROGRAMS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_FOR_PEOPLE = _FOR_PROGRAMS | orjson.OPT_INDENT_2
_CONTAINERS = (dict, list)
_SEVERAL = (list, tuple, set, frozenset)
_EXACT = frozenset({str, int, bool, type(None)})  # what orjson gives only for what is no fraction
# What a number with a fraction, an exponent or too many digits looks like; strings that do cost only a second look.
_SUSPECT = re.compile(rb"[:\[,][\s-]*+\d++(?:[.eE]|(?<=\d{19}))")

_TOO_FAR = "is JSON with a number whose exponent is out of all range"  # for a Decimal, which bears 18 digits of it
_LONG = re.compile(rb"\d{19}")  # as many digits as the shortest number has that needs more than 64 bits


def _fits(number: int) -> bool:
    """Whether orjson writes it: in 64 bits."""
    return -(2**63) <= number < 2**64


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_as_python = json.JSONDecoder(parse_constant=_refuse)
_exact = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse)
_decode_exactly = _exact.decode


def read_value(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at a place in a text, read like ``loads``, and where it ends.

    Raises ``ValueError``.
    """
    try:
        return _exact.raw_decode(text, at)
    except ArithmeticError:
        raise ValueError(_TOO_FAR) from None


def loads(text: bytes | str) -> Any:
    """Parse JSON; a number with a fraction or an exponent becomes a ``Decimal``, and a whole one keeps its digits.

    Raises ``ValueError``.

    ``NaN`` and ``Infinity`` are refused, as RFC 8259 section 6 does.
    """
    try:
        parsed = orjson.loads(text)
        one = parsed[0] if type(parsed) is list and len(parsed) == 1 else parsed
        if type(one) is dict and _EXACT.issuperset(map(type, one.values())):  # as most rows are, and their results
            return parsed
        data = text.encode() if isinstance(text, str) else text
        if type(parsed) in _CONTAINERS and not _SUSPECT.search(data):
            return parsed
        return _decode_exactly(data.decode()) if _holds_a_fraction(parsed) else parsed
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ArithmeticError:
        raise ValueError(_TOO_FAR) from None


def loads_as_python(data: bytes) -> Any:
    """Parse JSON into what Python's own parser makes of it: fractions are floats, and a whole number keeps its digits.

    Raises ``ValueError``. orjson alone makes a float of a whole number that needs more than 64 bits.
    """
    parsed = orjson.loads(data)
    if type(parsed) is dict and _EXACT.issuperset(map(type, parsed.values())):  # as most answers are
        return parsed
    return _as_python.decode(data.decode()) if _LONG.search(data) and _holds_a_fraction(parsed) else parsed


def fault(text: bytes) -> str:
    """Why ``loads``, or ``read_value``, refuses this, as the end of a sentence about it that quotes nothing of it."""
    try:
        _diagnosing.decode(text.decode())
    except UnicodeDecodeError:
        return "is not UTF-8"
    except RecursionError:
        return "is JSON that is nested too deeply"
    except json.JSONDecodeError as error:
        return f"is not JSON (line {error.lineno}, character {error.colno})"
    except ValueError as error:
        return str(error)
    return "is JSON that is nested too deeply, or has half a surrogate pair in a text"


def _refuse_infinite(number: str) -> float:
    if isinf(float(number)):
        raise ValueError("is JSON with a number that is too large")
    try:
        Decimal(number)
    except ArithmeticError:
        raise ValueError(_TOO_FAR) from None
    return 0.0


def _refuse_constant(_: str) -> None:
    raise ValueError("has NaN or Infinity, which JSON does not know")


_diagnosing = json.JSONDecoder(
    parse_float=_refuse_infinite, parse_int=_refuse_infinite, parse_constant=_refuse_constant
)


def length(array: bytes) -> int:
    """How many values there are in a JSON array that ``dumps`` has written."""
    return len(orjson.loads(array))


def _holds_a_fraction(value: Any) -> bool:
    if type(value) not in _CONTAINERS:
        return type(value) is float
    values = value.values() if type(value) is dict else value
    kinds = set(map(type, values))
    return float in kinds or (not kinds.isdisjoint(_CONTAINERS) and any(map(_holds_a_fraction, values)))


_NO_NUMBER = "NaN and infinity are not JSON numbers; None is for what is not there"


class NoJson(TypeError):
    """What has no JSON form; its text names types, and no values."""


def dumps(value: Any, *, indent: bool = False) -> bytes:
    """JSON as UTF-8 bytes, on one line unless indented for people; raises ``NoJson`` for what has no JSON form.

    Decimals and whole numbers keep all their digits; times are written as ISO 8601, pydantic and FHIR models as their
    JSON. NaN and infinity have no JSON form (RFC 8259 section 6).
    """
    try:
        text = orjson.dumps(value, _plain, _FOR_PEOPLE if indent else _FOR_PROGRAMS)
    except TypeError:
        text = _dumps_long(value, _FOR_PEOPLE if indent else _FOR_PROGRAMS)
    if b"null" in text and not _has_no_float(value):  # it may be what orjson makes of NaN; a second look costs more
        _refuse_nan([value])
    return text


def packed(value: Any) -> tuple[bytes, Callable[[bytes], Any]]:
    """What ``loads`` has given, as JSON, and what makes of that the same again without looking for fractions."""
    is_plain = True

    def plain(part: Any) -> Any:
        nonlocal is_plain
        is_plain = False
        return _plain(part)

    try:
        text = orjson.dumps(value, plain, _FOR_PROGRAMS)
    except TypeError:  # a whole number of more than 64 bits
        return dumps(value), loads
    return text, orjson.loads if is_plain else loads


def _dumps_long(value: Any, options: int) -> bytes:
    """What orjson did not write, once more, if it was for a whole number of more than 64 bits."""
    try:
        return orjson.dumps(_with_long_decimals(value), _plain, options)
    except (TypeError, RecursionError) as unfit:
        why = unfit.__cause__ if isinstance(unfit.__cause__, NoJson) else unfit
        raise NoJson(str(why)) from unfit


def _with_long_decimals(value: Any) -> Any:
    if type(value) is int:
        return value if _fits(value) else Decimal(value)
    if type(value) in _SEVERAL:
        return type(value)(map(_with_long_decimals, value))
    if isinstance(value, Enum):
        return _with_long_decimals(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, BaseModel | Mapping):
        return {key: _with_long_decimals(each) for key, each in _plain(value).items()}
    return value


def _has_no_float(value: Any) -> bool:
    """As far as can be seen at a glance."""
    if type(value) is dict:
        return _EXACT.issuperset(map(type, value)) and _EXACT.issuperset(map(type, value.values()))
    return type(value) in _EXACT or (type(value) is list and all(map(_has_no_float, value)))


def _refuse_nan(values: Iterable[Any]) -> None:
    for value in values:
        kind = type(value)
        if kind is dict:
            _refuse_nan(value)
            _refuse_nan(value.values())
        elif kind is list:
            _refuse_nan(value)
        elif kind is float:
            if not isfinite(value):
                raise NoJson(_NO_NUMBER)
        elif kind not in _EXACT:
            _refuse_nan(_parts(value))


def _parts(value: Any) -> Iterable[Any]:
    """What of a value that is not of the types of JSON itself, but has a JSON form, may be or hold a number."""
    if isinstance(value, Enum):
        return (value.value,)
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, BaseModel | Mapping):
        return (_plain(value),)
    if isinstance(value, list | tuple | set | frozenset):
        return value
    return (value.tolist(),) if hasattr(value, "tolist") else ()  # numpy's


def of_model(model: BaseModel) -> dict[str, Any]:
    """A model as the dict that is its JSON; decimals of which a FHIR model makes floats stay as they were read.

    FHIR gives a meaning to their digits (https://hl7.org/fhir/R4/datatypes.html#decimal).
    """
    plain: dict[str, Any] = _with_decimals(model, model.model_dump(mode="json", exclude_none=True))
    return plain


def _with_decimals(value: Any, plain: Any) -> Any:
    if isinstance(value, Decimal) and type(plain) is float:
        return value
    if isinstance(value, BaseModel) and type(plain) is dict:
        names = {field.alias or name: name for name, field in type(value).model_fields.items()}
        return {key: _with_decimals(getattr(value, names.get(key) or key, None), each) for key, each in plain.items()}
    if isinstance(value, list | tuple) and type(plain) is list and len(value) == len(plain):
        return list(map(_with_decimals, value, plain))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise NoJson(_NO_NUMBER)
        return orjson.Fragment(str(value))
    if isinstance(value, BaseModel):
        return of_model(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, datetime):  # of pandas, pendulum, ...: orjson knows only Python's own
        if value != value:
            raise NoJson("NaT is no time; None is for what is not there")
        return value.isoformat()
    raise NoJson(f"a value of type {type(value).__name__} has no JSON form")
