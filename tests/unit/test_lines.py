import io

import pytest

from worker.errors import DeliveryError
from worker.lines import RECORD_LIMIT, Lines, Record, fields, read_header, records


def lines_of(text: str) -> Lines:
    return Lines(io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogatepass")), "utf-8", "surrogatepass", ""))


def read(text: str, width: int = 3) -> list[Record]:
    return list(records(lines_of(text), ",", width))


def good(text: str, width: int = 3) -> list[tuple[int, str]]:
    return [(record.line, record.text) for record in read(text, width) if not record.fault]


def faults(text: str, width: int = 3) -> list[tuple[int, str]]:
    return [(record.line, record.fault) for record in read(text, width) if record.fault]


def test_each_line_with_the_right_number_of_fields_is_a_record():
    assert good("1,2,3\n,,\n") == [(1, "1,2,3\n"), (2, ",,\n")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_is_known_and_kept(end):
    assert good(f"1,2,3{end}4,5,6{end}") == [(1, f"1,2,3{end}"), (2, f"4,5,6{end}")]


def test_characters_that_only_python_takes_for_line_ends_are_part_of_a_value():
    assert good("a\x0bb,c\x85d,e\u2028f\n") == [(1, "a\x0bb,c\x85d,e\u2028f\n")]


def test_the_last_line_needs_no_end():
    assert good("1,2,3\n4,5,6") == [(1, "1,2,3\n"), (2, "4,5,6")]


def test_blank_lines_are_counted_but_are_no_records():
    assert good("\n1,2,3\n\r\n\n4,5,6\n") == [(2, "1,2,3\n"), (5, "4,5,6\n")]


def test_a_quoted_empty_value_is_a_record_of_one_column():
    assert good('""\n\nx\n', width=1) == [(1, '""\n'), (3, "x\n")]


def test_too_few_and_too_many_fields_are_told_with_both_numbers():
    assert faults("1\n1,2,3\n1,2,3,4\n") == [
        (1, "the row has 1 field, the header 3"),
        (3, "the row has 4 fields, the header 3"),
    ]


def test_delimiters_and_line_ends_between_quotes_belong_to_the_value():
    assert good('1,"a,b\r\n\nc",3\n4,5,6\n') == [(1, '1,"a,b\r\n\nc",3\n'), (4, "4,5,6\n")]


def test_a_quote_inside_an_unquoted_value_is_a_character_like_others():
    assert good('1,5" pipe,3\n4,5,6\n') == [(1, '1,5" pipe,3\n'), (2, "4,5,6\n")]


def test_a_quote_that_is_never_closed_costs_only_its_line():
    text = '1,"open,3\n4,5,6\n7,8,9\n'
    assert [line for line, _ in faults(text)] == [1]
    assert good(text) == [(2, "4,5,6\n"), (3, "7,8,9\n")]


def test_a_quote_that_is_not_closed_within_the_limit_costs_only_its_line():
    rows = "4,5,6\n" * (RECORD_LIMIT // 6 + 2)
    found = read(f'1,"open,3\n{rows}7,"8",9\n')
    assert [record.line for record in found if record.fault] == [1]
    assert len(found) == RECORD_LIMIT // 6 + 4


def test_text_after_a_closing_quote_is_a_fault_of_that_row_alone():
    text = '1,"two" and more,3\n4,5,6\n'
    assert faults(text) == [(1, "the quotes of the row do not match: one is not closed, or text follows a closed one")]
    assert good(text) == [(2, "4,5,6\n")]


def test_a_stray_quote_does_not_swallow_the_rows_up_to_the_next_quote():
    text = '1,"two,3\n4,5,6\n7,"8",9\n'
    assert [line for line, _ in faults(text)] == [1]
    assert good(text) == [(2, "4,5,6\n"), (3, '7,"8",9\n')]


def test_a_stray_quote_that_happens_to_be_closed_later_does_not_swallow_rows_either():
    text = '1,"two,3\n4,5,6\n7,8,9"\n10,11,12\n'
    assert [line for line, _ in faults(text)] == [1]
    assert good(text) == [(2, "4,5,6\n"), (3, '7,8,9"\n'), (4, "10,11,12\n")]


def test_the_second_line_of_a_wrong_row_is_not_taken_for_a_row_of_its_own():
    text = '1,"Main Street 5\nPrague",x,surplus\n4,5,6\n'
    assert faults(text) == [(1, "the row has 4 fields, the header 3")]
    assert good(text) == [(3, "4,5,6\n")]


def test_a_bad_byte_is_a_fault_of_its_row():
    assert faults("1,2,3\n1,\udcff,3\n") == [(2, "a byte is not UTF-8")]
    assert faults('1,"2\n\udcff",3\n') == [(1, "a byte is not UTF-8")]


def test_a_nul_character_is_a_fault_of_its_row():
    assert faults("1,\0,3\n1,\0é,3\n1,2,3\n") == [
        (1, "the row has a NUL character"),
        (2, "the row has a NUL character"),
    ]


def test_a_line_beyond_the_limit_is_cut_and_the_next_one_is_read():
    found = read(f"1,2,{'x' * 3 * RECORD_LIMIT}\n4,5,6\n")
    assert [(record.line, len(record.text)) for record in found] == [(1, RECORD_LIMIT + 1), (2, 6)]
    assert "longer than" in found[0].fault
    assert not found[1].fault


def test_a_value_of_almost_the_limit_is_fine_in_quotes_too():
    text = f'1,"{"x" * (RECORD_LIMIT - 10)}",3\n'
    assert good(text) == [(1, text)]


def test_the_header_is_the_first_line_that_is_not_blank():
    lines = lines_of("\ufeff\n\nid;name\n1;2\n")
    assert read_header(lines, None) == ("id;name\n", ["id", "name"], ";")
    assert list(records(lines, ";", 2)) == [Record(4, "1;2\n")]


@pytest.mark.parametrize("first", ["sep=;\r\n", "sep=;\n", "SEP=;\r", '"sep=;"\n', "\ufeffsep=;\n"])
def test_a_line_that_tells_a_spreadsheet_the_delimiter_is_no_header(first):
    header = read_header(lines := lines_of(f"{first}id;a,b,c\n1;2\n"), None)
    assert (header.names, header.delimiter) == (["id", "a,b,c"], ";")
    assert [record.line for record in records(lines, ";", 2)] == [3]


def test_a_tab_is_told_so_too_and_a_given_delimiter_goes_before_what_the_file_tells():
    assert read_header(lines_of("sep=\t\na,b\tc\n"), None).names == ["a,b", "c"]
    assert read_header(lines_of("sep=;\na;b|c\n"), "|").names == ["a;b", "c"]


@pytest.mark.parametrize("first", ["sep=", "sep=a", "sep=;;", "sep=; ", "sep", "xsep=;"])
def test_only_the_whole_line_tells_it(first):
    header = read_header(lines_of(f"{first}\nid;x\n"), None)
    assert header.delimiter.join(header.names) == first


def test_a_file_of_nothing_but_a_delimiter_has_no_header():
    with pytest.raises(DeliveryError, match="no header, only the line sep=;"):
        read_header(lines_of("sep=;\n"), None)


def test_the_delimiter_is_looked_for_outside_quotes():
    assert read_header(lines_of('"a,b,c,d";e\n'), None).delimiter == ";"


def test_a_header_of_one_name_is_taken_for_comma_separated():
    assert read_header(lines_of("id\n"), None)[1:] == (["id"], ",")


def test_a_header_may_go_over_several_lines():
    lines = lines_of('"first\nname",b\n1,2\n')
    assert read_header(lines, None).names == ["first\nname", "b"]
    assert [record.line for record in records(lines, ",", 2)] == [3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n\r\n\n", "only blank lines"),
        ('"id,name\n1,2\n', "quotes of the header in line 1"),
        ("\nn\udce9m,b\n", "line 2 is not UTF-8 text; set `encoding`"),
        ("i\0d\0,\0", "set `encoding`"),
        ("x" * (RECORD_LIMIT + 5), "longer than"),
    ],
)
def test_a_header_that_cannot_be_read_makes_the_delivery_unusable(text, reason):
    with pytest.raises(DeliveryError, match=reason):
        read_header(lines_of(text), None)


def test_fields_whose_quotes_do_not_match_are_taken_literally():
    assert fields('1,"a ""b""\nc",3\r\n', ",") == ["1", 'a "b"\nc', "3"]
    assert fields('1,"open,3\r\n', ",") == ["1", '"open', "3"]
