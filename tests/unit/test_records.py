import copy
import pickle
import threading

import pytest

from worker.errors import MissingColumn, Reject
from worker.records import Chunk, Counts, Meter, Outcome, Row, RowKey


def test_a_row_is_a_mapping_of_its_values():
    row = Row({"id": "007", "name": ""}, index=3, line=5)
    assert dict(row) == {"id": "007", "name": ""}
    assert (row["id"], row.get("x"), row.index, row.line) == ("007", None, 3, 5)


def test_a_missing_column_rejects_the_row_and_names_those_there_are():
    row = Row({"id": "7", "name": "Ann"})
    with pytest.raises(MissingColumn) as caught:
        row["ID"]
    assert isinstance(caught.value, Reject)
    assert isinstance(caught.value, KeyError)
    assert caught.value.detail == "there is no column 'ID'; there are: id, name"


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.__setitem__("id", "8"),
        lambda row: row.__delitem__("id"),
        lambda row: row.update(id="8"),
        lambda row: row.pop("id"),
        lambda row: row.popitem(),
        lambda row: row.clear(),
        lambda row: row.setdefault("id", "8"),
        lambda row: row.__ior__({"id": "8"}),
    ],
)
def test_a_row_cannot_be_changed(change):
    row = Row({"id": "7"})
    with pytest.raises(TypeError, match="make a dict"):
        change(row)
    assert row == {"id": "7"}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda row: pickle.loads(pickle.dumps(row))])
def test_a_row_can_be_copied_and_sent_to_another_process(again):
    row = Row({"id": "7", "tags": ["a"]}, index=3, line=5)
    other = again(row)
    assert (type(other), other, other.index, other.line) == (Row, row, 3, 5)


def test_a_chunk_covers_its_good_and_its_wrong_rows():
    chunk = Chunk(0, ("id",), [Row({"id": "1"})], [Outcome(1, 3, error="Reject")], lambda: None)
    assert chunk.size == 2


def test_counts_add_up():
    assert Counts(results=3, rejected=2, skipped=1).rows == 6


def test_a_rows_keys_are_the_same_at_every_run():
    digest = "ab" * 32
    keys = [RowKey(digest, 7), RowKey(digest, 7)]
    first, second = [[key.next() for _ in range(3)] for key in keys]
    assert first == second == [f"{'ab' * 16}-7", f"{'ab' * 16}-7-2", f"{'ab' * 16}-7-3"]


def test_rows_and_inputs_have_keys_of_their_own():
    keys = {RowKey(digest * 32, line).next() for digest in ("ab", "cd") for line in (1, 11, 2)}
    assert len(keys) == 6


def test_a_meter_goes_on_from_what_earlier_attempts_sent():
    meter = Meter()
    meter.add({"billing": 3}, 1)
    meter.call("billing")
    meter.call("ehr")
    meter.token_request()
    assert meter.read() == ({"billing": 4, "ehr": 1}, 2)


def test_a_meter_counts_for_many_threads():
    meter = Meter()
    threads = [threading.Thread(target=lambda: [meter.call("billing") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.read() == ({"billing": 2000}, 0)


def test_what_was_read_does_not_change_afterwards():
    meter = Meter()
    calls, _ = meter.read()
    meter.call("billing")
    assert calls == {}
