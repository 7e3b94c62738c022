"""Real workers and their ticks: killed at each point, in pairs, over restarts.

The jobs have one tick a year, so that none comes by itself; the tests let it be due by moving back the time up to which
the ledger has seen to it.
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from order_server import OrderServer
from orders import THREADS, run_once, running, status, wait_for
from prepared import longshore
from servers.bulk import TIME, bulk_server

from worker.ledger import Ledger
from worker.sandbox import Sandbox
from worker.sandbox.fhir import practitioners

ROWS = 120
TICK = f"{datetime.now(UTC).year}0101T000000Z"
JOBS = Path(__file__).parents[2] / "jobs"

JOB = f"""
import time
from pathlib import Path
from worker import Context, Row, job

ASKED = Path(__file__).parents[1] / "asked"
HELD = ASKED.with_name("held")  # rows wait while it is there

def rows(ctx):
    with ASKED.open("a") as asked:
        asked.write(".")
    asked = len(ASKED.read_text())
    ctx.state["asked"] = asked
    for number in range({ROWS}):
        yield {{"client": f"{{asked}}-{{number:03}}"}}
    ctx.state["runs"] = ctx.state.get("runs", 0) + 1

@job(schedule="0 0 1 1 *", source=rows)
def nightly(row: Row, ctx: Context) -> dict:
    while HELD.exists():
        time.sleep(0.01)
    answer = ctx.rest["orders"].post("/orders", json={{"client": row["client"]}})
    return {{"client": row["client"], "order": answer["order"]}}
"""


class Project:
    """A project whose job ``nightly`` gives other rows each time its source is asked."""

    def __init__(self, folder: Path, settings: str, state: str = "", job: str = JOB) -> None:
        self.folder = folder
        self.state = state or f"sqlite:///{folder / 'state.db'}"
        for name in ("jobs", "inbox"):
            (folder / name).mkdir(parents=True)
        (folder / "jobs" / "nightly.py").write_text(job)
        (folder / "longshore.toml").write_text(
            f'[worker]\nthreads = {THREADS}\nsettle_seconds = 0.1\nstate = "{self.state}"\n{settings}'
        )

    def sql(self, *statements: str) -> list[Any]:
        """What the last of some statements finds in the ledger."""
        engine = sa.create_engine(self.state)
        with engine.begin() as connection:
            for statement in statements:
                done = connection.execute(sa.text(statement))
            found = list(done) if done.returns_rows else []
        engine.dispose()
        return found

    def begin(self, *jobs: str) -> None:
        """The schedules begin, as they do at the first start of a worker."""
        with closing(Ledger(self.state)) as ledger:
            for job in jobs or ("nightly",):
                ledger.schedules.begin(job, "0 0 1 1 * UTC")

    def a_year_goes_by(self) -> None:
        """The tick of this year is due."""
        self.sql("DELETE FROM fires", f"UPDATE schedules SET seen_to = seen_to - {400 * 86_400}")

    @property
    def manifests(self) -> list[dict[str, Any]]:
        found = [json.loads(path.read_bytes()) for path in (self.folder / "outbox").glob("*.manifest.json")]
        return sorted(found, key=lambda manifest: str(manifest["finished"]))

    def rows(self, manifest: dict[str, Any]) -> list[dict[str, str]]:
        results = self.folder / "outbox" / manifest["outputs"][0]["name"]
        return list(csv.DictReader(results.read_text().splitlines()))

    @property
    def asked(self) -> int:
        return len((self.folder / "asked").read_text())

    def remembered(self) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self.sql("SELECT key, value FROM job_state")}

    @property
    def left_over(self) -> list[Path]:
        hidden = [file for name in ("outbox", "failed") for file in (self.folder / name).glob(".*")]
        return hidden + list((self.folder / ".longshore" / "work").iterdir())


def orders_at(server: OrderServer) -> str:
    return f'[backends.orders]\ntype = "rest"\nurl = "{server.url}"\n'


@pytest.fixture
def server() -> Iterator[OrderServer]:
    with OrderServer(delay=0.01) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: OrderServer) -> Project:
    return Project(tmp_path / "project", orders_at(server))


BEFORE_THE_ROWS = [
    "tick half made",
    "tick made, not taken",
    "begun, before the first row",
    "while the source is asked",
    "asked, the rows not to be seen yet",
    "rows on disk, none of them run",
]
AMONG_THE_ROWS = ["in the middle of a chunk", "in the middle of a write"]
AFTER_THE_ROWS = [
    "all rows of a tick done, nothing published",
    "results of a tick published",
    "manifest published, not in the ledger",
    "tick in the ledger, not put away",
]
ASKED_AGAIN = {"while the source is asked", "asked, the rows not to be seen yet"}


@pytest.mark.parametrize("point", [*BEFORE_THE_ROWS, *AMONG_THE_ROWS, *AFTER_THE_ROWS])
def test_a_tick_whose_worker_is_killed_is_finished_by_the_next_start(
    project: Project, server: OrderServer, point: str
) -> None:
    project.begin()
    project.a_year_goes_by()
    with running(project.folder, point=point) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert project.remembered() == ({"asked": 1, "runs": 1} if point == "tick in the ledger, not put away" else {})
    run_once(project.folder)
    (manifest,) = project.manifests
    asked = 2 if point in ASKED_AGAIN else 1
    assert project.asked == asked
    assert (manifest["source"], manifest["trigger"]) == (f"nightly-{TICK}", "schedule")
    assert [row["client"] for row in project.rows(manifest)] == [f"{asked}-{number:03}" for number in range(ROWS)]
    assert len(server.orders) == ROWS, "one key a row, the same at every attempt"
    sent_again = sum(times - 1 for times in server.times_sent.values())
    assert sent_again <= (2 * THREADS if point in AMONG_THE_ROWS else 0)
    assert project.remembered() == {"asked": asked, "runs": 1}
    assert status(project.folder)["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 0}
    assert project.left_over == []


def test_the_next_tick_goes_on_from_what_the_one_before_remembered(project: Project) -> None:
    project.begin()
    for _ in range(2):
        project.a_year_goes_by()
        run_once(project.folder)
    assert project.remembered() == {"asked": 2, "runs": 2}
    assert [manifest["rows_in"] for manifest in project.manifests] == [ROWS, ROWS]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_workers_run_each_tick_once(
    tmp_path: Path, server: OrderServer, database: str, request: pytest.FixtureRequest
) -> None:
    names = [f"job_{number}" for number in range(8)]
    one = '@job(schedule="0 0 1 1 *", source=lambda ctx: [{{"n": 1}}])\ndef {}(row, ctx): return row\n'
    state = request.getfixturevalue("postgresql_server").new_database() if database == "postgresql" else ""
    project = Project(
        tmp_path / "project", orders_at(server), state, job="from worker import job\n" + "".join(map(one.format, names))
    )
    project.begin(*names)
    with running(project.folder) as first, running(project.folder, log_name="other.log") as second:
        logs = [project.folder / name for name in ("run.log", "other.log")]
        wait_for(lambda: all("worker started" in log.read_text() for log in logs), alive=second)
        project.a_year_goes_by()
        wait_for(lambda: len(project.manifests) >= len(names), alive=first)
        for worker in (first, second):
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(20) == 0
    run_once(project.folder)
    assert sorted(manifest["source"] for manifest in project.manifests) == [f"{name}-{TICK}" for name in names]
    assert sorted(row.job for row in project.sql("SELECT job FROM fires WHERE delivery <> ''")) == names


def test_a_missed_tick_waits_while_the_last_one_runs_and_another_worker_finishes_that(
    project: Project, server: OrderServer
) -> None:
    held = project.folder / "held"
    held.touch()
    project.begin()
    project.a_year_goes_by()
    logs = [project.folder / name for name in ("run.log", "other.log")]
    with running(project.folder) as one, running(project.folder, log_name="other.log") as two:
        wait_for(lambda: any("delivery taken" in log.read_text() for log in logs), alive=two)
        project.a_year_goes_by()
        wait_for(lambda: project.sql("SELECT id FROM deliveries WHERE state = 'waiting'"), alive=two)
        doomed, survivor = (one, two) if "delivery taken" in logs[0].read_text() else (two, one)
        doomed.send_signal(signal.SIGKILL)
        assert project.asked == 1
        held.unlink()
        wait_for(lambda: len(project.manifests) == 2, alive=survivor)
    assert [(manifest["attempts"], manifest["rows_in"]) for manifest in project.manifests] == [(2, ROWS), (1, ROWS)]
    assert project.asked == 2
    assert len(server.orders) == 2 * ROWS


def test_files_wait_for_the_tick_over_restarts(tmp_path: Path) -> None:
    job = 'from worker import job\n@job(files="*.csv", schedule="0 0 1 1 *")\ndef evening(row, ctx): return row\n'
    project = Project(tmp_path / "project", "", job=job)
    project.begin("evening")
    inbox = project.folder / "inbox"
    (inbox / "early.csv").write_text("n\n1\n")
    with running(project.folder) as process:
        wait_for(lambda: "worker started" in (project.folder / "run.log").read_text(), alive=process)
        time.sleep(1)
        assert [file.name for file in inbox.iterdir()] == ["early.csv"]
        process.kill()
        process.wait(20)
    project.a_year_goes_by()
    with running(project.folder) as process:
        wait_for(lambda: project.manifests, alive=process)
        (inbox / "late.csv").write_text("n\n2\n")
        time.sleep(1)
    assert [manifest["source"] for manifest in project.manifests] == ["early.csv"]
    assert [file.name for file in inbox.iterdir()] == ["late.csv"]
    (told,) = json.loads(said(project, "jobs", "--json"))
    assert (told["last_tick"] is None, told["last_delivery"]) == (False, None)
    assert "left out" not in said(project, "jobs")


def test_the_changes_of_the_sandbox_are_followed(tmp_path: Path) -> None:
    with Sandbox() as sandbox:
        project = Project(tmp_path / "project", sandbox.settings_toml(), job="")
        (project.folder / "jobs" / "nightly.py").unlink()
        shutil.copy(JOBS / "changed_practitioners.py", project.folder / "jobs")
        with (project.folder / "longshore.toml").open("a") as settings:
            settings.write('[jobs.changed_practitioners]\nschedule = "0 0 1 1 *"\n')
        project.begin("changed_practitioners")
        found = [night(project) for _ in range(2)]
        assert found == [sum(1 for _ in practitioners()), 0]
        assert not project.manifests[0]["rejected"]


def night(project: Project) -> int:
    """How many changes the tick of a year finds."""
    before = {manifest["delivery"] for manifest in project.manifests}
    project.a_year_goes_by()
    run_once(project.folder)
    (new,) = [manifest for manifest in project.manifests if manifest["delivery"] not in before]
    return int(new["rows_in"])


BREAKABLE = """
from pathlib import Path
from worker import DeliveryError, Reject, job

def rows(ctx):
    if Path(__file__).with_name("broken").exists():
        raise DeliveryError("the source is broken")
    yield {"n": 1}
    yield {"n": 2, "more": "x"}

@job(schedule="0 0 1 1 *", source=rows)
def nightly(row, ctx):
    "Numbers but for 2."
    if row["n"] == "2" or row["n"] == 2:
        raise Reject("2 is not wanted")
    return {"n": row["n"]}
"""


def test_a_failed_tick_is_told_of_retried_and_its_rejects_are_run_again(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", "", job=BREAKABLE)
    broken = project.folder / "jobs" / "broken"
    broken.touch()
    project.begin()
    project.a_year_goes_by()
    assert said(project, "run", "--once", code=1) == ""
    (failed,) = json.loads(said(project, "status", "--json"))["deliveries"]
    assert (failed["source"], failed["state"], failed["error"]) == (f"nightly-{TICK}", "failed", "the source is broken")
    assert [path.name for path in (project.folder / "failed").iterdir()] == [f"nightly-{TICK}.error.json"]
    broken.unlink()
    said(project, "retry", failed["delivery"])
    run_once(project.folder)
    (manifest,) = project.manifests
    assert (manifest["results"], manifest["rejected"], manifest["attempts"]) == (1, 1, 2)
    (told,) = json.loads(said(project, "jobs", "--json"))
    assert (told["last_delivery"], told["last_tick"]) == (failed["delivery"], f"{TICK[:4]}-01-01T00:00:00Z")
    assert told["next_tick"] == f"{int(TICK[:4]) + 1}-01-01T00:00:00Z"
    assert f"next tick {told['next_tick']}; the last one was {told['last_tick']}" in said(project, "jobs")
    how = said(project, "retry", "--rejected", failed["delivery"], code=2)
    (rejects,) = (project.folder / "outbox").glob("*.rejected.csv")
    assert f"{rejects.name} --job nightly" in how
    said(project, "process", str(rejects), "--job", "nightly")
    assert project.manifests[-1]["rejected"] == 1


def said(project: Project, *arguments: str, code: int = 0) -> str:
    """What a command prints, or what it says is wrong."""
    out, log = project.folder / "out", project.folder / "log"
    for file in (out, log):
        file.write_text("")
    with longshore("--config", project.folder / "longshore.toml", *arguments, out=out, log=log) as process:
        assert process.wait(60) == code, log.read_text()
    return out.read_text() if code != 2 else log.read_text()


EXPORT = """
from worker import Context, Row, job

def changed(ctx):
    export = ctx.fhir["ehr"].export("Patient", since=ctx.state.get("since"))
    yield from export
    ctx.state["since"] = export.time

@job(schedule="0 0 1 1 *", source=changed)
def nightly(row: Row, ctx: Context) -> dict:
    return {"patient": row["id"]}
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_an_export_that_a_worker_waited_for_is_taken_up_by_the_next_one(tmp_path, end):
    with bulk_server() as server:
        server.polls = [(202, {"Retry-After": "1"})] * 1000
        server.made({"resourceType": "Patient", "id": "p1"})
        project = Project(tmp_path / "project", f'[backends.ehr]\ntype = "fhir"\nurl = "{server.url}"\n', job=EXPORT)
        project.begin()
        project.a_year_goes_by()
        with running(project.folder) as worker:
            wait_for(lambda: "/status/1" in server.paths(), alive=worker)
            worker.send_signal(end)
            worker.wait(60)
        assert not project.manifests
        assert project.remembered() == {}
        server.polls = []
        with running(project.folder) as worker:
            wait_for(lambda: project.manifests and not project.left_over, alive=worker)
    (manifest,) = project.manifests
    assert (project.rows(manifest), manifest["attempts"]) == ([{"patient": "p1"}], 2)
    assert project.remembered() == {"since": TIME}
    assert len([path for path in server.paths() if "$export" in path]) == 1
    assert server.paths("DELETE") == ["/status/1"]
