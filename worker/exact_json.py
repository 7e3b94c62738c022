"""JSON that keeps numbers as they were written: 1.10 stays 1.10, in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel

_MAY_HOLD_A_FRACTION = re.compile(rb"\d[.eE]")
_decode_exactly = json.JSONDecoder(parse_float=Decimal).decode


def loads(text: bytes | str) -> Any:
    """Parse JSON; a number with a fraction or an exponent becomes a ``Decimal``. Raises ``ValueError``.

    ``NaN`` and ``Infinity`` are refused, as RFC 8259 section 6 does.
    """
    data = text.encode() if isinstance(text, str) else text
    parsed = orjson.loads(data)
    return _decode_exactly(data.decode()) if _MAY_HOLD_A_FRACTION.search(data) else parsed


def dumps(value: Any) -> bytes:
    """JSON as UTF-8 bytes, without line breaks; raises ``TypeError`` for what has no JSON form.

    Decimals are written as they are, times as ISO 8601, pydantic and FHIR models as their JSON.
    """
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise TypeError(f"{value} is not a JSON number")
        return orjson.Fragment(str(value))
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.model_dump_json(exclude_none=True))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")
