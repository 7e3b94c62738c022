"""Real workers told to stop while something under way does not end: nothing of it is lost, or counts as done."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from orders import run_once, running, status, wait_for
from prepared import longshore

ROWS = 6
JOBS = """
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from worker import Context, Row, job

STUCK = Path(__file__).parents[1] / "stuck"  # what is to be stuck is so while it is there
BEGUN = STUCK.with_name("begun")
OWN = ThreadPoolExecutor(1)

def stuck():
    while STUCK.exists():
        BEGUN.touch()
        time.sleep(0.05)

def order(row, ctx):
    return {"n": row["n"], "order": ctx.rest["orders"].post("/orders", json=dict(row))["order"]}

@job(files="calls*.csv")
def calls(row: Row, ctx: Context) -> dict:
    return order(row, ctx)

@job(files="falls-back*.csv")
def falls_back(row: Row, ctx: Context) -> dict:
    try:
        return order(row, ctx)
    except Exception:
        return {"n": row["n"], "order": None}

@job(files="computes*.csv")
def computes(row: Row, ctx: Context) -> dict:
    if row["n"] == "3":
        stuck()
    return order(row, ctx)

@job(files="threads*.csv")
def threads(row: Row, ctx: Context) -> dict:
    OWN.submit(stuck)
    return order(row, ctx)

@job(files="spins*.csv")
def spins(row: Row, ctx: Context) -> dict:
    BEGUN.touch()
    while True:
        pass

def rows(ctx):
    yield {"n": "0"}
    stuck()

@job(schedule="0 0 1 1 *", source=rows)
def asks(row: Row, ctx: Context) -> dict:
    return order(row, ctx)
"""


class Orders:
    """POST /orders is answered at once, but, while ``drips``, a byte a second for the third row."""

    def __init__(self):
        self.drips = threading.Event()
        self.dripping = threading.Event()
        self.keys = {}  # row -> its Idempotency-Keys

    @contextmanager
    def serving(self):
        class Server(ThreadingHTTPServer):
            daemon_threads = True

        server = Server(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def drip(self, stream, answer):
        for byte in answer:
            stream.write(bytes([byte]))
            self.dripping.set()
            time.sleep(1)

    def _handler(self):
        orders = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["n"]
                orders.keys.setdefault(row, []).append(self.headers["Idempotency-Key"])
                answer = json.dumps({"order": f"order of {row}"}).encode()
                head = (
                    f"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
                )
                with suppress(ConnectionError):
                    if row == "3" and orders.drips.is_set():
                        orders.drip(self.wfile, head.encode() + answer)
                    else:
                        self.wfile.write(head.encode() + answer)

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def orders():
    with Orders().serving() as orders:
        yield orders


@pytest.fixture
def project(tmp_path, orders):
    folder = tmp_path / "project"
    (folder / "jobs").mkdir(parents=True)
    (folder / "inbox").mkdir()
    (folder / "jobs" / "jobs.py").write_text(JOBS)
    (folder / "longshore.toml").write_text(
        "[worker]\nsettle_seconds = 0\nstop_seconds = 1\n"
        f'[backends.orders]\ntype = "rest"\nurl = "{orders.url}"\ntimeout = 30\n'
    )
    return folder


def drop(project, name):
    (project / "inbox" / name).write_text("n\n" + "".join(f"{n}\n" for n in range(ROWS)))


def stopped(process):
    """SIGTERM, and the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def the_entry(project):
    (entry,) = status(project)["deliveries"]
    return entry


def check_done(project, orders):
    """The next start has gone on; each row has its outcome, and its key, whatever it took."""
    run_once(project)
    (manifest,) = [json.loads(path.read_text()) for path in (project / "outbox").glob("*.manifest.json")]
    assert (manifest["results"], manifest["rejected"], manifest["attempts"]) == (ROWS, 0, 2)
    (output,) = list((project / "outbox").glob("*.csv"))
    assert output.read_text().splitlines() == ["n,order", *(f"{n},order of {n}" for n in range(ROWS))]
    assert all(len(set(keys)) == 1 for keys in orders.keys.values())


@pytest.mark.parametrize("name", ["calls.csv", "falls-back.csv"])
def test_a_call_that_lasts_too_long_is_cut_off_and_its_row_is_for_the_next_start(project, orders, name):
    """Also where the job would take it for a call that failed."""
    orders.drips.set()
    drop(project, name)
    with running(project) as process:
        wait_for(lambda: orders.dripping.is_set() and len(orders.keys) == ROWS, alive=process)
        assert stopped(process) == 0
    entry = the_entry(project)
    assert (entry["state"], entry["rows_done"]) == ("waiting", ROWS - 1)
    orders.drips.clear()
    check_done(project, orders)
    assert {row: len(keys) for row, keys in orders.keys.items()} == {str(n): 1 + (n == 3) for n in range(ROWS)}


def test_a_row_that_does_not_end_is_left_and_its_delivery_is_for_the_next_start(project, orders):
    (project / "stuck").touch()
    drop(project, "computes.csv")
    with running(project) as process:
        wait_for(lambda: (project / "begun").exists() and len(orders.keys) == ROWS - 1, alive=process)
        assert stopped(process) == 0
        assert "bug" not in (project / "run.log").read_text()
    entry = the_entry(project)
    assert (entry["state"], entry["rows_done"]) == ("waiting", ROWS - 1)
    (project / "stuck").unlink()
    check_done(project, orders)
    assert {len(keys) for keys in orders.keys.values()} == {1}


def test_run_once_that_is_cut_off_says_that_a_delivery_is_waiting(project):
    (project / "stuck").touch()
    drop(project, "computes.csv")
    command = ["--config", project / "longshore.toml", "run", "--once"]
    with longshore(*command, log=project / "run.log") as process:
        wait_for((project / "begun").exists, alive=process)
        assert stopped(process) == 1
    assert "1 delivery is waiting" in (project / "run.log").read_text()


def test_a_source_that_does_not_end_is_left_and_asked_anew(project, orders):
    (project / "stuck").touch()
    run_once(project)  # the schedule begins
    with closing(sqlite3.connect(project / ".longshore" / "state.db")) as ledger, ledger:
        ledger.execute("DELETE FROM fires")
        ledger.execute(f"UPDATE schedules SET seen_to = seen_to - {400 * 86_400}")
    with running(project) as process:
        wait_for((project / "begun").exists, alive=process)
        assert stopped(process) == 0
    assert the_entry(project)["state"] == "waiting"
    (project / "stuck").unlink()
    run_once(project)
    assert the_entry(project)["state"] == "done"
    assert orders.keys.keys() == {"0"}


def test_a_worker_whose_log_nobody_reads_any_more_ends_all_the_same(project, orders):
    drop(project, "calls.csv")
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "worker", "--config", project / "longshore.toml", "run"]
    with subprocess.Popen(command, stderr=writer) as process:
        wait_for(lambda: list((project / "archive").glob("*.csv")), alive=process)
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 1024)
        os.set_blocking(writer, True)
        assert stopped(process) == 0
    for end in (reader, writer):
        os.close(end)
    assert the_entry(project)["state"] == "done"


def test_rows_that_compute_without_end_keep_nobody_from_stopping(project):
    drop(project, "spins.csv")
    with running(project) as process:
        wait_for((project / "begun").exists, alive=process)
        assert stopped(process) == 0
    entry = the_entry(project)
    assert (entry["state"], entry["rows_done"]) == ("waiting", 0)


def test_a_thread_of_a_jobs_own_does_not_hold_a_worker_that_has_stopped(project):
    (project / "stuck").touch()
    drop(project, "threads.csv")
    with running(project) as process:
        wait_for(lambda: list((project / "archive").glob("*.csv")), alive=process)
        assert stopped(process) == 0
    assert the_entry(project)["state"] == "done"
