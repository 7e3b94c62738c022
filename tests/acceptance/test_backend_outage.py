"""A backend that is down while a file is worked on: the delivery waits and goes on, and nothing fails for it."""

import csv
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest

from worker.ledger import Ledger
from worker.sandbox import Sandbox

SECONDS = 60
LEARNT_SECONDS = 2  # every worker looks each second at what the others were told
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


@pytest.fixture
def ledger(project):
    """Asked directly, as a command takes a second to start."""
    (project / "inbox").mkdir()
    with closing(Ledger(f"sqlite:///{project}/.longshore/state.db")) as opened:
        yield opened


def test_a_pause_that_one_worker_is_asked_for_is_kept_by_the_others(ledger, project, samples, sandbox):
    header, *clients = (samples / "clients.csv").read_text().splitlines(keepends=True)
    sandbox.fail("billing", times=1, status=503, headers={"Retry-After": "8"}, route="plans")
    environ = os.environ | {"LONGSHORE_WORKER__DELIVERIES": "1", "LONGSHORE_WORKER__SETTLE_SECONDS": "0"}

    def drop(number):
        (project / "inbox" / f"clients-{number}.csv").write_text(header + clients[number])

    with ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-m", "worker", "run"], cwd=project, env=environ)
            stack.callback(process.wait, SECONDS)
            stack.callback(process.terminate)
        drop(0)
        (pause,) = wait_for(ledger.pauses.current)
        assert (pause.backend, pause.is_down) == ("billing", False)
        time.sleep(LEARNT_SECONDS)
        for number in range(1, 5):
            drop(number)
        wait_for(lambda: ledger.counts()["running"] == 2 or not ledger.pauses.current())
        asked = sandbox.counts()["billing"]["plans"]
        if ledger.pauses.current():  # not over on a machine this slow
            assert asked == 1
        wait_for(lambda: ledger.counts()["done"] == 5)
    assert sandbox.counts()["billing"]["plans"] == 6


def test_a_backend_that_is_down_is_left_alone_but_for_a_probe_and_its_delivery_goes_on_where_it_was(
    longshore, ledger, project, samples, sandbox
):
    sandbox.fail("billing", times=100_000, status=503, route="plans")
    head = (samples / "clients.csv").read_text().splitlines(keepends=True)[: ROWS + 1]
    (project / "inbox" / "clients.csv").write_text("".join(head))
    with (project / "worker.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "worker", "run"], cwd=project, stderr=log)
    try:
        (down,) = wait_for(ledger.pauses.current)
        assert (down.backend, down.is_down, down.reason) == ("billing", True, "answered 503")
        before = sandbox.counts()["billing"]["plans"]
        (again,) = wait_for(lambda: [pause for pause in ledger.pauses.current() if pause.seconds > 5.5])
        assert again.is_down
        assert sandbox.counts()["billing"]["plans"] == before + 1, "one probe, for all rows"
        (told,) = json.loads(longshore("status", "--json", cwd=project).stdout)["backends"]
        assert (told["backend"], told["state"], told["worker"]) == ("billing", "down", again.owner)
        (delivery,) = ledger.entries()
        assert "billing: " in delivery.detail
        assert "answered 503" in delivery.detail
        sandbox.heal("billing")
        wait_for(lambda: ledger.counts()["done"])
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0
    said = (project / "worker.log").read_text()
    assert (said.count("circuit opened"), said.count("circuit closed")) == (1, 1)
    assert not list((project / "failed").iterdir())
    (manifest,) = (project / "outbox").glob("*.manifest.json")
    found = json.loads(manifest.read_text())
    assert found["rows_in"] == found["results"] + found["rejected"] == ROWS
    assert found["attempts"] > 1
    assert sandbox.counts()["billing"]["plans"] == found["calls"]["billing"], "failed ones are counted, too"
    results = csv.DictReader((project / "outbox" / found["outputs"][0]["name"]).read_text().splitlines())
    assert [row["client_id"] for row in results] == [line.split(",")[0] for line in head[1:]]
