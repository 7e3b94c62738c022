import json

import pytest
from deliveries import delivery, rejection, result

from worker.declare import job
from worker.errors import DeliveryError
from worker.outputs.reply import Replies
from worker.records import Input, Outcome


@job(queue="orders")
def order(row, ctx):
    """Never called here."""


@pytest.fixture
def opened(tmp_path):
    """Opens the reply to an attempt at a message of a form."""

    def opened(form, attempts=1, max_bytes=1000, **changes):
        made = delivery(tmp_path, input=Input("", "ab" * 32, 12, form), attempts=attempts, trigger="queue", **changes)
        return made, Replies(max_bytes=max_bytes, chunk_rows=2).open(made, order)

    return opened


def test_the_reply_to_an_array_has_results_and_rejections_in_input_order_whatever_order_they_come_in(opened):
    made, part = opened("array")
    with part:
        part.append([result(3, {"n": 3}, {"n": 4}), rejection(1), result(2)])
        part.append([result(0, {"n": 0})])
        part.commit()
    assert (made.reply.type, made.reply.content_type) == ("results", "application/json")
    assert json.loads(made.reply.body) == {
        "results": [{"n": 0}, {"n": 3}, {"n": 4}],
        "rejected": [{"row": 2, "error": "Reject", "detail": "no"}],
        "skipped": 1,
    }
    assert (made.counts.results, made.counts.rejected, made.counts.skipped) == (2, 1, 1)


@pytest.mark.parametrize("form", ["array", "table"])
def test_the_next_attempt_goes_on_with_the_rows_that_have_an_outcome(opened, form):
    whole, part = opened(form)
    with part:
        part.append([result(0, {"n": 0}), rejection(2)])
    made, part = opened(form, attempts=2)
    with part:
        assert [part.is_done(index) for index in range(4)] == [True, False, True, False]
        part.append([result(3), result(1, {"n": 1})])
        part.commit()
    assert whole.reply is None
    assert (made.counts.results, made.counts.rejected, made.counts.skipped) == (2, 1, 1)
    if form == "table":
        assert made.reply.body == b"n\n0\n1\n"
        assert made.reply.headers["x-longshore-rows-in"] == 4
    else:
        assert json.loads(made.reply.body)["results"] == [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize("form", ["array", "table", "object"])
def test_a_reply_that_is_too_large_is_not_made(opened, form):
    made, part = opened(form, max_bytes=100)
    with part, pytest.raises(DeliveryError, match="larger than 100 bytes"):
        part.append([result(0, {"much": "x" * 200})])
        part.commit()
    assert made.reply is None


def test_resources_are_answered_as_ndjson(opened):
    made, part = opened("table")
    with part:
        part.append([result(0, {"resourceType": "Patient"})])
        part.commit()
    assert (made.reply.content_type, made.reply.body) == ("application/fhir+ndjson", b'{"resourceType":"Patient"}\n')


def test_a_table_without_rows_is_answered_by_one_without_rows(opened):
    made, part = opened("table")
    with part:
        part.commit()
    assert (made.reply.body, made.reply.headers["x-longshore-rows-in"]) == (b"", 0)


def test_an_object_keeps_its_decimals(opened):
    made, part = opened("object")
    with part:
        part.append([Outcome(0, 1, b'[{"price":1.10}]')])
        part.commit()
    assert made.reply.body == b'{"price":1.10}'
