import gzip
import json
import re
import zlib
from decimal import Decimal

import pytest

from worker.errors import DeliveryError
from worker.records import Reading
from worker.triggers.bodies import Body

LIMIT = 10_000


def rows(data, **changes):
    return [dict(row) for chunk in Body(data, **changes).unfolded(LIMIT).read(Reading()) for row in chunk.rows]


def test_an_object_is_one_row_with_its_values_as_json_gives_them():
    assert rows(b' {"id": "007", "price": 1.10, "tags": [1]} ') == [
        {"id": "007", "price": Decimal("1.10"), "tags": [1]}
    ]


def test_an_array_is_many_rows_in_chunks_counted_from_one():
    chunks = list(Body(json.dumps([{"n": n} for n in range(5)]).encode()).read(Reading(chunk_rows=2)))
    assert [[row["n"] for row in chunk.rows] for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert [row.line for chunk in chunks for row in chunk.rows] == [1, 2, 3, 4, 5]
    assert [row.index for chunk in chunks for row in chunk.rows] == [0, 1, 2, 3, 4]


def test_an_empty_array_has_no_rows():
    assert rows(b" [ ] ") == []


def test_what_is_no_object_in_an_array_is_rejected_and_the_rest_goes_on():
    (chunk,) = Body(b'[{"n": 1}, 2, null, {"n": 3}]').read(Reading())
    assert [row.index for row in chunk.rows] == [0, 3]
    assert [(wrong.index, wrong.error) for wrong in chunk.wrong] == [(1, "Reject"), (2, "Reject")]


def test_a_frame_of_json_rows_is_indexed_by_row():
    (chunk,) = Body(b'[{"n": 1}, {"n": 2}]').read(Reading())
    assert chunk.frame().loc[2, "n"] == 2


def test_csv_is_read_like_a_file():
    assert rows(b"id;name\n007;Ann\n", content_type="Text/CSV; charset=utf-8") == [{"id": "007", "name": "Ann"}]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate"])
def test_a_compressed_body_is_unfolded(encoding):
    pack = zlib.compress if encoding == "deflate" else gzip.compress
    assert rows(pack(b'{"n": 1}'), content_encoding=encoding) == [{"n": 1}]
    assert rows(gzip.compress(b'{"n": ') + gzip.compress(b"1}"), content_encoding="gzip") == [{"n": 1}]


@pytest.mark.parametrize("body", [b'{"n": 1}', b' [{"n": 1}]', b"n\n1\n"], ids=["object", "array", "table"])
def test_a_byte_order_mark_before_a_body_is_passed_over(body):
    kind = "text/csv" if body.startswith(b"n") else "application/json"
    expected = [{"n": "1"}] if body.startswith(b"n") else [{"n": 1}]
    assert rows(b"\xef\xbb\xbf" + body, content_type=kind) == expected
    assert rows(gzip.compress(b"\xef\xbb\xbf" + body), content_type=kind, content_encoding="gzip") == expected


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_a_byte_order_mark_alone_is_an_empty_body(body):
    with pytest.raises(DeliveryError, match="its body is empty"):
        rows(b"\xef\xbb\xbf" + body)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "us-ascii", "binary"])
def test_a_charset_where_the_encoding_stands_means_a_body_as_it_is(charset):
    assert rows(b'{"n": 1}', content_encoding=charset) == [{"n": 1}]
    assert Body(b'{"n": 1}', content_encoding=charset).is_small


def test_a_body_folded_in_many_parts_is_all_of_them():
    text = json.dumps([{"n": n} for n in range(900)]).encode()
    data = b"".join(gzip.compress(text[at : at + 3]) + gzip.compress(b"") for at in range(0, len(text), 3))
    assert Body(data, content_encoding="gzip").unfolded(len(text)).data == text


@pytest.mark.parametrize(
    ("data", "changes", "reason"),
    [
        (b"", {}, "its body is empty"),
        (b" \n", {}, "its body is empty"),
        (b"7", {}, "a single JSON value"),
        (b'"text"', {}, "a single JSON value"),
        (b"", {"content_type": "text/csv"}, "its body is empty"),
        (b'{"a": 1', {}, "is not JSON (line 1, character 8)"),
        (b"id;name\n7;Ann\n", {}, "is not JSON (line 1, character 1); correct it, or say in its content type"),
        (b'{"a": "\xff"}', {}, "its body is not UTF-8"),
        (b'{"a": NaN}', {}, "has NaN or Infinity, which JSON does not know"),
        (b'{"a": 1e999}', {}, "a number that is too large"),
        (b'{"a": %b}' % (b"1" * 9_000), {}, "a number that is too large"),
        (b'{"a": 0e99999999999999999999}', {}, "a number whose exponent is out of all range"),
        (b'[{"a": 1e-99999999999999999999}]', {}, "a number whose exponent is out of all range"),
        (b'{"a": "\\ud83d"}', {}, "half a surrogate pair"),
        (b"[1, {]", {}, "is not JSON (line 1, character 6)"),
        (b'[{"a": -Infinity}]', {}, "has NaN or Infinity, which JSON does not know"),
        (b'[{"a": %b}]' % (b"1" * 9_000), {}, "a number that is too large"),
        (b"[{}] {}", {}, "is not JSON (line 1, character 6)"),
        (b'{"a": ' + b"[" * 9_000, {}, "nested too deeply"),
        (b"[" * 9_000, {}, "nested too deeply"),
        (b"{}", {"content_type": "application/xml"}, "its content type is application/xml"),
        (b"{}", {"content_type": "Ann Smith, born 1980"}, "one that is not known"),
        (b"{}", {"content_encoding": "br"}, "its content encoding is br"),
        (b"{}", {"content_encoding": "iso-8859-2"}, "its content encoding is iso-8859-2"),
        (b"{}", {"content_encoding": "gzip"}, "no gzip data"),
        (gzip.compress(b'{"a": 1}')[:-4], {"content_encoding": "gzip"}, "cut off"),
        (gzip.compress(b" " * (LIMIT + 1)), {"content_encoding": "gzip"}, "unfolds to more than 10000 bytes"),
    ],
    ids=range(27),
)
def test_what_cannot_be_read_is_said_without_quoting_it(data, changes, reason):
    with pytest.raises(DeliveryError, match=re.escape(reason)) as raised:
        rows(data, **changes)
    assert "Ann Smith" not in str(raised.value)


def test_an_array_that_is_broken_at_its_end_yields_no_row_at_all():
    chunks = Body(b'[{"n": 1}, {"n": 2}, oops]').read(Reading(chunk_rows=1))
    with pytest.raises(DeliveryError):
        next(chunks)
