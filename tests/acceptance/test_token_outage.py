"""An OAuth server that is down, or a secret that is rotated, while the worker runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from worker.sandbox import Sandbox

SECONDS = 60
ONE_TRY = {"LONGSHORE_BACKENDS__BILLING__RETRIES": "0", "LONGSHORE_BACKENDS__EHR__RETRIES": "0"}


@pytest.fixture
def sandbox():
    with Sandbox() as servers:
        yield servers


@contextmanager
def running(project, **environ):
    """``longshore run``; yields the process, what it says is in run.log."""
    command = [sys.executable, "-m", "worker", "run"]
    with (project / "run.log").open("w") as log:
        process = subprocess.Popen(command, cwd=project, stderr=log, env=os.environ | environ)
        try:
            wait_for(lambda: "worker started" in (project / "run.log").read_text())
            yield process
        finally:
            process.terminate()
            assert process.wait(SECONDS) == 0


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def drop(project, samples):
    head = (samples / "clients.csv").read_text().splitlines(keepends=True)[:4]
    (project / "clients.part").write_text("".join(head))
    (project / "clients.part").rename(project / "inbox" / "clients.csv")


def test_an_outage_of_the_oauth_server_pauses_deliveries_and_is_told_with_its_beginning(
    longshore, project, samples, sandbox
):
    sandbox.fail("oauth", times=2, status=503, route="token")

    def waiting():
        [delivery] = json.loads(longshore("status", "--json", cwd=project).stdout)["deliveries"] or [{}]
        return delivery.get("state") == "waiting" and delivery["error"]

    with running(project, **ONE_TRY):
        drop(project, samples)
        told = wait_for(waiting)
        assert re.fullmatch(
            r"hospital: the token endpoint answered 503, temporarily_unavailable \(since 20[-\d]{8}T[\d:]{8}Z\)", told
        )
        assert told in longshore("status", cwd=project).stdout
        wait_for(lambda: list((project / "outbox").glob("*.manifest.json")))
    assert not list((project / "failed").iterdir())


def test_an_oauth_server_that_is_not_there_does_not_stop_the_start(project, samples, sandbox):
    with running(project, LONGSHORE_AUTH__HOSPITAL__TOKEN_URL="http://127.0.0.1:9/token", **ONE_TRY):
        drop(project, samples)
        wait_for(lambda: "delivery waits" in (project / "run.log").read_text())
    assert not list((project / "failed").iterdir())
    assert "cannot be reached" in (project / "run.log").read_text()


def test_a_hangup_makes_a_running_worker_read_its_rotated_secret(project, samples, sandbox):
    toml = (project / "longshore.toml").read_text()
    secret = re.search(r'client_secret = "(.+)"', toml)[1]
    (project / "longshore.toml").write_text(toml.replace(f'"{secret}"', '{ file = "secret" }'))
    (project / "secret").write_text("an older one")
    log = project / "run.log"
    with running(project) as process:
        (project / "secret").unlink()
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "not read anew, goes on as before what=auth.hospital" in log.read_text())
        assert "secrets read anew" not in log.read_text()
        (project / "secret").write_text(secret)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "secrets read anew" in log.read_text())
        drop(project, samples)
        wait_for(lambda: list((project / "outbox").glob("*.manifest.json")))
    assert sandbox.counts()["oauth"]["token"] == 1
