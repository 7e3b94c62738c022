import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum

import numpy as np
import pandas as pd
import pytest
from fhir.resources.R4B.observation import Observation
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from worker import exact_json


class Plan(BaseModel):
    name: str
    note: str | None = None


class Measured(BaseModel):
    value: float


@dataclass
class Reading:
    value: float


@dataclass
class Counted:
    value: int


class Several(list):
    pass


class Level(Enum):
    UNKNOWN = float("nan")


class View(Mapping):
    def __init__(self, given=None):
        self.given = given or {"a": 1}

    def __getitem__(self, key):
        return self.given[key]

    def __iter__(self):
        return iter(self.given)

    def __len__(self):
        return len(self.given)


@pytest.mark.parametrize(
    "text",
    [
        b"1.10",
        b"-0.0",
        b'{"price":100.00,"rates":[0.1,0.10]}',
        b"123456789012345678901234567890",
        b"-9223372036854775809",
        b'{"a":{"b":[{"c":1.50}]}}',
        b"0.1000000000000000055511151231257827",
        b"18446744073709551615",
        b'{"text":"1.5 and 2e5","whole":7,"no":null,"yes":true}',
    ],
)
def test_numbers_come_back_as_they_were_written(text):
    assert exact_json.dumps(exact_json.loads(text)) == text


def test_a_fraction_is_a_decimal_and_a_whole_number_an_int():
    assert exact_json.loads('{"a":1.10,"b":7}') == {"a": Decimal("1.10"), "b": 7}
    assert type(exact_json.loads("7")) is int
    assert type(exact_json.loads('{"n":123456789012345678901234567890}')["n"]) is int


def test_an_exponent_is_kept_in_value():
    assert exact_json.loads("1.5e3") == 1500
    assert exact_json.dumps(exact_json.loads("1.5e3")) == b"1.5E+3"


@pytest.mark.parametrize("text", ["NaN", "Infinity", '{"a": NaN, "b": 1.5}', "", "{", "1.", '"\\ud800"', b"\xff"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        exact_json.loads(text)


@pytest.mark.parametrize("inside", ["1", "1.5"])
@pytest.mark.parametrize("depth", [990, 1_000, 100_000])
def test_json_that_is_nested_too_deeply_is_refused_in_order(inside, depth):
    with pytest.raises(ValueError):
        exact_json.loads("[" * depth + inside + "]" * depth + "]")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 11, 23, 2, 0, 4, tzinfo=UTC), b'"2026-11-23T02:00:04+00:00"'),
        (pd.Timestamp("2026-11-23T02:00:04+01:00"), b'"2026-11-23T02:00:04+01:00"'),
        (date(2026, 11, 23), b'"2026-11-23"'),
        (Plan(name="basic"), b'{"name":"basic"}'),
        ([Plan(name="a", note="b")], b'[{"name":"a","note":"b"}]'),
        (View(), b'{"a":1}'),
        ({"b", "a"}, b'["a","b"]'),
        (frozenset([2, 1]), b"[1,2]"),
        ({1: "a"}, b'{"1":"a"}'),
        (np.int64(7), b"7"),
        ("two\nlines", b'"two\\nlines"'),
        (2**64, b"18446744073709551616"),
        ({"id": -(10**40), "price": Decimal("1.10")}, b'{"id":-1' + b"0" * 40 + b',"price":1.10}'),
        (View({"a": [(2**70, {2**70}, Counted(2**70))]}), b'{"a":[[%d,[%d],{"value":%d}]]}' % ((2**70,) * 3)),
    ],
)
def test_what_jobs_return_has_a_json_form(value, text):
    assert exact_json.dumps(value) == text


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        -INFINITY,
        {"a": None, "b": NAN},
        [{"a": "x"}, {"a": [{"b": INFINITY}]}],
        (1.5, NAN),
        {1: {2: NAN}},
        {date(2026, 11, 23): {"a": NAN}},
        {NAN: 1},
        {"a": {"b": 1.5, -INFINITY: 1}},
        {Level.UNKNOWN: 1},
        OrderedDict(a=Several([NAN])),
        np.float64("nan"),
        np.float32("inf"),
        np.array([1.0, NAN]),
        Reading(NAN),
        View({"a": NAN}),
        Measured(value=NAN),
        Level.UNKNOWN,
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_are_and_not_made_null(value):
    """To whoever reads the answer, a null says that there is nothing; a number that went wrong is something else."""
    with pytest.raises(TypeError, match="NaN and infinity are not JSON numbers"):
        exact_json.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        {"a": None, "b": 1.5, "c": Decimal("1.10"), "d": date(2026, 11, 23), "e": Reading(0.5), "f": np.array([0.5])},
        [None, "null", {"null": 0.5}, uuid.UUID(int=7), Measured(value=0.5), View({"x": None}), {1.5}],
        {date(2026, 11, 23): None, 1: 0.5},
    ],
)
def test_a_null_beside_other_values_is_a_null(value):
    assert b"null" in exact_json.dumps(value)


@pytest.mark.parametrize("value", [object(), Decimal("NaN"), Decimal("-Infinity"), {"a": {1, "b"}}, Counted])
def test_what_has_no_json_form_is_a_type_error(value):
    with pytest.raises(TypeError):
        exact_json.dumps(value)


def test_what_holds_itself_has_no_json_form():
    ring = [2**64]
    ring.append(ring)
    with pytest.raises(exact_json.NoJson):
        exact_json.dumps(ring)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"id":123456789012345678901234567890,"price":1.10}', {"id": 123456789012345678901234567890, "price": 1.1}),
        (b"[-9223372036854775809,18446744073709551615,7]", [-9223372036854775809, 18446744073709551615, 7]),
        (b'[0.1234567890123456789,"1234567890123456789",1e30]', [0.1234567890123456789, "1234567890123456789", 1e30]),
    ],
)
def test_json_is_read_as_python_does_it_with_all_digits_of_a_whole_number(text, value):
    read = exact_json.loads_as_python(text)
    assert read == value
    assert read == json.loads(text)


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_every_value_comes_back_equal(value):
    assert exact_json.loads(exact_json.dumps(value)) == value


def test_a_fhir_models_decimals_are_written_with_all_their_digits():
    text = (
        b'{"resourceType":"Observation","contained":[{"resourceType":"Observation","id":"c","status":"final",'
        b'"code":{"text":"z"},"valueQuantity":{"value":2.50}}],"status":"final","_status":{"id":"s"},'
        b'"code":{"text":"x"},"valueQuantity":{"value":1.10},"component":[{"code":{"text":"y"},'
        b'"valueQuantity":{"value":12345678901234.5678901}},{"code":{"text":"y"},"valueInteger":1}]}'
    )
    assert exact_json.dumps(Observation.model_validate(exact_json.loads(text))) == text


def test_another_models_decimals_are_written_as_pydantic_does_it():
    class Price(BaseModel):
        amount: Decimal
        rates: list[Decimal | None]
        note: str | None = None

    price = Price(amount=Decimal("1.10"), rates=[Decimal("2.0"), None])
    assert exact_json.dumps(price) == b'{"amount":"1.10","rates":["2.0",null]}'
