"""A backend that is down while a file is worked on: the delivery waits and goes on, and nothing fails for it."""

import csv
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from worker.sandbox import Sandbox

SECONDS = 60
ROWS = 30


@pytest.fixture
def sandbox():
    with Sandbox() as servers:
        yield servers


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def status(longshore, project):
    return json.loads(longshore("status", "--json", cwd=project).stdout)


def test_a_pause_that_one_worker_is_asked_for_is_kept_by_the_others(longshore, project, samples, sandbox):
    header, *clients = (samples / "clients.csv").read_text().splitlines(keepends=True)
    sandbox.fail("billing", times=1, status=503, headers={"Retry-After": "6"}, route="plans")
    environ = os.environ | {"LONGSHORE_WORKER__DELIVERIES": "1", "LONGSHORE_WORKER__SETTLE_SECONDS": "0"}
    (project / "inbox").mkdir()

    def drop(number):
        (project / "inbox" / f"clients-{number}.csv").write_text(header + clients[number])

    with ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-m", "worker", "run"], cwd=project, env=environ)
            stack.callback(process.wait, SECONDS)
            stack.callback(process.terminate)
        drop(0)
        (pause,) = wait_for(lambda: status(longshore, project)["backends"])
        assert (pause["backend"], pause["state"]) == ("billing", "paused")
        for number in range(1, 5):
            drop(number)
        wait_for(lambda: status(longshore, project)["counts"]["running"] == 2)
        asked = sandbox.counts()["billing"]["plans"]
        if status(longshore, project)["backends"]:  # not over on a machine this slow
            assert asked == 1
        wait_for(lambda: status(longshore, project)["counts"]["done"] == 5)
    assert sandbox.counts()["billing"]["plans"] == 6


def test_a_backend_that_is_down_makes_its_delivery_wait_and_go_on_where_it_was(longshore, project, samples, sandbox):
    head = (samples / "clients.csv").read_text().splitlines(keepends=True)[: ROWS + 1]
    sandbox.fail("billing", times=12, status=503, headers={"Retry-After": "1"}, route="plans")
    environ = os.environ | {"LONGSHORE_BACKENDS__BILLING__RETRIES": "0"}
    (project / "inbox").mkdir()
    (project / "inbox" / "clients.csv").write_text("".join(head))

    def waiting():
        (delivery,) = json.loads(longshore("status", "--json", cwd=project).stdout)["deliveries"] or [{}]
        return delivery.get("state") == "waiting" and delivery["error"]

    with subprocess.Popen([sys.executable, "-m", "worker", "run"], cwd=project, env=environ) as process:
        try:
            assert wait_for(waiting).startswith("billing: answered 503")
            (manifest,) = wait_for(lambda: list((project / "outbox").glob("*.manifest.json")))
        finally:
            process.terminate()
        assert process.wait(SECONDS) == 0
    assert not list((project / "failed").iterdir())
    found = json.loads(manifest.read_text())
    assert (found["rows_in"], found["results"] + found["rejected"]) == (ROWS, ROWS)
    assert found["attempts"] > 1
    results = csv.DictReader((project / "outbox" / found["outputs"][0]["name"]).read_text().splitlines())
    assert [row["client_id"] for row in results] == [line.split(",")[0] for line in head[1:]]
    assert sandbox.counts()["billing"]["plans"] == found["calls"]["billing"], (
        "every request is counted, failed ones too"
    )
