import asyncio
import atexit
import io
import json
import os
import sys
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import date
from decimal import Decimal

import pandas as pd
import pytest
import structlog
from deliveries import delivery
from pydantic import BaseModel

from worker import forks, log
from worker.context import DeliveryContext
from worker.declare import job
from worker.errors import (
    DeliveryError,
    LostLease,
    MissingColumn,
    Refused,
    Reject,
    Stopping,
    Unauthorized,
    Unavailable,
)
from worker.execution import Execution
from worker.records import Chunk, Outcome, Row

ROW = Row({"id": "007", "name": "Ann"}, index=4, line=9)


class Client(BaseModel):
    id: int
    name: str


def execution(declared):
    return Execution(declared, DeliveryContext(delivery(job=declared.name), {}, lambda _: {}, threading.Event))


def outcome_of(function, row=ROW):
    return execution(job()(function)).row(row)


def frames(function, *rows):
    rows = rows or (Row({"id": "1"}, index=0, line=2), Row({"id": "2"}, index=1, line=4))

    def frame():
        return pd.DataFrame([dict(row) for row in rows], index=[row.line for row in rows])

    return execution(job(frame=True)(function)).chunk(Chunk(0, ("id",), list(rows), [], frame))


def raising(error):
    def rejects(row, ctx):
        raise error

    return rejects


@pytest.mark.parametrize(
    ("returned", "results"),
    [
        ({"a": 1}, [{"a": 1}]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
        (({"a": 1},), [{"a": 1}]),
        ([], []),
        (None, []),
        (Row({"a": "1"}), [{"a": "1"}]),
        (Client(id=1, name="Ann"), [{"id": 1, "name": "Ann"}]),
        ([Client(id=1, name="Ann"), {"id": 2}], [{"id": 1, "name": "Ann"}, {"id": 2}]),
        ({"day": date(2026, 11, 23), "none": None}, [{"day": "2026-11-23", "none": None}]),
    ],
)
def test_what_a_job_returns_is_the_rows_results(returned, results):
    outcome = outcome_of(lambda row, ctx: returned)
    assert json.loads(outcome.results) == results
    assert (outcome.index, outcome.line, outcome.error) == (4, 9, "")


def test_numbers_are_kept_as_they_were_written():
    assert outcome_of(lambda row, ctx: {"price": Decimal("1.10")}).results == b'[{"price":1.10}]'


def test_a_job_sees_the_row_as_it_stands_in_the_file():
    assert json.loads(outcome_of(lambda row, ctx: dict(row)).results) == [{"id": "007", "name": "Ann"}]


def test_a_job_sees_its_model_where_it_asks_for_one():
    def checked(row: Client, ctx):
        return {"next": row.id + 1}

    assert json.loads(outcome_of(checked).results) == [{"next": 8}]


def test_a_row_that_does_not_validate_is_rejected_with_the_reason_and_without_the_value():
    def checked(row: Client, ctx):
        raise AssertionError

    outcome = outcome_of(checked, Row({"id": "secret", "name": "Ann"}))
    assert outcome.error == "Reject"
    assert outcome.detail.startswith("id: ")
    assert "secret" not in outcome.detail


@pytest.mark.parametrize(
    ("error", "name", "detail"),
    [
        (Reject("plan is not active"), "Reject", "plan is not active"),
        (Refused("billing", "no such plan", 404), "Refused", "billing: no such plan"),
        (MissingColumn("x", ["id"]), "MissingColumn", "there is no column 'x'; there are: id"),
    ],
)
def test_a_rejection_costs_its_row_and_says_why(error, name, detail):
    outcome = outcome_of(raising(error))
    assert (outcome.error, outcome.detail, outcome.results) == (name, detail, b"[]")
    assert (outcome.index, outcome.line, outcome.row) == (4, 9, ROW)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("billing", "no answer"),
        Unauthorized("billing", "no", 403),
        DeliveryError("not ours"),
        Stopping("stopping"),
        LostLease("lost"),
    ],
)
def test_what_concerns_more_than_a_row_is_raised(error):
    with pytest.raises(type(error)) as caught:
        outcome_of(raising(error))
    assert caught.value is error
    with pytest.raises(type(error)):
        frames(raising(error))


BUGS = [
    ZeroDivisionError("007"),
    KeyError("007"),
    SystemExit("007"),
    KeyboardInterrupt("007"),
    GeneratorExit("007"),
    RecursionError("007"),
    OSError("007"),
    asyncio.CancelledError("007"),
    BaseException("007"),
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_costs_its_row_and_is_logged_without_its_message(bug, capture_log):
    outcome = outcome_of(raising(bug))
    assert (outcome.error, outcome.results, outcome.row) == (type(bug).__name__, b"[]", ROW)
    assert outcome.detail == "the job has a bug; the worker's log says where"
    (event,) = capture_log
    assert {key: event[key] for key in ("event", "log_level", "error", "delivery", "job", "line")} == {
        "event": "the job has a bug",
        "log_level": "error",
        "error": type(bug).__name__,
        "delivery": "3f9a1c2b",
        "job": "rejects",
        "line": 9,
    }
    assert event["where"].endswith("in raising.<locals>.rejects")
    assert "007" not in str(event)


def test_a_rejection_without_a_reason_says_so():
    assert outcome_of(raising(Reject)).detail == DeliveryError().detail == "the job gave no reason"


def test_a_reason_has_a_question_mark_for_what_cannot_be_written_down():
    assert outcome_of(raising(Reject("half \ud800, zero \0"))).detail == "half ?, zero ?"


NO_RESULT = "it returned what is no result ({}); let it return a mapping, a list of mappings, or None"
NO_JSON = "its result cannot be written as JSON ({})"
NAN = "NaN and infinity are not JSON numbers; None is for what is not there"


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("007", NO_RESULT.format("str")),
        (7, NO_RESULT.format("int")),
        (b"007", NO_RESULT.format("bytes")),
        ([1], NO_RESULT.format("list")),
        ([{"a": 1}, None], NO_RESULT.format("list")),
        (({"a": n} for n in "007"), NO_RESULT.format("generator")),
        ({"a": object()}, NO_JSON.format("a value of type object has no JSON form")),
        ({"a": {1, "007"}}, NO_JSON.format("Type is not JSON serializable: set")),
        ({"a": Decimal("NaN")}, NO_JSON.format(NAN)),
        ({"a": pd.NaT}, NO_JSON.format("NaT is no time; None is for what is not there")),
    ],
)
def test_what_is_no_result_is_a_bug_that_says_what_it_is(returned, why, capture_log):
    outcome = outcome_of(lambda row, ctx: returned)
    assert (outcome.error, outcome.results) == ("NoResult", b"[]")
    assert outcome.detail == f"the job has a bug: {why}"
    (event,) = capture_log
    assert event["reason"] == why
    assert "007" not in str(event)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda: {"id": "twice"}, 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("why"), 1),
        (sys.exit, 0),
        (lambda: sys.exit(-1), 255),
        (lambda: sys.exit(0xC000_0005), 5),
    ],
)
@pytest.mark.parametrize("run", [outcome_of, frames])
def test_a_process_that_a_job_forks_ends_where_the_job_does(run, end, code):
    """Else it would go on with the worker's rows, and hold the worker's lock when that is gone."""
    ours = os.getpid()
    codes = []

    def forks(row, ctx):
        child = os.fork()
        if not child:
            return end()
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        raise Reject("as the parent")

    try:
        run(forks)
    finally:
        if os.getpid() != ours:
            os._exit(77)
    assert codes == [code]


def forked(end):
    """A job's row forks a process that ends so."""
    ours = os.getpid()

    def parts(row, ctx):
        child = os.fork()
        if not child:
            return end()
        os.waitpid(child, 0)
        return {}

    try:
        outcome_of(parts)
    finally:
        if os.getpid() != ours:
            os._exit(77)


@contextmanager
def printing_to(folder):
    """Standard output and standard error are files, which Python writes when it has enough for them."""
    with (
        (folder / "out").open("w") as out,
        (folder / "err").open("w") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        yield


def test_what_a_forked_process_prints_is_written_and_what_others_have_printed_is_not_written_twice(tmp_path):
    atexit.register(at_exit := (tmp_path / "at exit").touch)
    with printing_to(tmp_path):
        print("before")
        forked(lambda: print("in the child") or sys.exit("why"))
    atexit.unregister(at_exit)
    assert (tmp_path / "out").read_text() == "before\nin the child\n"
    assert (tmp_path / "err").read_text() == "why\n"
    assert not (tmp_path / "at exit").exists(), "that is the worker's"


def test_a_bug_that_ends_a_forked_process_is_logged_with_its_place_and_without_its_message(tmp_path):
    with printing_to(tmp_path):
        log.configure("info", stream=sys.stderr)
        try:
            forked(lambda: int(ROW["name"]))
        finally:
            structlog.reset_defaults()
    logged = (tmp_path / "err").read_text()
    assert "a process that a job has forked ends by an error" in logged
    assert f"delivery={delivery().id} job=parts error=ValueError where=" in logged
    assert "Ann" not in logged


def test_a_forked_process_does_not_wait_for_ever_for_a_stream_that_somebody_was_at_when_it_was_forked(monkeypatch):
    ours = os.getpid()

    class Held(io.StringIO):
        def flush(self):
            if os.getpid() != ours:
                threading.Event().wait()

    monkeypatch.setattr(sys, "stdout", Held())
    monkeypatch.setattr(forks, "PATIENCE_SECONDS", 0.01)
    forked(dict)


def test_a_bug_that_every_row_meets_is_logged_once(capture_log):
    def halved(row, ctx):
        if row["id"] == "other":
            raise ValueError
        return 1 / 0

    running = execution(job()(halved))
    outcomes = [running.row(Row({"id": text}, index=i, line=i)) for i, text in enumerate(["a", "b", "other", "c"])]
    assert [outcome.error for outcome in outcomes] == ["ZeroDivisionError"] * 2 + ["ValueError", "ZeroDivisionError"]
    assert [event["error"] for event in capture_log] == ["ZeroDivisionError", "ValueError"]


def test_a_frame_job_gives_each_line_its_results():
    outcomes = frames(lambda frame, ctx: frame.assign(n=[1, None]))
    assert [(o.index, o.line, json.loads(o.results)) for o in outcomes] == [
        (0, 2, [{"id": "1", "n": 1.0}]),
        (1, 4, [{"id": "2", "n": None}]),
    ]


def test_a_line_that_a_frame_leaves_out_is_skipped_and_one_that_it_repeats_has_several_results():
    outcomes = frames(lambda frame, ctx: pd.concat([frame.loc[[4]], frame.loc[[4]]]))
    assert [json.loads(outcome.results) for outcome in outcomes] == [[], [{"id": "2"}, {"id": "2"}]]


NO_NUMBER = (
    "its result cannot be written as JSON (NaN and infinity are not JSON numbers; None is for what is not there)"
)


def test_a_row_whose_result_has_nan_is_rejected_with_the_reason():
    outcome = outcome_of(lambda row, ctx: {"id": "007", "mean": float("nan")})
    assert (outcome.error, outcome.detail) == ("NoResult", f"the job has a bug: {NO_NUMBER}")


def test_a_row_that_wants_nan_remembered_or_sent_is_rejected_with_the_reason():
    def remembers(row, ctx):
        ctx.state["mean"] = float("nan")

    outcome = outcome_of(remembers)
    assert outcome.error == "NoJson"
    assert "NaN and infinity are not JSON numbers; None is for what is not there" in outcome.detail


def test_a_frames_nan_is_nothing_and_an_infinity_rejects_its_row_alone():
    outcomes = frames(lambda frame, ctx: frame.assign(n=[float("nan"), float("inf")]))
    assert json.loads(outcomes[0].results) == [{"id": "1", "n": None}]
    assert (outcomes[1].error, outcomes[1].detail) == ("NoResult", f"the job has a bug: {NO_NUMBER}")


def test_a_frame_jobs_rejection_rejects_its_chunk():
    outcomes = frames(raising(Reject("not today")))
    assert [(o.index, o.line, o.error, o.detail) for o in outcomes] == [
        (0, 2, "Reject", "not today"),
        (1, 4, "Reject", "not today"),
    ]


@pytest.mark.parametrize("bug", BUGS)
def test_a_frame_jobs_bug_rejects_its_chunk_and_is_logged_without_its_message(bug, capture_log):
    outcomes = frames(raising(bug))
    assert [outcome.error for outcome in outcomes] == [type(bug).__name__] * 2
    (event,) = capture_log
    assert event["line"] == 2
    assert "007" not in str(event)


@pytest.mark.parametrize("returned", [None, {"a": 1}, pd.DataFrame({"a": [1]}, index=[77])])
def test_a_frame_job_that_returns_something_else_is_unusable(returned):
    with pytest.raises(DeliveryError):
        frames(lambda frame, ctx: returned)


def test_a_chunk_without_good_rows_does_not_trouble_the_job():
    wrong = [Outcome(0, 2, error="Reject")]
    running = execution(job(frame=True)(raising(AssertionError())))
    assert running.chunk(Chunk(0, ("id",), [], wrong, pd.DataFrame)) == []
