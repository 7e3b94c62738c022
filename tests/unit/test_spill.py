import hashlib
import json
from decimal import Decimal

import pytest

from worker import files
from worker.errors import DeliveryError, LostLease
from worker.spill import CHUNK_BYTES, Spill


def nobody():
    pass


@pytest.fixture
def spill(tmp_path):
    return Spill(tmp_path / "rows.jsonl")


def read(spill, chunk_rows=1000):
    return [dict(row) for chunk in spill.read(chunk_rows) for row in chunk.rows]


def test_rows_come_back_as_they_were(spill):
    rows = [{"id": "1", "amount": Decimal("1.10"), "tags": ["a", None]}, {"id": "2", "more": {"deep": True}}]
    spill.write(iter(rows), {}, question=1, attempt=1, guard=nobody)
    assert read(spill) == rows


def test_a_row_knows_its_number_and_its_line(spill):
    spill.write(({"id": number} for number in range(5)), {}, question=1, attempt=1, guard=nobody)
    chunks = list(spill.read(2))
    assert [(chunk.start, chunk.size) for chunk in chunks] == [(0, 2), (2, 2), (4, 1)]
    assert [(row.index, row.line, row["id"]) for chunk in chunks for row in chunk.rows] == [
        (number, number + 1, number) for number in range(5)
    ]


def test_no_rows_make_one_chunk_of_none(spill):
    spill.write([], {"since": "2026"}, question=1, attempt=1, guard=nobody)
    (chunk,) = spill.read(1000)
    assert (chunk.start, chunk.size) == (0, 0)
    assert spill.seal().state == {"since": "2026"}


def test_what_the_source_remembered_is_kept_with_the_rows(spill):
    state = {}

    def source():
        yield {"id": 1}
        state["since"] = 12.5

    spill.write(source(), state, question=1, attempt=1, guard=nobody)
    seal = spill.seal()
    assert seal.state == {"since": 12.5}
    assert isinstance(seal.state["since"], float)


def test_the_columns_are_those_of_all_rows(spill):
    spill.write([{"b": 1}, {"a": 1, "b": 2}], {}, question=1, attempt=1, guard=nobody)
    assert spill.seal().columns == ("b", "a")


def test_the_seal_has_the_digest_of_the_file(spill, tmp_path):
    spill.write([{"id": 1}], {}, question=1, attempt=1, guard=nobody)
    assert spill.seal().sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()
    assert spill.seal().bytes == (tmp_path / "rows.jsonl").stat().st_size


def test_a_spill_that_was_not_finished_is_not_there(spill, tmp_path):
    def source():
        yield {"id": 1}
        raise RuntimeError("the backend went away")

    with pytest.raises(RuntimeError):
        spill.write(source(), {}, question=1, attempt=1, guard=nobody)
    assert spill.seal() is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_attempt_left_is_removed_by_the_next(spill, tmp_path):
    files.hidden(tmp_path / "rows.jsonl", "1").write_bytes(b'{"id":')
    spill.write([{"id": 2}], {}, question=1, attempt=2, guard=nobody)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_worker_that_lost_the_tick_while_it_asked_leaves_nothing(spill, tmp_path):
    def lost():
        raise LostLease("taken over")

    with pytest.raises(LostLease):
        spill.write([{"id": 1}], {}, question=1, attempt=1, guard=lost)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_no_json_fails_the_tick_without_being_told(spill):
    with pytest.raises(DeliveryError, match="a value that has no JSON form") as raised:
        spill.write([{"name": "Ada", "thing": object()}], {}, question=1, attempt=1, guard=nobody)
    assert "Ada" not in str(raised.value)


def test_columns_without_end_fail_the_tick(spill):
    with pytest.raises(DeliveryError, match="more than 10000 columns"):
        spill.write(({f"column {number}": 1} for number in range(10_001)), {}, question=1, attempt=1, guard=nobody)


def test_very_long_rows_end_a_chunk_early(spill):
    long = "x" * (CHUNK_BYTES // 2)
    spill.write(({"text": long} for _ in range(3)), {}, question=1, attempt=1, guard=nobody)
    assert [chunk.size for chunk in spill.read(1000)] == [2, 1]


def test_a_frame_has_the_rows_by_line(spill):
    spill.write([{"id": 1, "name": "Ada"}, {"id": 2}], {}, question=1, attempt=1, guard=nobody)
    (chunk,) = spill.read(1000)
    frame = chunk.frame()
    assert frame.index.tolist() == [1, 2]
    assert frame["id"].tolist() == [1, 2]


def test_the_last_line_says_columns_state_and_question(spill, tmp_path):
    spill.write([{"id": 1}], {"n": 1}, question=7, attempt=1, guard=nobody)
    assert json.loads((tmp_path / "rows.jsonl").read_bytes().splitlines()[-1]) == [["id"], {"n": 1}, 7]
    assert spill.seal().question == 7


def test_what_a_later_attempt_is_writing_is_left_alone(spill, tmp_path):
    theirs = files.hidden(tmp_path / "rows.jsonl", "3")
    theirs.write_bytes(b'{"id":')
    spill.write([{"id": 2}], {}, question=1, attempt=2, guard=nobody)
    assert theirs.exists()


@pytest.mark.parametrize("damage", [b"", b'{"id":1}\n', b'{"id":1,"n":2}\n', b'{"id":1}\n[["id"]', b"\0" * 512])
def test_a_damaged_file_has_no_seal(spill, tmp_path, damage):
    (tmp_path / "rows.jsonl").write_bytes(damage)
    assert spill.is_there
    assert spill.seal() is None
