"""What every output promises the runner."""

import json
import time
from functools import partial

import pytest

from worker.declare import job
from worker.errors import LostLease
from worker.outputs.outbox import Outbox
from worker.records import Delivery, Input, Outcome


@job(files="clients*.csv")
def summary(row, ctx):
    """Never called here."""


OUTCOMES = [
    Outcome(0, 2, b'[{"a":1}]', row={"id": "0"}),
    Outcome(1, 3, error="Reject", detail="no", row={"id": "1"}),
    Outcome(2, 4, row={"id": "2"}),
]


class Seen:
    """The world's view of an output: what somebody who waits for the answer can see."""

    def __init__(self, folder):
        self._folder = folder

    @property
    def anything(self):
        return any(not path.name.startswith(".") for path in self._folder.iterdir())

    @property
    def counts(self):
        (manifest,) = self._folder.glob("*.manifest.json")
        told = json.loads(manifest.read_bytes())
        return told["rows_in"], told["results"], told["rejected"], told["skipped"]


@pytest.fixture(params=["outbox"])
def output(request, tmp_path):
    (tmp_path / "outbox").mkdir()
    return Outbox(tmp_path / "outbox", chunk_rows=2)


@pytest.fixture
def seen(output, tmp_path):
    return Seen(tmp_path / "outbox")


@pytest.fixture
def attempt(tmp_path):
    (tmp_path / "work").mkdir()
    return partial(
        Delivery,
        id="3f9a1c2b",
        trigger="inbox",
        source="clients.csv",
        input=Input("clients.csv", "ab" * 32, 1234),
        folder=tmp_path / "work",
        started=time.time(),
        read=lambda reading: iter(()),
        guard=lambda: None,
        settle=lambda error: None,
    )


def test_outcomes_come_in_any_order_and_are_seen_together_at_the_end(output, attempt, seen):
    with output.open(attempt(attempts=1), summary) as part:
        part.append(reversed(OUTCOMES))
        assert not seen.anything
        part.commit()
    assert seen.counts == (3, 1, 1, 1)


def test_a_new_delivery_has_nothing_done(output, attempt):
    with output.open(attempt(attempts=1), summary) as part:
        assert not part.committed
        assert not any(part.is_done(index) for index in range(3))


def test_what_is_not_committed_is_not_seen_and_not_lost(output, attempt, seen):
    with output.open(attempt(attempts=1), summary) as part:
        part.append(OUTCOMES[1:])
    assert not seen.anything
    with output.open(attempt(attempts=2), summary) as part:
        assert [part.is_done(index) for index in range(3)] == [False, True, True]
        part.append(OUTCOMES[:1])
        part.commit()
    assert seen.counts == (3, 1, 1, 1)


def test_what_is_committed_is_known_to_be(output, attempt):
    with output.open(attempt(attempts=1), summary) as part:
        part.append(OUTCOMES)
        part.commit()
    with output.open(attempt(attempts=2), summary) as part:
        assert part.committed


def test_whoever_lost_the_delivery_shows_nothing(output, attempt, seen):
    def lost():
        raise LostLease("delivery 3f9a1c2b was taken over by another worker")

    with output.open(attempt(attempts=1, guard=lost), summary) as part:
        part.append(OUTCOMES)
        with pytest.raises(LostLease):
            part.commit()
    assert not seen.anything


def test_the_delivery_counts_its_rows(output, attempt):
    made = attempt(attempts=1)
    with output.open(made, summary) as part:
        part.append(OUTCOMES)
        part.commit()
    assert (made.counts.results, made.counts.rejected, made.counts.skipped, made.counts.rows) == (1, 1, 1, 3)
