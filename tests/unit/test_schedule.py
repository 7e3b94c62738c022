"""The schedule trigger with its ticks, on a ledger with a clock of the test's own: nothing waits."""

import queue
import threading
from datetime import UTC, datetime

import pytest
from file_worker import Clock

from worker.declare import job
from worker.errors import DeliveryError, Paused, Stopping, Unavailable
from worker.jobs import Jobs
from worker.ledger import Ledger
from worker.outputs.outbox import Outbox
from worker.pool import Pool
from worker.records import EXPORTS
from worker.runner import Runner
from worker.stopping import Stop
from worker.triggers.schedule import Schedule
from worker.triggers.settlement import Settlement
from worker.triggers.ticks import TickEnding, Ticks

MINUTE = 60.0


class Silent:
    def began(self, delivery):
        pass

    def progressed(self, delivery, outcomes):
        pass

    def ended(self, delivery, error):
        pass


class TickWorker:
    """A worker whose jobs have sources; ``turn`` looks once and runs what it is handed."""

    def __init__(self, root, clock, *jobs, owner="here.1.one"):
        self.root, self.clock = root, clock
        self.ledger = Ledger(f"sqlite:///{root / 'state.db'}", owner=owner, lease=3600, clock=clock)
        self.outbox, self.failed, self.work = (root / name for name in ("outbox", "failed", "work"))
        for folder in (self.outbox, self.failed, self.work):
            folder.mkdir(exist_ok=True)
        self.settlement = Settlement(self.ledger, TickEnding(self.failed, self.work), jitter=lambda: 0.5)
        self.ticks = Ticks(self.ledger, self.work, self.settlement, gone=lambda name: name == "here.1.dead")
        self.stop = Stop()
        self.room = 4
        self.submitted = []
        self.pool = Pool(4)
        output = Outbox(self.outbox, chunk_rows=10, clock=lambda: datetime.fromtimestamp(clock.now, UTC))
        everything = Jobs(jobs)
        self.runner = Runner(
            everything,
            {},
            {"schedule": output},
            self.pool,
            self.ledger.state,
            chunk_rows=10,
            stop=self.stop,
            watcher=Silent(),
        )
        scheduled = [each for each in everything.enabled if each.schedule]
        self.schedule = Schedule(scheduled, self.ledger, self.ticks, self.submitted.append, lambda: self.room)

    def look(self):
        """One look; how many ticks were handed over."""
        return self.schedule.look()

    def turn(self):
        """Look, and run what was handed over."""
        found = self.look()
        self.run()
        return found

    def run(self):
        while self.submitted:
            if delivery := self.submitted.pop(0)():
                self.runner.run(delivery)

    @property
    def entries(self):
        self.ledger.heartbeat([])
        return {entry.source: entry for entry in self.ledger.entries()}

    @property
    def states(self):
        return {source: entry.state for source, entry in sorted(self.entries.items())}

    def results(self):
        """The lines below the headers of all result files."""
        return [line for path in sorted(self.outbox.glob("*Z-????????.csv")) for line in path.read_text().split()[1:]]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def worker(tmp_path, clock):
    """Makes workers on one ledger."""
    workers = []

    def make(*jobs, **options):
        workers.append(TickWorker(tmp_path, clock, *jobs, **options))
        return workers[-1]

    yield make
    for each in workers:
        each.ledger.close()
        each.pool.close()


def two_rows(ctx):
    yield {"id": "1"}
    yield {"id": "2"}


def scheduled(source=two_rows, **options):
    """A job that gives back its rows' ids, each minute unless told otherwise."""

    @job(**{"schedule": "* * * * *", "source": source, **options})
    def nightly(row, ctx):
        return {"id": row["id"]}

    return nightly


def test_the_first_start_makes_no_ticks_of_the_past(worker):
    assert worker(scheduled()).turn() == 0


def test_a_tick_runs_the_rows_of_its_source(worker, clock):
    one = worker(scheduled())
    one.turn()
    clock.now += MINUTE
    assert one.turn() == 1
    assert one.states == {"nightly-20261123T020100Z": "done"}
    assert one.results() == ["1", "2"]
    assert list(one.work.iterdir()) == []


def test_the_outbox_names_its_files_after_job_and_time(worker, clock):
    one = worker(scheduled(schedule="0 3 * * *", timezone="Europe/Prague"))
    one.turn()
    clock.now += 86_400
    one.turn()
    (entry,) = one.entries.values()
    assert sorted(path.name for path in one.outbox.iterdir()) == [
        f"nightly-20261124T020000Z-{entry.id}.csv",
        f"nightly-20261124T020000Z-{entry.id}.manifest.json",
    ]


def test_between_two_ticks_nothing_happens(worker, clock):
    one = worker(scheduled())
    one.turn()
    clock.now += MINUTE
    assert [one.turn(), one.turn()] == [1, 0]
    clock.now += MINUTE - 1
    assert one.turn() == 0


def test_of_two_workers_one_makes_the_tick(worker, clock):
    workers = [worker(scheduled(), owner=f"here.1.{name}") for name in ("one", "two")]
    for each in workers:
        each.turn()
    clock.now += MINUTE
    assert sum(each.look() for each in workers) == 1
    assert len(workers[0].entries) == 1


def test_workers_that_look_at_the_same_time_make_each_tick_once(worker, clock):
    workers = [worker(scheduled(misfire="all"), owner=f"here.1.{number}") for number in range(3)]
    for each in workers:
        each.look()
    clock.now += 20 * MINUTE
    threads = [threading.Thread(target=each.look) for each in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(workers[0].entries) == 20


@pytest.mark.parametrize(
    ("misfire", "ran"),
    [
        ("once", ["nightly-20261123T020500Z"]),
        ("skip", []),
        ("all", [f"nightly-20261123T020{minute}00Z" for minute in range(1, 6)]),
    ],
)
def test_ticks_that_were_missed_are_run_as_the_job_says(worker, clock, misfire, ran):
    worker(scheduled(misfire=misfire)).turn()
    clock.now += 5.9 * MINUTE
    later = worker(scheduled(misfire=misfire))
    while later.turn():
        pass
    assert later.states == dict.fromkeys(ran, "done")


@pytest.mark.parametrize(("late", "ran"), [(30, 1), (31, 0)])
def test_a_tick_is_missed_after_thirty_seconds(worker, clock, late, ran):
    one = worker(scheduled(misfire="skip"))
    one.turn()
    clock.now += MINUTE + late
    assert one.turn() == ran


def test_a_tick_for_which_there_is_no_room_is_another_workers(worker, clock):
    busy, idle = (worker(scheduled(), owner=f"here.1.{name}") for name in ("busy", "idle"))
    busy.turn()
    busy.room = 0
    clock.now += MINUTE
    assert [busy.look(), idle.look()] == [0, 1]


def test_thousands_of_missed_ticks_are_all_made_a_hundred_at_a_look(worker, clock):
    one = worker(scheduled(misfire="all"))
    one.look()
    clock.now += 250.9 * MINUTE
    for made in (100, 200, 250, 250):
        one.look()
        assert one.ledger.counts()["waiting"] == made


def test_a_changed_schedule_makes_no_ticks_of_the_past(worker, clock):
    worker(scheduled()).turn()
    clock.now += 10 * MINUTE
    assert worker(scheduled(schedule="*/2 * * * *")).turn() == 0


def test_a_changed_time_zone_is_a_changed_schedule(worker, clock):
    worker(scheduled(schedule="0 * * * *")).turn()
    clock.now += 3600
    assert worker(scheduled(schedule="0 * * * *", timezone="Europe/Prague")).turn() == 0


def test_a_worker_whose_schedule_was_changed_by_another_makes_no_more_ticks(worker, clock):
    old, new = worker(scheduled(), owner="here.1.old"), worker(scheduled(schedule="0 * * * *"), owner="here.1.new")
    old.turn()
    new.turn()
    clock.now += MINUTE
    assert [old.turn(), new.turn()] == [0, 0]


def unfinished(one, clock):
    """Two minutes: the first tick is handed over, but not run, the second one is made or left out."""
    one.look()
    clock.now += MINUTE
    assert one.look() == 1
    clock.now += MINUTE
    assert one.look() == 0


def test_a_tick_is_left_out_while_the_run_before_it_goes_on(worker, clock):
    one = worker(scheduled())
    unfinished(one, clock)
    one.run()
    assert one.turn() == 0
    assert one.states == {"nightly-20261123T020100Z": "done"}
    clock.now += MINUTE
    assert one.turn() == 1


def test_a_tick_that_may_queue_is_run_after_the_one_before_it(worker, clock):
    one = worker(scheduled(overlap="queue"))
    unfinished(one, clock)
    other = worker(scheduled(overlap="queue"), owner="here.1.other")
    assert other.look() == 0
    one.run()
    assert other.turn() == 1
    assert other.states == {"nightly-20261123T020100Z": "done", "nightly-20261123T020200Z": "done"}


def test_missed_ticks_that_are_all_to_be_run_are_not_left_out_for_each_other(worker, clock):
    one = worker(scheduled(misfire="all"))
    unfinished(one, clock)  # the second one was on time, and is left out
    clock.now += 2.9 * MINUTE
    one.run()
    while one.turn():
        pass
    assert list(one.states) == [f"nightly-20261123T020{minute}00Z" for minute in (1, 3, 4)]


@pytest.mark.parametrize("late", [0, 40])
@pytest.mark.parametrize(("misfire", "ran"), [("once", 1), ("skip", 0)])
def test_missed_ticks_make_their_one_run_also_where_a_worker_died_in_the_one_before_them(
    worker, clock, misfire, ran, late
):
    dead = worker(scheduled(misfire=misfire), owner="here.1.dead")
    dead.look()
    clock.now += MINUTE
    assert dead.look() == 1
    dead.submitted.pop()()
    clock.now += 10 * MINUTE + late
    other = worker(scheduled(misfire=misfire), owner="here.1.other")
    while other.turn():
        pass
    assert list(other.states.values()) == ["done"] * (1 + ran)


def down(ctx):
    raise Unavailable("ehr", "is down")
    yield {}


def test_a_tick_whose_backend_is_down_waits_and_holds_up_no_other_job(worker, clock):
    @job(schedule="* * * * *", source=two_rows)
    def other(row, ctx):
        return {"id": row["id"]}

    one = worker(scheduled(down), other)
    one.turn()
    clock.now += MINUTE
    one.turn()
    assert one.states == {"nightly-20261123T020100Z": "waiting", "other-20261123T020100Z": "done"}
    assert one.entries["nightly-20261123T020100Z"].detail == "ehr: is down"


def counted(rows):
    """A source that gives other rows each time it is asked."""
    asked = []

    def source(ctx):
        asked.append(ctx.delivery.id)
        ctx.state["asked"] = len(asked)
        for number in range(rows):
            yield {"id": f"{len(asked)}-{number}"}

    return source, asked


def test_a_resumed_tick_runs_over_the_same_rows_and_does_not_ask_again(worker, clock):
    source, asked = counted(25)
    is_down = [True]

    @job(schedule="* * * * *", source=source, concurrency=1)
    def nightly(row, ctx):
        if is_down[0] and row["id"] == "1-15":
            raise Unavailable("billing", "is down")
        return {"id": row["id"]}

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    assert one.states == {"nightly-20261123T020100Z": "waiting"}
    assert one.ledger.state.load("nightly") == {}
    is_down[0] = False
    clock.now += 20
    one.turn()
    assert one.results() == [f"1-{number}" for number in range(25)]
    assert len(asked) == 1
    assert one.ledger.state.load("nightly") == {"asked": 1}


def test_what_a_source_remembers_is_kept_though_it_is_not_asked_again(worker, clock):
    """The first attempt ends before any row has an outcome: only the spill knows of it."""
    source, asked = counted(3)
    attempts = []

    @job(schedule="* * * * *", source=source)
    def nightly(row, ctx):
        attempts.append(ctx.delivery.attempts)
        if ctx.delivery.attempts == 1:
            raise Unavailable("billing", "is down")
        assert ctx.state["asked"] == 1
        ctx.state["rows"] = "seen"
        return {"id": row["id"]}

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    for part in one.work.glob("*/outcomes-*.part"):
        part.unlink()
    clock.now += 20
    one.turn()
    assert one.ledger.state.load("nightly") == {"asked": 1, "rows": "seen"}
    assert len(asked) == 1


def test_a_source_sees_what_the_run_before_it_remembered(worker, clock):
    seen = []

    def source(ctx):
        seen.append(ctx.state.get("since"))
        ctx.state["since"] = len(seen)
        return [{"id": "1"}]

    one = worker(scheduled(source))
    one.turn()
    for _ in range(3):
        clock.now += MINUTE
        one.turn()
    assert seen == [None, 1, 2]


def test_a_source_that_fails_remembers_nothing(worker, clock):
    def source(ctx):
        ctx.state["since"] = "now"
        yield {"id": "1"}
        raise DeliveryError("nobody knows why")

    one = worker(scheduled(source))
    one.turn()
    clock.now += MINUTE
    one.turn()
    assert one.states == {"nightly-20261123T020100Z": "failed"}
    assert one.ledger.state.load("nightly") == {}


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        (lambda ctx: [1], "the job's source gave a int; let it yield mappings"),
        (lambda ctx: 1 // 0, "the job's source has a bug (ZeroDivisionError); the worker's log says where"),
        (lambda ctx: None, "the job's source gave None; let it yield mappings"),
        (lambda ctx: [{"id": "1"}, None, {"id": "2"}], "the job's source gave None; let it yield mappings"),
        (lambda ctx: ctx.rest["x"], "the job asks for the rest backend 'x', which is not configured; none is known"),
    ],
)
def test_a_source_that_cannot_work_fails_its_tick_with_the_reason(worker, clock, source, detail):
    one = worker(scheduled(source))
    one.turn()
    clock.now += MINUTE
    one.turn()
    entry = one.entries["nightly-20261123T020100Z"]
    assert (entry.state, entry.error, entry.detail) == ("failed", "DeliveryError", detail)
    assert [path.name for path in one.failed.iterdir()] == ["nightly-20261123T020100Z.error.json"]


def test_a_failed_tick_can_be_run_again(worker, clock):
    broken = [True]

    def source(ctx):
        if broken[0]:
            raise DeliveryError("not today")
        yield {"id": "1"}

    one = worker(scheduled(source))
    one.turn()
    clock.now += MINUTE
    one.turn()
    broken[0] = False
    assert one.settlement.reopen(one.entries["nightly-20261123T020100Z"])
    assert list(one.failed.iterdir()) == []
    one.turn()
    assert one.states == {"nightly-20261123T020100Z": "done"}
    assert one.results() == ["1"]


def exporting(ctx, *, rows=2):
    """A source that does what an export does: it leaves files in the tick's work folder."""
    folder = ctx._shared.delivery.folder / EXPORTS / "ehr-1"
    folder.mkdir(parents=True)
    (folder / "0.ndjson").write_text("{}")
    yield from [{"id": "1"}] * rows


def exports(worker):
    return {path.parents[2].name for path in worker.work.rglob("0.ndjson")}


def test_what_was_exported_goes_as_soon_as_the_rows_are_on_disk(worker, clock):
    seen = []

    @job(schedule="* * * * *", source=exporting)
    def nightly(row, ctx):
        seen.append(exports(one))

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    assert seen == [set(), set()]


def test_what_a_failed_tick_has_exported_is_kept_for_a_retry_until_the_next_tick_asks(worker, clock):
    def broken(ctx):
        yield from exporting(ctx)
        raise ValueError

    one = worker(scheduled(broken))
    one.turn()
    kept = []
    for _ in range(3):
        clock.now += MINUTE
        one.turn()
        kept.append(exports(one))
    assert list(map(len, kept)) == [1, 1, 1]
    assert len(set.union(*kept)) == 3, "it is the last one's"
    assert set(one.states.values()) == {"failed"}


def test_a_tick_that_failed_among_its_rows_goes_on_with_the_same_ones(worker, clock):
    source, asked = counted(3)
    broken = [True]

    @job(schedule="* * * * *", source=source)
    def nightly(row, ctx):
        if broken[0]:
            raise DeliveryError("not today")
        return {"id": row["id"]}

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    broken[0] = False
    assert one.settlement.reopen(one.entries["nightly-20261123T020100Z"])
    one.turn()
    assert one.results() == ["1-0", "1-1", "1-2"]
    assert len(asked) == 1


class Invoices:
    """A job whose source gives the numbers after the last one that it remembers; it can be made to fail."""

    def __init__(self):
        self.newest = 0
        self.is_refused = self.is_broken = False

        @job(schedule="* * * * *", source=self.after_the_last, concurrency=1)
        def nightly(row, ctx):
            if self.is_broken:
                raise DeliveryError("not today")
            return {"number": row["number"]}

        self.job = nightly

    def after_the_last(self, ctx):
        if self.is_refused:
            raise DeliveryError("not today")
        last = ctx.state.get("last", 0)
        ctx.state["last"] = self.newest
        return [{"number": number} for number in range(last + 1, self.newest + 1)]

    def tick(self, worker, newest, *, is_refused=False, is_broken=False):
        """The next tick, which finds that there are so many invoices by now."""
        self.newest, self.is_refused, self.is_broken = newest, is_refused, is_broken
        worker.clock.now += MINUTE
        worker.turn()

    def retry(self, worker, time):
        """Run the failed tick of that time again."""
        self.is_refused = self.is_broken = False
        assert worker.settlement.reopen(worker.entries[f"nightly-20261123T{time}Z"])
        worker.turn()
        assert set(worker.states.values()) <= {"done", "failed"}


@pytest.fixture
def invoices():
    return Invoices()


def test_a_failed_tick_that_is_run_after_a_later_one_does_not_move_the_watermark_back(worker, invoices):
    one = worker(invoices.job)
    one.turn()
    invoices.tick(one, 3, is_broken=True)
    invoices.tick(one, 5)
    invoices.retry(one, "020100")
    assert one.ledger.state.load("nightly") == {"last": 5}
    invoices.tick(one, 6)
    assert one.results() == ["1", "2", "3", "1", "2", "3", "4", "5", "6"]
    assert one.ledger.state.load("nightly") == {"last": 6}


def test_a_failed_tick_whose_source_is_asked_anew_moves_the_watermark_on(worker, invoices):
    one = worker(invoices.job)
    one.turn()
    invoices.tick(one, 3, is_refused=True)
    invoices.tick(one, 5)
    invoices.newest = 7
    invoices.retry(one, "020100")
    assert one.ledger.state.load("nightly") == {"last": 7}


def test_failed_ticks_that_are_run_again_leave_the_watermark_of_the_last_of_them(worker, invoices):
    one = worker(invoices.job)
    one.turn()
    invoices.tick(one, 3, is_broken=True)
    invoices.tick(one, 5, is_broken=True)
    invoices.retry(one, "020100")
    assert one.ledger.state.load("nightly") == {"last": 3}
    invoices.retry(one, "020200")
    assert one.ledger.state.load("nightly") == {"last": 5}


def test_a_later_tick_that_remembers_nothing_leaves_the_watermark_to_an_earlier_one(worker, clock):
    is_broken = [True]

    def source(ctx):
        if is_broken[0]:
            ctx.state["last"] = 3
        return [{"id": "1"}]

    @job(schedule="* * * * *", source=source)
    def nightly(row, ctx):
        if is_broken[0]:
            raise DeliveryError("not today")
        return {"id": row["id"]}

    one = worker(nightly)
    one.turn()
    for is_broken[0] in (True, False):
        clock.now += MINUTE
        one.turn()
    assert one.settlement.reopen(one.entries["nightly-20261123T020100Z"])
    one.turn()
    assert one.ledger.state.load("nightly") == {"last": 3}


def waits_with_its_rows():
    @job(schedule="* * * * *", source=two_rows)
    def nightly(row, ctx):
        raise Unavailable("billing", "answered 503")

    return nightly


@pytest.mark.parametrize("made", [lambda: scheduled(down), waits_with_its_rows])
def test_a_tick_of_a_job_that_is_no_more_fails_and_no_other_job_takes_it(worker, clock, made):
    one = worker(made())
    one.turn()
    clock.now += MINUTE
    one.turn()

    @job(files="*")
    def anything(row, ctx):
        return dict(row)

    clock.now += MINUTE
    later = worker(anything)
    later.turn()
    entry = later.entries["nightly-20261123T020100Z"]
    assert entry.state == "failed"
    assert "no job nightly is left" in entry.detail


@pytest.mark.parametrize(
    "damage", [lambda rows: rows.replace(b'"1"', b'"9"'), lambda rows: rows[:-5], lambda rows: b"", None]
)
def test_rows_that_were_changed_on_disk_are_not_gone_on_with(worker, clock, damage):
    @job(schedule="* * * * *", source=two_rows)
    def nightly(row, ctx):
        raise Unavailable("billing", "is down")

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    (rows,) = one.work.glob("*/rows.jsonl")
    if damage:
        rows.write_bytes(damage(rows.read_bytes()))
    else:
        rows.unlink()
    clock.now += 20
    one.turn()
    assert "are not those it began with" in one.entries["nightly-20261123T020100Z"].detail


def test_two_ticks_with_the_same_rows_have_other_keys_and_one_tick_has_its_own(worker, clock):
    keys = {}

    def nightly(row, ctx):
        keys.setdefault(ctx.delivery.source, []).append(ctx._key.next())
        if ctx.delivery.attempts == 1 and ctx.delivery.source.endswith("0100Z"):
            raise Unavailable("billing", "is down")
        return {"id": row["id"]}

    one = worker(job(schedule="* * * * *", source=lambda ctx: [{"id": "1"}])(nightly))
    one.turn()
    for seconds in (MINUTE, 20, 40):
        clock.now += seconds
        one.turn()
    first, second = keys.values()
    assert first[0] == first[1]
    assert first[0] != second[0]


def test_rejected_rows_stand_under_the_columns_of_all_rows(worker, clock):
    @job(schedule="* * * * *", source=lambda ctx: [{"a": 1}, {"b": "two", "a": 2}])
    def nightly(row, ctx):
        return {"x": row["b"]}

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    (rejects,) = one.outbox.glob("*.rejected.csv")
    assert rejects.read_text().split("\n")[0] == "a,b,_line,_error,_detail"
    assert rejects.read_text().split("\n")[1].startswith("1,,1,MissingColumn,")


def test_a_job_of_frames_has_a_source_too(worker, clock):
    @job(schedule="* * * * *", source=two_rows, frame=True)
    def nightly(frame, ctx):
        return frame[["id"]]

    one = worker(nightly)
    one.turn()
    clock.now += MINUTE
    one.turn()
    assert one.results() == ["1", "2"]


def test_a_worker_that_stops_leaves_a_tick_for_the_next_start(worker, clock):
    one = worker(scheduled(source=lambda ctx: one.stop.set() or [{"id": "1"}]))
    one.turn()
    clock.now += MINUTE
    one.turn()
    assert one.states == {"nightly-20261123T020100Z": "waiting"}
    assert one.entries["nightly-20261123T020100Z"].error == Stopping.__name__
    other = worker(scheduled(), owner="here.1.other")
    other.turn()
    assert other.results() == ["1", "2"]


def test_a_dead_workers_tick_is_taken_over(worker, clock):
    dead, other = worker(scheduled(), owner="here.1.dead"), worker(scheduled(), owner="here.1.other")
    dead.look()
    clock.now += MINUTE
    assert dead.look() == 1
    assert other.turn() == 1
    assert other.states == {"nightly-20261123T020100Z": "done"}


def test_a_ledger_that_is_away_is_looked_for_again(worker, clock, monkeypatch):
    one = worker(scheduled())
    one.look()
    clock.now += MINUTE
    with monkeypatch.context() as patched:
        patched.setattr(one.ledger.schedules, "read", lambda: (_ for _ in ()).throw(Paused("away")))
        assert one.look() == 0
    assert one.look() == 1


def test_a_tick_lets_the_files_of_its_job_be_taken(worker, clock):
    @job(schedule="* * * * *", files="*.csv")
    def filed(row, ctx):
        return None

    one = worker(filed)
    one.look()
    assert one.ledger.schedules.read()["filed"].released == 0
    clock.now += MINUTE + 2
    assert one.look() == 0
    assert one.entries == {}
    assert one.ledger.schedules.read()["filed"].released == clock.now


def test_the_thread_looks_until_it_is_stopped(worker, clock):
    one = worker(scheduled())
    one.schedule.start()
    one.schedule.stop()
    assert not one.schedule._thread.is_alive()


def test_a_tick_that_waited_for_the_one_before_it_begins_as_soon_as_that_has_ended(worker, clock):
    one = worker(scheduled(overlap="queue"))
    unfinished(one, clock)
    handed_over = queue.SimpleQueue()
    schedule = Schedule([scheduled(overlap="queue")], one.ledger, one.ticks, handed_over.put, lambda: one.room)
    one.submitted.clear()
    one.ledger.release()  # the first tick is whoever's that looks first
    schedule.start()
    try:
        one.runner.run(handed_over.get(timeout=4)())
        one.runner.run(handed_over.get(timeout=4)())  # the next look by itself would come five seconds later
    finally:
        schedule.stop()
    assert one.states == {"nightly-20261123T020100Z": "done", "nightly-20261123T020200Z": "done"}


def test_a_clock_that_was_ahead_costs_no_ticks_and_doubles_none(worker, clock):
    one = worker(scheduled())
    one.turn()
    clock.now += 10 * MINUTE
    assert one.turn() == 1
    clock.now -= 8.5 * MINUTE
    assert one.turn() == 0
    clock.now += MINUTE
    assert one.turn() == 1
    assert list(one.states) == ["nightly-20261123T020200Z", "nightly-20261123T021000Z"]
    clock.now += 7.5 * MINUTE
    assert one.turn() == 0


def test_ticks_for_which_there_was_no_room_come_as_soon_as_there_is(worker, clock):
    """Many jobs are due at once at night; else a handful of them would begin every five seconds."""

    def named(name):
        def tick(row, ctx): ...

        tick.__name__ = name
        return job(schedule="* * * * *", source=two_rows)(tick)

    jobs = [named(f"job{number}") for number in range(9)]
    one = worker(*jobs)
    one.look()
    clock.now += MINUTE
    all_of_them = threading.Event()

    def submit(opening):
        opening()
        one.submitted.append(opening)
        if len(one.submitted) == 9:
            all_of_them.set()

    schedule = Schedule(jobs, one.ledger, one.ticks, submit, lambda: one.room)
    schedule.start()
    began_soon = all_of_them.wait(4)
    schedule.stop()
    assert began_soon


@pytest.mark.parametrize("trouble", ["no room", "no ledger"])
def test_looks_that_cannot_make_the_next_tick_do_not_follow_one_another_at_once(worker, clock, trouble):
    one = worker(scheduled())
    looks, fourth = [], threading.Event()

    def room():
        looks.append(clock.now)
        if len(looks) == 1:
            return 4
        if len(looks) == 4:
            fourth.set()
        if trouble == "no ledger":
            raise Paused("the ledger cannot be used")
        return 0

    clock.now += MINUTE - clock.now % MINUTE - 0.001
    schedule = Schedule([scheduled()], one.ledger, one.ticks, one.submitted.append, room)
    schedule.look()  # by now it knows that the next tick comes in a millisecond
    schedule.start()
    try:
        assert not fourth.wait(0.3)
    finally:
        schedule.stop()
