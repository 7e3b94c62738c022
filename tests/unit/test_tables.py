import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import decoding, tables
from worker.errors import DeliveryError
from worker.records import Chunk, Outcome, Reading, Row

NOWHERE = Path("nowhere.csv")


def chunks(data: bytes | str, **reading) -> list[Chunk]:
    data = data.encode() if isinstance(data, str) else data
    return list(tables.read(NOWHERE, Reading(**reading), io.BytesIO(data)))


def rows(data: bytes | str, **reading) -> list[Row]:
    return [row for chunk in chunks(data, **reading) for row in chunk.rows]


def wrong(data: bytes | str, **reading) -> list[Outcome]:
    return [outcome for chunk in chunks(data, **reading) for outcome in chunk.wrong]


def reason(data: bytes | str, **reading) -> str:
    with pytest.raises(DeliveryError) as caught:
        chunks(data, **reading)
    return str(caught.value)


def written(table: list[list[str]], delimiter: str, end: str) -> str:
    text = io.StringIO(newline="")
    # With other line ends, csv.writer leaves values with a line end unquoted before Python 3.13.
    quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
    return text.getvalue()


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", " ", "007", "NA", "nan", "NULL", "None", "1e5", "=1", '"', '""', "a,b", "a;b", "\r\n", "\r", "\ufeff", "\x1a"]
)
tables_of_cells = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=6)
)


@given(
    tables_of_cells,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.integers(1, 4),
)
def test_every_value_that_csv_can_hold_is_read_as_it_was_written(body, delimiter, end, encoding, chunk_rows):
    header = [f"c{position}" for position in range(len(body[0]))]
    text = written([header, *body], delimiter, end)
    found = chunks(text.encode(encoding), chunk_rows=chunk_rows, delimiter=delimiter)
    assert [list(row.values()) for chunk in found for row in chunk.rows] == body
    assert [cell for chunk in found for cell in chunk.frame().to_numpy().tolist()] == body
    assert not any(chunk.wrong for chunk in found)


@given(st.binary(max_size=200), st.sampled_from([None, "utf-8", "cp1250", "utf-16", "shift_jis"]))
def test_any_bytes_below_a_header_give_one_outcome_a_row_or_a_reason(data, encoding):
    try:
        found = chunks(b"a,b\n" + data, encoding=encoding, chunk_rows=3)
    except DeliveryError:
        return
    indexes = sorted(
        [row.index for c in found for row in c.rows] + [outcome.index for c in found for outcome in c.wrong]
    )
    assert indexes == list(range(len(indexes)))
    for outcome in (outcome for chunk in found for outcome in chunk.wrong):
        assert list(outcome.row) == ["a", "b"]
        assert all(decoding.is_clean(text) for text in outcome.row.values())


def test_values_are_the_strings_that_stand_in_the_file():
    assert rows('id,a,b,c\n007,NA," x ",""\n') == [{"id": "007", "a": "NA", "b": " x ", "c": ""}]


def test_a_row_knows_its_index_and_the_line_that_it_begins_in():
    found = rows('id,note\n1,"two\r\nlines"\n\nwrong\n2,b\n')
    assert [(row["id"], row.index, row.line) for row in found] == [("1", 0, 2), ("2", 2, 6)]
    assert found[0]["note"] == "two\r\nlines"


def test_chunks_count_good_and_wrong_rows_alike_and_follow_each_other():
    found = chunks("a,b\n1,1\nwrong\n3,3\n4,4\n5,5\n", chunk_rows=2)
    assert [(chunk.start, chunk.size, len(chunk.wrong)) for chunk in found] == [(0, 2, 1), (2, 2, 0), (4, 1, 0)]


def test_very_long_rows_end_a_chunk_early(monkeypatch):
    monkeypatch.setattr(tables, "CHUNK_CHARACTERS", 100)
    found = chunks("a,b\n" + f"1,{'x' * 60}\n" * 4)
    assert [(chunk.start, chunk.size) for chunk in found] == [(0, 2), (2, 2)]


def test_a_header_alone_is_one_chunk_without_rows():
    (chunk,) = chunks("id,name\n")
    assert (chunk.columns, chunk.rows, chunk.wrong) == (("id", "name"), [], [])
    assert list(chunk.frame().columns) == ["id", "name"]


def test_a_chunk_of_wrong_rows_alone_has_an_empty_frame():
    (chunk,) = chunks("id,name\nx\n")
    assert (chunk.rows, len(chunk.frame())) == ([], 0)


def test_a_row_with_too_few_fields_is_rejected_with_its_line_and_its_fields():
    assert wrong("id,name,note\n1,a\n") == [
        Outcome(
            0,
            2,
            error="Reject",
            detail="the row has 2 fields, the header 3",
            row={"id": "1", "name": "a", "note": ""},
        )
    ]


def test_surplus_fields_of_a_rejected_row_are_kept_in_its_last_column():
    (outcome,) = wrong("id;name\n1;a;b;c\n")
    assert outcome.row == {"id": "1", "name": "a;b;c"}


def test_a_bad_byte_rejects_its_row_and_is_shown_as_a_number():
    found = chunks(b"id,name\n1,Bo\xe9k\n2,Anna\n")[0]
    assert [row["name"] for row in found.rows] == ["Anna"]
    assert (found.wrong[0].line, found.wrong[0].detail) == (2, "a byte is not UTF-8")
    assert found.wrong[0].row == {"id": "1", "name": "Bo\\xe9k"}


def test_a_bad_byte_is_found_in_utf_16_too():
    data = "id,name\n1,ab\n2,cd\n".encode("utf-16-le").replace("b".encode("utf-16-le"), b"\x00\xdc")
    found = chunks(data, encoding="utf-16-le")[0]
    assert [row["id"] for row in found.rows] == ["2"]
    assert found.wrong[0].row == {"id": "1", "name": "a\\x00\\xdc"}


def test_a_nul_character_rejects_its_row():
    (outcome,) = wrong("id,name\n1,a\0b\n2,c\n")
    assert (outcome.detail, outcome.row["name"]) == ("the row has a NUL character", "a\\x00b")


def test_a_rejects_file_that_is_dropped_again_is_read_like_its_original():
    (chunk,) = chunks("id,name,_line,_error,_detail\n1,a,7,Reject,why\n2\n")
    assert chunk.columns == ("id", "name")
    assert chunk.rows == [{"id": "1", "name": "a"}]
    assert list(chunk.frame().columns) == ["id", "name"]
    assert chunk.wrong[0].row == {"id": "2", "name": ""}


@pytest.mark.parametrize(
    "text", ["a,b;c,_line,_error,_detail\n1,2,7,Reject,x;y;z\n", "a;b,c;_line;_error;_detail\n1;2;7;r;d\n"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_rejects_file_tells_its_delimiter_also_where_a_spreadsheet_has_saved_it(tmp_path, text, end, quote):
    path = tmp_path / "clients-3f9a1c2b.rejected.csv"
    quoted = re.sub("_(line|error|detail)", rf"{quote}_\1{quote}", text).replace("\n", end)
    path.write_text(quoted, newline="")
    (chunk,) = tables.read(path, Reading(delimiter="|", encoding="cp1250"))
    assert [list(row.values()) for row in chunk.rows] == [["1", "2"]]


@pytest.mark.parametrize("own", ["_line", "_detail,_error", "_line,_error,_detail"])
def test_so_is_one_whose_original_had_columns_of_these_names(own):
    columns = own.split(",")
    (chunk,) = chunks(f"{own},_line,_error,_detail\n{'5,' * len(columns)}2,Reject,why\n")
    assert chunk.columns == tuple(columns)
    assert chunk.rows == [dict.fromkeys(columns, "5")]
    assert chunk.frame().to_dict("records") == chunk.rows


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(encoding):
    assert rows("jméno,b\nŽluťoučký,1\n".encode(encoding)) == [{"jméno": "Žluťoučký", "b": "1"}]


def test_the_job_can_tell_encoding_and_delimiter():
    assert rows("a|b;c\nř|1;2\n".encode("cp1250"), encoding="cp1250", delimiter=";") == [{"a|b": "ř|1", "c": "2"}]


def test_a_header_in_another_encoding_asks_for_the_encoding():
    assert "set `encoding` on the job" in reason("jméno\nx\n".encode("cp1250"))


def test_utf_16_without_a_byte_order_mark_needs_its_byte_order():
    assert "utf-16-le or utf-16-be" in reason("a\n1\n".encode("utf-16-be"), encoding="utf-16")
    assert rows("a\n1\n".encode("utf-16-be"), encoding="utf-16-be") == [{"a": "1"}]


@pytest.mark.parametrize("encoding", ["utf-99", "hex"])
def test_an_unknown_encoding_is_named(encoding):
    assert encoding in reason("a\n", encoding=encoding)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (gzip.compress(b""), "empty"),
        (b"PK\x03\x04\x14\x00", "Excel workbook"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>\n", "web page"),
        (b"\xef\xbb\xbf\r\n <HTML>\n", "web page"),
        (b'<?xml version="1.0"?><patients/>', "an XML document"),
        (b'[{"id": 1, "name": "a"}]', "JSON"),
        (b'{\n  "id": 1\n}\n', "JSON"),
    ],
)
def test_what_is_no_csv_is_refused_by_its_kind(data, what):
    assert what in reason(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04x,y\n", "Excel workbook"),
        (b"<html>\n", "web page"),
        (gzip.compress(b"id\n1\n"), "holds another one"),
    ],
)
def test_so_is_what_is_packed(data, what):
    assert what in reason(gzip.compress(data))


@pytest.mark.parametrize("header", ["<id>", "[id]", "{id}", "<htmlid>", '"<!doctype html>"'])
def test_a_column_may_be_called_in_brackets(header):
    assert list(rows(f"{header},b\n1,2\n")[0].values()) == ["1", "2"]


def test_a_column_may_be_called_like_the_mark_of_another_format():
    assert rows("PAR1,PAR2\n1,2\n") == [{"PAR1": "1", "PAR2": "2"}]


def test_repeated_and_missing_names_in_the_header_are_told():
    assert "the header gives columns 1, 2, 3, 4 of 5 a name that another has, too" in reason("id,b,id,b,c\n")
    assert "no name for column 2, 4 of 4" in reason("id,,b, \n")


def test_gzip_is_known_by_its_content():
    assert rows(gzip.compress(b"id,name\n1,a\n")) == [{"id": "1", "name": "a"}]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: data[:-8] + bytes(8), lambda data: data + b"x"]
)
def test_a_damaged_gzip_file_is_found_before_its_first_row(damage, tmp_path):
    lines = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).hexdigest().encode() + b",x\n" for i in range(5000))
    path = tmp_path / "clients.csv"
    path.write_bytes(damage(gzip.compress(b"id,name\n" + lines)))
    with pytest.raises(DeliveryError, match="damaged or cut off"):
        next(tables.read(path, Reading()))


def test_an_empty_file_is_told_what_its_sender_may_have_meant():
    assert "write it under another name, and rename it" in reason(b"")


def test_a_gzip_file_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(decoding, "UNPACKED_LIMIT", 1000)
    assert "more than 1000 bytes" in reason(gzip.compress(b"a\n" * 600))


class Hashing(io.RawIOBase):
    """A file that digests what is read from it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = self._file.readinto(buffer)
        self.digest.update(buffer[:size])
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_opened_file_is_read_once_to_its_end_and_closed(pack, tmp_path):
    path = tmp_path / "clients.csv"
    path.write_bytes(pack(b"id,name\n1,a\n"))
    opened = Hashing(path)
    (chunk,) = tables.read(path, Reading(), opened)
    assert chunk.rows == [{"id": "1", "name": "a"}]
    assert opened.digest.digest() == hashlib.sha256(path.read_bytes()).digest()
    assert opened.closed


class Endless(io.RawIOBase):
    """A CSV file without end."""

    def __init__(self) -> None:
        self.handed_out = 0
        self._lines = self._blocks()

    @staticmethod
    def _blocks() -> Iterator[bytes]:
        yield b"id,name\n"
        while True:
            yield b"1,a\n" * 1000

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        block = next(self._lines)
        buffer[: len(block)] = block
        self.handed_out += len(block)
        return len(block)


def test_no_more_is_read_than_the_chunks_that_are_asked_for():
    endless = Endless()
    reading = tables.read(NOWHERE, Reading(chunk_rows=100), endless)
    assert [next(reading).start for _ in range(50)] == list(range(0, 5000, 100))
    assert endless.handed_out < 100_000
    reading.close()


def test_a_frame_holds_the_good_rows_as_strings_by_line():
    (chunk,) = chunks("id,age\n007,\nwrong\n2,3\n")
    frame = chunk.frame()
    assert frame.index.tolist() == [2, 4]
    assert frame.index.name == "line"
    assert frame.to_dict("list") == {"id": ["007", "2"], "age": ["", "3"]}


def test_a_job_that_changes_its_frame_does_not_change_the_next_one():
    (chunk,) = chunks("id\n1\n")
    frame = chunk.frame()
    frame["id"] = "changed"
    assert chunk.frame()["id"].tolist() == ["1"]


def test_a_returned_frame_gives_plain_values_by_line():
    frame = pd.DataFrame(
        {
            "n": np.array([1, 2]),
            "x": [0.5, np.nan],
            "when": pd.to_datetime(["2026-11-23", None]),
            "ok": pd.array([True, None], dtype="boolean"),
            "mixed": [np.int64(7), [1, 2]],
        },
        index=[2, 5],
    )
    found = list(tables.frame_rows(frame, [2, 3, 5]))
    assert [line for line, _ in found] == [2, 5]
    assert [list(values.values()) for _, values in found] == [
        [1, 0.5, pd.Timestamp("2026-11-23").to_pydatetime(), True, 7],
        [2, None, None, None, [1, 2]],
    ]
    assert [type(value) for value in found[0][1].values()] == [
        int,
        float,
        type(pd.Timestamp(0).to_pydatetime()),
        bool,
        int,
    ]


def test_a_returned_frame_may_repeat_a_line():
    frame = pd.DataFrame({"a": [1, 2]}, index=[3, 3])
    assert list(tables.frame_rows(frame, [2, 3])) == [(3, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (pd.DataFrame({"a": [1, 2]}), "2 index values that are no lines of its input; keep the frame's index"),
        (pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(2, 0)])), "keep the frame's index"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"], index=[2]), "columns 1, 2 of 2 a name that another has"),
        ([{"a": 1}], "not a list"),
    ],
)
def test_a_returned_frame_that_cannot_be_told_apart_is_refused(frame, what):
    with pytest.raises(DeliveryError, match=what):
        list(tables.frame_rows(frame, [2, 3]))
