import csv
import io
from decimal import Decimal

import pytest
from deliveries import rejection, result

from worker import tables
from worker.files import hidden
from worker.outputs.rendering import Rendering
from worker.outputs.table import Results, cell, csv_lines
from worker.records import Counts, Outcome, Reading

PATIENT = {"resourceType": "Patient", "id": "1"}


class Rendered:
    """Takes outcomes in the given batches; what its files hold at the end."""

    def __init__(self, folder, *batches, columns=None, safe=False, chunk_rows=2):
        self.counts = Counts()
        rendering = Rendering(
            folder,
            "clients-1",
            "me",
            Results(columns, spreadsheet_safe=safe),
            chunk_rows=chunk_rows,
            counts=self.counts,
        )
        try:
            for batch in batches:
                rendering.take([rendering.judge(outcome) for outcome in batch])
            files = rendering.finish()
            self.described = [file.describe() for file in files]
            self.texts = {
                file.target.name.removeprefix("clients-1"): hidden(file.target, "me").read_bytes().decode()
                for file in files
            }
        finally:
            rendering.discard()
        self.left = list(folder.iterdir())

    @property
    def results(self):
        return self.texts[".csv"]

    @property
    def rejects(self):
        return self.texts[".rejected.csv"]


def test_the_columns_are_the_union_of_the_first_chunks_keys_in_order_of_appearance(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"b": 1}), result(1, {"a": 2, "b": 3}), result(2, {"a": 4})])
    assert rendered.results == "b,a\n1,\n3,2\n,4\n"


def test_a_later_unknown_key_rejects_its_row_and_drops_nothing_in_silence(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"a": 1}), result(1), result(2, {"a": 2, "new": 3}), result(3, {"a": 4})])
    assert rendered.results == "a\n1\n4\n"
    head, row = csv.reader(io.StringIO(rendered.rejects))
    assert head == ["id", "_line", "_error", "_detail"]
    assert row[:3] == ["2", "4", "Reject"]
    assert "'new'" in row[3]
    assert "columns=" in row[3]
    assert (rendered.counts.results, rendered.counts.rejected, rendered.counts.skipped) == (2, 1, 1)


def test_a_key_that_is_not_among_the_jobs_own_columns_rejects_its_row(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"a": 1, "new": 3})], columns=["a"])
    assert "not among the job's columns: 'new'; add it there" in rendered.rejects


def test_the_columns_are_learnt_from_rows_and_not_from_the_order_of_completion(tmp_path):
    outcomes = [result(3, {"late": 1}), result(2, {"late": 2}), result(0, {"a": 0}), result(1, {"a": 1})]
    rendered = Rendered(tmp_path, *[[each] for each in outcomes])
    assert rendered.results == "a\n0\n1\n"
    assert rendered.rejects.count("late") == 2


def test_a_first_chunk_without_results_leaves_the_columns_to_the_next(tmp_path):
    outcomes = [result(0), rejection(1), result(2, {"a": 1}), result(3, {"b": 2}), result(4, {"c": 3})]
    rendered = Rendered(tmp_path, outcomes)
    assert rendered.results == "a,b\n1,\n,2\n"
    assert (rendered.counts.results, rendered.counts.rejected, rendered.counts.skipped) == (2, 2, 1)


def test_rows_stand_in_input_order_whatever_the_order_of_completion(tmp_path):
    outcomes = [rejection(5), result(4, {"a": 4}), result(1, {"a": 1}), rejection(0), result(3), result(2, {"a": 2})]
    rendered = Rendered(tmp_path, *[[each] for each in outcomes])
    assert rendered.results == "a\n1\n2\n4\n"
    assert [line.split(",")[0] for line in rendered.rejects.splitlines()] == ["id", "0", "5"]


def test_rejects_stand_in_input_order_where_the_first_rows_do_not_fit_together(tmp_path):
    rendered = Rendered(tmp_path, [result(0, PATIENT), result(1, {"a": 1}), rejection(2)], chunk_rows=3)
    assert [line.split(",")[0] for line in rendered.rejects.splitlines()] == ["id", "1", "2"]


def test_several_results_of_a_row_are_one_row_in_the_counts_and_several_in_the_file(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"a": 1}, {"a": 2}), result(1, {"a": 3})])
    assert rendered.results == "a\n1\n2\n3\n"
    assert rendered.counts.results == 2
    assert rendered.described[0]["rows"] == 3


def test_a_row_with_one_result_that_does_not_fit_is_rejected_whole(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"a": 1}), result(1), result(2, {"a": 2}, {"b": 3})])
    assert rendered.results == "a\n1\n"
    assert rendered.counts.rejected == 1


def test_declared_columns_stand_in_their_order_and_need_no_first_chunk(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"a": 1}), result(1, {"c": 2}), result(2, {"b": 3})], columns=("b", "a"))
    assert rendered.results == "b,a\n,1\n3,\n"
    assert "'c'" in rendered.rejects


def test_declared_columns_make_even_a_resource_a_row(tmp_path):
    rendered = Rendered(tmp_path, [result(0, PATIENT)], columns=("resourceType", "id"))
    assert rendered.results == "resourceType,id\nPatient,1\n"


def test_declared_columns_stand_there_without_any_row(tmp_path):
    assert Rendered(tmp_path, columns=("b", "a")).texts == {".csv": "b,a\n"}


def test_no_rows_make_a_result_with_none(tmp_path):
    rendered = Rendered(tmp_path)
    assert rendered.texts == {".csv": ""}
    assert rendered.described[0]["rows"] == 0


def test_skipped_rows_alone_make_a_result_with_none(tmp_path):
    rendered = Rendered(tmp_path, [result(0), result(1), result(2)])
    assert rendered.texts == {".csv": ""}
    assert rendered.counts.skipped == 3


def test_fhir_resources_are_written_as_they_are_a_line_each(tmp_path):
    rendered = Rendered(tmp_path, [result(0, PATIENT, {**PATIENT, "id": "2"}), result(1, {**PATIENT, "name": []})])
    assert rendered.texts == {
        ".ndjson": '{"resourceType":"Patient","id":"1"}\n{"resourceType":"Patient","id":"2"}\n'
        '{"resourceType":"Patient","id":"1","name":[]}\n'
    }
    assert rendered.described[0]["rows"] == 3


@pytest.mark.parametrize(("first", "second"), [(PATIENT, {"a": 1}), ({"a": 1}, PATIENT)])
@pytest.mark.parametrize("chunk_rows", [1, 2])
def test_resources_and_plain_results_do_not_stand_in_one_file(tmp_path, first, second, chunk_rows):
    rendered = Rendered(tmp_path, [result(0, first), result(1, second)], chunk_rows=chunk_rows)
    assert (rendered.counts.results, rendered.counts.rejected) == (1, 1)
    assert "cannot stand in one file" in rendered.rejects


def test_rejects_have_the_original_columns_in_front(tmp_path):
    rendered = Rendered(tmp_path, [rejection(0, 'no, "never"', id="007", name="=1+1")], safe=True)
    assert rendered.rejects == 'id,name,_line,_error,_detail\n007,=1+1,2,Reject,"no, ""never"""\n'


def test_rejects_can_be_read_again_as_they_are(tmp_path):
    values = {"id": " 007 ", "name": 'a,"b"', "note": "two\nlines", "odd": "carriage\rreturn", "none": ""}
    rendered = Rendered(tmp_path, [rejection(0, **values), rejection(1, **values)])
    path = tmp_path / "again.csv"
    path.write_bytes(rendered.rejects.encode())
    rows = [row for chunk in tables.read(path, Reading()) for row in chunk.rows]
    assert [dict(row) for row in rows] == [values, values]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_what_a_spreadsheet_would_take_for_a_formula_is_escaped_where_wanted(tmp_path, start):
    assert Rendered(tmp_path, [result(0, {"a": f"{start}1"})]).results == f"a\n{start}1\n"
    assert Rendered(tmp_path, [result(0, {"a": f"{start}1"})], safe=True).results == f"a\n'{start}1\n"


def test_a_negative_number_is_no_formula(tmp_path):
    rendered = Rendered(tmp_path, [result(0, {"a": -1, "b": Decimal("-1.50")})], safe=True)
    assert rendered.results == "a,b\n-1,-1.50\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        (" as is ", " as is "),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (Decimal("1.10"), "1.10"),
        (["a", 1, None], '["a",1,null]'),
        ({"a": {"b": Decimal("1.0")}}, '{"a":{"b":1.0}}'),
    ],
)
def test_every_json_value_has_its_cell(value, text):
    assert cell(value) == text


def test_csv_is_quoted_where_it_must_be():
    rows = [["plain", "a,b"], ['say "x"', "two\nlines"], ["return\r", ""], ["", "ž"]]
    text = csv_lines(rows).decode()
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows
    assert text.endswith(",ž\n")
    assert "\r\n" not in text


def test_a_row_of_one_empty_field_is_no_blank_line():
    assert csv_lines([["a"], [""]]) == b'a\n""\n'


def test_nobody_sees_anything_before_it_is_published_and_nothing_is_left_when_it_is_not(tmp_path):
    assert Rendered(tmp_path, [result(0, {"a": 1}), rejection(1)]).left == []


def test_a_row_without_an_outcome_is_never_passed_over(tmp_path):
    with pytest.raises(AssertionError, match="a row has no outcome"):
        Rendered(tmp_path, [result(0), result(2)], columns=("a",))


def test_it_is_known_which_rows_have_an_outcome(tmp_path):
    rendering = Rendering(
        tmp_path, "clients-1", "me", Results(None, spreadsheet_safe=False), chunk_rows=2, counts=Counts()
    )
    rendering.take([rendering.judge(Outcome(index, index)) for index in (0, 2)])
    assert [index in rendering.taken for index in range(4)] == [True, False, True, False]
