import os

import pytest
from deliveries import rejection, result

from worker import exact_json
from worker.outputs.part import PartFile
from worker.records import Meter


@pytest.fixture
def synced(monkeypatch):
    """How often a file was fsynced."""
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    return calls


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def attempts(tmp_path):
    """The attempts whose part files are there, in order."""
    return sorted(int(path.stem.removeprefix("outcomes-")) for path in tmp_path.glob("outcomes-*.part"))


def newest(tmp_path):
    return tmp_path / f"outcomes-{attempts(tmp_path)[-1]}.part"


def opened(tmp_path, *, attempt=None, meter=None, state=None, sync_rows=1000, clock=None):
    """The part file of an attempt, the next one if not told, and what it recovered."""
    attempt, state = attempt or [0, *attempts(tmp_path)][-1] + 1, {} if state is None else state
    part = PartFile(tmp_path, attempt, meter or Meter(), state, sync_rows=sync_rows, clock=clock or Clock())
    return part, list(part.recover())


def write(tmp_path, *outcomes, meter=None, with_row=False):
    part, recovered = opened(tmp_path, meter=meter)
    part.append((outcome, with_row) for outcome in outcomes)
    part.close()
    return recovered


def recovered(tmp_path):
    part, outcomes = opened(tmp_path)
    part.close()
    return outcomes


def plain(outcomes):
    return [(o.index, o.line, exact_json.loads(o.results), o.error, o.detail, dict(o.row)) for o in outcomes]


def test_a_new_part_file_has_no_outcomes(tmp_path):
    assert recovered(tmp_path) == []


def test_outcomes_come_back_in_the_order_of_their_completion(tmp_path):
    write(tmp_path, result(2, {"a": "x"}), result(0), result(1, {"a": 1}, {"a": None}))
    assert plain(recovered(tmp_path)) == [
        (2, 4, [{"a": "x"}], "", "", {}),
        (0, 2, [], "", "", {}),
        (1, 3, [{"a": 1}, {"a": None}], "", "", {}),
    ]


def test_a_rejection_comes_back_with_its_row_and_its_reason(tmp_path):
    write(tmp_path, rejection(0, "plan is\nnot active", id="7", name="Ünal"), with_row=True)
    assert plain(recovered(tmp_path)) == [(0, 2, [], "Reject", "plan is\nnot active", {"id": "7", "name": "Ünal"})]


def test_a_result_that_may_still_be_rejected_comes_back_with_its_row(tmp_path):
    write(tmp_path, result(0, {"a": 1}), with_row=True)
    assert plain(recovered(tmp_path)) == [(0, 2, [{"a": 1}], "", "", {"id": "0"})]


def test_numbers_come_back_as_they_were_written(tmp_path):
    part, _ = opened(tmp_path)
    outcome = result(0)
    outcome.results = b'[{"price":1.10}]'
    part.append([(outcome, False)])
    part.close()
    assert recovered(tmp_path)[0].results == b'[{"price":1.10}]'


def test_each_attempt_goes_on_from_the_ones_before(tmp_path):
    write(tmp_path, result(0))
    assert len(write(tmp_path, result(1))) == 1
    assert [outcome.index for outcome in recovered(tmp_path)] == [0, 1]


@pytest.mark.parametrize("torn", [b'[1,3,[{"a":', b"[1,3,[]]", b"\x00\x00\x00\n", b"nonsense\n", b"\n"])
def test_what_stands_from_a_torn_line_on_is_cut_off(tmp_path, torn):
    write(tmp_path, result(0))
    with newest(tmp_path).open("ab") as file:
        file.write(torn)
    assert [outcome.index for outcome in write(tmp_path, result(2))] == [0]
    assert [outcome.index for outcome in recovered(tmp_path)] == [0, 2]


def test_appending_nothing_tears_nothing(tmp_path):
    part, _ = opened(tmp_path)
    part.append([])
    part.append([(result(0), False)])
    part.close()
    assert [outcome.index for outcome in recovered(tmp_path)] == [0]


def test_a_slow_worker_that_lost_the_delivery_writes_where_nobody_reads(tmp_path):
    slow, _ = opened(tmp_path)
    write(tmp_path, result(0))
    slow.append([(result(1), False)])
    slow.close()
    assert [outcome.index for outcome in recovered(tmp_path)] == [0]


def test_a_slow_worker_that_comes_to_its_part_file_too_late_takes_nothing_away(tmp_path):
    for index in range(11):  # the tenth comes after the ninth, whatever the alphabet says
        write(tmp_path, result(index))
    slow, outcomes = opened(tmp_path, attempt=3)
    assert [outcome.index for outcome in outcomes] == list(range(11))
    slow.append([(result(20), False)])
    slow.close()
    assert [outcome.index for outcome in recovered(tmp_path)] == list(range(11))
    assert attempts(tmp_path) == [12]


def test_a_crash_while_an_attempt_begins_leaves_the_outcomes_of_the_one_before(tmp_path):
    write(tmp_path, result(0), result(1))
    crashing = PartFile(tmp_path, 2, Meter(), {}, sync_rows=1).recover()
    next(crashing)
    assert [outcome.index for outcome in recovered(tmp_path)] == [0, 1]
    crashing.close()


def test_what_was_sent_is_counted_on_over_the_attempts(tmp_path):
    for attempt in (1, 2, 3):
        meter = Meter()
        part, _ = opened(tmp_path, meter=meter)
        assert meter.read() == ({"billing": attempt - 1} if attempt > 1 else {}, attempt - 1)
        meter.call("billing")
        meter.token_request()
        part.append([(result(attempt), False)])
        part.close()


def test_what_a_job_wants_remembered_outlives_the_attempt(tmp_path):
    part, _ = opened(tmp_path, state=(state := {}))
    state["since"] = 1.5
    part.append([(result(0), False)])
    state["page"] = 3
    part.append([(result(1), False)])
    part.close()
    part, outcomes = opened(tmp_path, state=(state := {}))
    part.close()
    assert (len(outcomes), state) == (2, {"since": 1.5, "page": 3})


def test_no_outcome_is_on_disk_without_what_its_row_remembered(tmp_path):
    part, _ = opened(tmp_path, state=(state := {}))
    state["since"] = 7
    part.append([(result(0), False)])
    part.close()
    lines = newest(tmp_path).read_bytes().splitlines()
    assert [line[:1] for line in lines] == [b"{", b"["]


def test_outcomes_survive_the_process_at_once_and_the_machine_some_rows_later(tmp_path, synced):
    part, _ = opened(tmp_path, sync_rows=3)
    synced.clear()
    part.append([(result(0), False), (result(1), False)])
    assert newest(tmp_path).read_bytes() == b"[0,2,[]]\n[1,3,[]]\n"
    assert synced == []
    part.append([(result(2), False)])
    assert len(synced) == 3  # its data and, the first time, its name and that of its folder
    part.close()


def test_outcomes_survive_the_machine_a_second_later_at_the_latest(tmp_path, synced):
    clock = Clock()
    part, _ = opened(tmp_path, clock=clock)
    synced.clear()
    clock.now = 0.9
    part.append([(result(0), False)])
    assert synced == []
    clock.now = 1.0
    part.append([(result(1), False)])
    assert len(synced) == 3  # its data and, the first time, its name and that of its folder
    part.close()


def test_nothing_can_be_appended_before_the_earlier_outcomes_were_read(tmp_path):
    part = PartFile(tmp_path, 1, Meter(), {}, sync_rows=1)
    with pytest.raises(AssertionError, match=r"recover\(\) comes first"):
        part.append([(result(0), False)])


def test_what_was_sent_in_vain_is_counted_by_the_next_attempt(tmp_path):
    part, _ = opened(tmp_path, meter=(meter := Meter()))
    meter.call("billing")
    meter.token_request()
    part.close()
    part, _ = opened(tmp_path, meter=(meter := Meter()))
    part.close()
    assert meter.read() == ({"billing": 1}, 1)
