import threading

import pandas as pd
import pytest
from deliveries import chunk, delivery

from worker import log
from worker.declare import job
from worker.errors import DeliveryError, Interrupted, LostLease, Paused, Stopping, Unavailable
from worker.jobs import Jobs
from worker.pool import Pool
from worker.records import Chunk, Outcome, Reading
from worker.runner import Runner
from worker.stopping import Stop

SECONDS = 10  # after which a test that hangs fails


class MemoryPart:
    """An output that remembers what it is told; ``done`` are the rows of earlier attempts."""

    def __init__(self, done=(), committed=False, fails=None):
        self.committed = committed
        self.outcomes = []
        self.commits = 0
        self.closed = False
        self._done = set(done)
        self._fails = fails

    def open(self, made, declared):
        self.job = declared
        return self

    def is_done(self, index):
        return index in self._done

    def append(self, outcomes):
        if self._fails:
            raise self._fails
        self.outcomes += outcomes

    def commit(self):
        self.commits += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


class Watched:
    def __init__(self):
        self.seen = []
        self.told = []

    def began(self, made):
        self.seen.append("began")

    def progressed(self, made, outcomes):
        self.told += outcomes

    def ended(self, made, error):
        self.seen.append(("ended", error))


class Memory:
    def __init__(self, **kept):
        self.kept = kept

    def load(self, name):
        return self.kept


@pytest.fixture
def pool():
    with Pool(3) as pool:
        yield pool


@pytest.fixture
def stop():
    return Stop()


class Story:
    """One delivery's run, and everything that is known about it afterwards."""

    def __init__(self, pool, stop, declared, chunks=(), *, part=None, memory=None, backends=None, **changes):
        self.part = part or MemoryPart()
        self.watched = Watched()
        self.settled = []
        self.readings = []

        def read(reading):
            self.readings.append(reading)
            yield from chunks

        self.delivery = delivery(read=read, settle=self.settled.append, **changes)
        runner = Runner(
            Jobs(declared if isinstance(declared, list) else [declared]),
            backends or {},
            {self.delivery.trigger: self.part},
            pool,
            memory or Memory(),
            chunk_rows=500,
            stop=stop,
            watcher=self.watched,
        )
        runner.run(self.delivery)
        (self.error,) = self.settled

    @property
    def indexes(self):
        return sorted(outcome.index for outcome in self.part.outcomes)


@pytest.fixture
def run(pool, stop):
    return lambda *args, **changes: Story(pool, stop, *args, **changes)


@job(files="clients*.csv")
def echo(row, ctx):
    return dict(row)


def test_every_row_has_an_outcome_and_the_delivery_is_settled(run):
    story = run(echo, [chunk(0, 10), chunk(10, 5)])
    assert story.error is None
    assert story.indexes == list(range(15))
    assert (story.part.commits, story.part.closed) == (1, True)
    assert story.watched.seen == ["began", ("ended", None)]
    assert story.watched.told == story.part.outcomes


def test_what_a_thread_of_the_pool_has_to_run_is_run_by_itself(stop):
    stories, over = [], threading.Event()
    with Pool(1) as pool:
        tell = pool.lane(lambda chunks: stories.append(Story(pool, stop, echo, chunks)), rest=over.set)
        tell.put([[chunk(0, 2), chunk(2, 1)]])
        assert over.wait(SECONDS)
    (story,) = stories
    assert (story.error, story.indexes, story.part.commits) == (None, [0, 1, 2], 1)
    assert story.watched.told == story.part.outcomes


def test_what_rows_come_to_when_their_calls_were_cut_off_does_not_count(run, stop):
    @job(files="clients*.csv", concurrency=1)
    def falls_back(row, ctx):
        if row.index == 3:
            stop.set()
            stop.late.set()
        return {"plan": None}

    story = run(falls_back, [chunk(0, 10)])
    assert isinstance(story.error, Stopping)
    assert story.indexes == [0, 1, 2]
    assert story.part.commits == 0


def test_a_source_whose_calls_were_cut_off_has_not_given_all_its_rows(run, stop):
    @job(schedule="0 2 * * *", source=lambda ctx: ends_early(ctx))
    def one(row, ctx):
        return dict(row)

    def ends_early(ctx):
        yield {"n": "0"}
        stop.set()
        stop.late.set()

    source = run(one, job="one").readings[0].source()
    assert next(source) == {"n": "0"}
    with pytest.raises(Stopping):
        next(source)


def test_the_job_is_found_by_the_name_of_the_file(run):
    story = run([job(files="other*.csv")(lambda row, ctx: None), echo], [chunk(0, 1)])
    assert story.part.job is echo
    assert story.delivery.job == "echo"


def test_the_job_that_a_delivery_names_goes_first(run):
    @job(files="other*.csv")
    def named(row, ctx):
        return {"named": row["id"]}

    assert run([named, echo], [chunk(0, 1)], job="named").part.job is named


def test_a_job_that_is_gone_leaves_the_delivery_to_the_name_of_the_file(run):
    assert run(echo, [chunk(0, 1)], job="gone").part.job is echo


def test_a_file_that_no_job_takes_is_unusable(run):
    story = run(echo, source="plans.csv")
    assert isinstance(story.error, DeliveryError)
    assert "clients*.csv (echo)" in story.error.detail
    assert story.watched.seen == ["began", ("ended", story.error)]


def test_a_job_says_how_its_files_are_read(run):
    declared = job(files="clients*.csv", encoding="cp1250", delimiter=";")(echo.function)
    assert run(declared).readings == [Reading("cp1250", ";", 500)]


def test_rows_that_could_not_be_read_are_rejected_without_the_job(run):
    wrong = [Outcome(1, 3, error="Reject", detail="the row has 1 field, the header 2", row={"id": "1"})]
    good = chunk(0, 1)
    story = run(echo, [Chunk(0, ("id",), good.rows, wrong, good.frame)])
    assert story.indexes == [0, 1]
    assert [outcome.error for outcome in sorted(story.part.outcomes, key=lambda o: o.index)] == ["", "Reject"]


def test_rows_that_were_done_before_are_not_run_again(run):
    ran = []
    declared = job(files="clients*.csv")(lambda row, ctx: ran.append(row.index))
    story = run(declared, [chunk(0, 5), chunk(5, 5)], part=MemoryPart(done={0, 1, 2, 3, 4, 7}))
    assert sorted(ran) == story.indexes == [5, 6, 8, 9]


def test_a_delivery_that_was_done_to_the_last_row_is_only_committed(run):
    story = run(echo, [chunk(at, 1) for at in range(50)], part=MemoryPart(done=range(50)))
    assert (story.error, story.indexes, story.part.commits) == (None, [], 1)


def test_a_committed_delivery_is_neither_read_nor_committed_again(run):
    story = run(echo, [chunk(0, 5)], part=MemoryPart(committed=True))
    assert (story.error, story.readings, story.part.commits) == (None, [], 0)


def test_an_outage_ends_the_run_and_keeps_what_is_done(run):
    error = Unavailable("billing", "no answer")

    def job_of_an_outage(row, ctx):
        if row.index == 50:
            raise error
        return dict(row)

    story = run(job(files="clients*.csv")(job_of_an_outage), [chunk(0, 100)])
    assert story.error is error
    assert 50 not in story.indexes
    assert (story.part.commits, story.part.closed) == (0, True)


def test_an_unreadable_input_ends_the_run(run):
    def chunks():
        yield chunk(0, 2)
        raise DeliveryError("its content changed")

    story = run(echo, chunks())
    assert story.error.detail == "its content changed"
    assert story.part.commits == 0


def test_a_full_disk_ends_the_run(run):
    full = OSError(28, "No space left on device")
    story = run(echo, [chunk(0, 2000)], part=MemoryPart(fails=full))
    assert story.error is full
    assert story.part.closed


def test_a_stopping_worker_finishes_the_rows_under_way_only(run, stop):
    def stopped(row, ctx):
        stop.set()
        return dict(row)

    story = run(job(files="clients*.csv")(stopped), [chunk(0, 100)])
    assert isinstance(story.error, Stopping)
    assert 1 <= len(story.indexes) <= 3
    assert story.part.commits == 0


def test_a_jobs_state_is_handed_over_with_the_delivery(run):
    def counted(row, ctx):
        ctx.state["rows"] = ctx.state.get("rows", 0) + 1

    story = run(job(files="clients*.csv", concurrency=1)(counted), [chunk(0, 3)], memory=Memory(rows=7))
    assert story.delivery.state == {"rows": 10}


def test_a_jobs_concurrency_is_kept(run):
    inside, most = [], []

    def watched(row, ctx):
        inside.append(row.index)
        most.append(len(inside))
        inside.remove(row.index)

    run(job(files="clients*.csv", concurrency=1)(watched), [chunk(0, 200)])
    assert max(most) == 1


def framed(start, size):
    plain = chunk(start, size)
    data, index = [dict(row) for row in plain.rows], [row.line for row in plain.rows]
    return Chunk(start, ("id",), plain.rows, [], lambda: pd.DataFrame(data, index=index))


def test_a_frame_job_gets_whole_chunks(run):
    sizes = []
    declared = job(files="clients*.csv", frame=True)(lambda frame, ctx: sizes.append(len(frame)) or frame)
    story = run(declared, [framed(0, 3), framed(3, 2)])
    assert (sorted(sizes), story.indexes, story.error) == ([2, 3], [0, 1, 2, 3, 4], None)


def test_a_frame_jobs_unreadable_rows_are_rejected(run):
    good, wrong = framed(0, 1), [Outcome(1, 3, error="Reject", detail="no")]
    declared = job(files="clients*.csv", frame=True)(lambda frame, ctx: frame)
    assert run(declared, [Chunk(0, ("id",), good.rows, wrong, good.frame)]).indexes == [0, 1]


def test_a_frame_job_is_run_again_over_a_chunk_that_was_half_done_and_nothing_is_doubled(run):
    sizes = []
    declared = job(files="clients*.csv", frame=True)(lambda frame, ctx: sizes.append(len(frame)) or frame)
    story = run(declared, [framed(0, 3), framed(3, 2)], part=MemoryPart(done={0, 1, 2, 3}))
    assert (sizes, story.indexes) == ([2], [4])


def test_the_log_says_which_delivery_and_job_it_is_about(run):
    seen = []

    class Part(MemoryPart):
        def commit(self):
            seen.append(log.context())

    run(echo, [chunk(0, 1)], part=Part())
    assert seen == [{"delivery": "3f9a1c2b", "job": "echo"}]
    assert log.context() == {}


def test_so_does_what_is_logged_while_a_row_is_worked_on(run):
    known = []

    @job(files="*")
    def tells(row, ctx):
        known.append(dict(log.context()))

    run(tells, [chunk(0, 3)])
    assert known == [{"delivery": "3f9a1c2b", "job": "tells"}] * 3
    assert log.context() == {}


def test_a_delivery_that_another_worker_has_taken_is_left_at_its_next_row(run):
    @job(files="clients*.csv", concurrency=1)
    def loses(row, ctx):
        ctx._shared.delivery.lost = True

    story = run(loses, [chunk(0, 100)])
    assert isinstance(story.error, LostLease)
    assert story.indexes == [0]
    assert story.part.commits == 0


class Slow:
    """A backend that is waited for until the delivery is to end."""

    kind = "rest"

    def open(self, meter, stop, folder):
        self.stop = stop
        return self

    def at(self, key):
        return self

    def wait(self):
        assert self.stop.wait(SECONDS)
        raise Interrupted(Stopping("slow: was waited for"))


def test_a_delivery_that_another_worker_has_taken_waits_for_nothing_more(run):
    @job(files="clients*.csv")
    def waits(row, ctx):
        threading.Timer(0.01, ctx._shared.delivery.lose).start()
        ctx.rest["slow"].wait()

    story = run(waits, [chunk(0, 1)], backends={"slow": Slow()})
    assert isinstance(story.error, Stopping)
    assert story.part.commits == 0


@job(files="clients*.csv")
def falls_back(row, ctx):
    """A job that catches whatever may go wrong, and goes on with something else."""
    if row["id"] == "0":
        raise Unavailable("ehr", "answered 503")
    try:
        ctx.rest["slow"].wait()
    except Exception:  # noqa: BLE001 - as jobs do
        return {"plan": "unknown"}


def test_a_row_that_waits_while_another_one_ends_the_delivery_has_no_outcome_though_its_job_catches_every_error(run):
    story = run(falls_back, [chunk(0, 3)], backends={"slow": Slow()})
    assert isinstance(story.error, Unavailable)
    assert story.part.outcomes == []


def test_a_row_that_waits_while_the_worker_stops_has_no_outcome_though_its_job_catches_every_error(run, stop):
    threading.Timer(0.05, stop.set).start()
    story = run(falls_back, [chunk(1, 2)], backends={"slow": Slow()})
    assert isinstance(story.error, Stopping)
    assert story.part.outcomes == []


def test_a_job_that_catches_every_error_makes_no_outcome_of_a_memory_that_cannot_be_read(run):
    class Away:
        def load(self, name):
            raise Paused("the ledger cannot be reached")

    @job(files="clients*.csv")
    def counts(row, ctx):
        try:
            return {"last": ctx.state["last"]}
        except Exception:  # noqa: BLE001 - as jobs do
            return {"last": 0}

    story = run(counts, [chunk(0, 1)], memory=Away())
    assert isinstance(story.error, Paused)
    assert story.part.outcomes == []
