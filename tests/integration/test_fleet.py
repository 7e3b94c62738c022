"""A fleet behaves as one: several machines on one PostgreSQL and one inbox, and what becomes of them in an outage."""

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from acceptance.order_server import OrderServer
from fleet import LEASE_SECONDS, SECONDS, THREADS, Fleet, stop, wait_for

from worker.sandbox import Sandbox

OUTAGE_SECONDS = 2 * LEASE_SECONDS


@pytest.fixture
def sandbox():
    with Sandbox() as servers:
        yield servers


@pytest.fixture
def fleet(tmp_path, postgresql_server, sandbox):
    with OrderServer(delay=0.05) as orders:
        fleet = Fleet(tmp_path / "project", postgresql_server.new_database(), sandbox, orders)
        yield fleet
    for log in fleet.folder.glob("*.log"):
        assert postgresql_server.password not in log.read_text()


def command(fleet, *arguments):
    whole = [sys.executable, "-m", "worker", "--config", fleet.folder / "longshore.toml", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize("size", [2, 3])
def test_each_file_is_worked_off_once_with_one_token_for_all(fleet, sandbox, size):
    machines = [f"machine{number}" for number in range(size)]
    with ExitStack() as stack:
        workers = [stack.enter_context(fleet.worker(machine)) for machine in machines]
        fleet.drop(files=8 * size, rows=20)
        wait_for(lambda: fleet.over, *workers)
        assert [stop(worker) for worker in workers] == [0] * size
    manifests = fleet.check()
    assert set(fleet.orders.times_sent.values()) == {1}
    assert sum(manifest["token_requests"] for manifest in manifests.values()) == 1
    assert sandbox.counts()["oauth"]["token"] == 1
    attempts = [attempt for each in fleet.attempts().values() for attempt in each]
    assert len(attempts) == len(fleet.files)
    assert {attempt.owner.split(".")[0] for attempt in attempts} == set(machines)


def test_what_a_dead_machine_left_is_taken_over_when_its_lease_ends(fleet):
    with fleet.worker("lost") as lost, fleet.worker("heir") as heir:
        heir.send_signal(signal.SIGSTOP)  # it takes nothing, yet need not be started while the other one works
        fleet.drop(files=1, rows=300)
        wait_for(lambda: len(fleet.orders.orders) > 60, lost)
        lost.kill()
        lost.wait()
        lease_until = fleet.entries()["clients-000.csv"].lease_until
        heir.send_signal(signal.SIGCONT)
        wait_for(lambda: fleet.over, heir)
        assert stop(heir) == 0
    (manifest,) = fleet.check().values()
    assert manifest["attempts"] == 2
    first, second = fleet.attempts()["clients-000.csv"]
    assert (first.owner.split(".")[0], second.owner.split(".")[0]) == ("lost", "heir")
    assert second.started > lease_until
    assert sum(times - 1 for times in fleet.orders.times_sent.values()) <= 2 * THREADS, "only what was in flight"
    assert len(fleet.orders.orders) == manifest["results"]


def test_connections_that_are_cut_again_and_again_cost_nothing(fleet, postgresql_server):
    with fleet.worker("one") as one, fleet.worker("other") as other:
        fleet.drop(files=6, rows=100)
        cut = 0
        while not fleet.over:
            cut += postgresql_server.cut_connections()
            time.sleep(0.25)
            wait_for(lambda: True, one, other)
        assert [stop(one), stop(other)] == [0, 0]
    assert cut > 10
    fleet.check()
    assert set(fleet.orders.times_sent.values()) == {1}


def test_an_outage_longer_than_a_lease_pauses_the_fleet_and_nobody_is_robbed(fleet, postgresql_server):
    with fleet.worker("one") as one, fleet.worker("other") as other:
        fleet.drop(files=1, rows=700)
        wait_for(lambda: len(fleet.orders.orders) > 20, one, other)
        postgresql_server.stop()
        before = len(fleet.orders.orders)
        fleet.drop(files=4, rows=20)
        time.sleep(OUTAGE_SECONDS)
        postgresql_server.start()
        assert len(fleet.orders.orders) > before + 100, "rows under way need no ledger"
        assert not list((fleet.folder / "outbox").glob("*.manifest.json")), "they are still under way"
        wait_for(lambda: fleet.over, one, other)
        assert [stop(one), stop(other)] == [0, 0]
    manifests = fleet.check()
    assert [manifest["attempts"] for manifest in manifests.values()] == [1] * 5
    assert set(fleet.orders.times_sent.values()) == {1}


def test_what_ends_during_an_outage_is_settled_after_it(fleet, postgresql_server):
    with fleet.worker("one") as one:
        fleet.drop(files=1, rows=100)
        wait_for(lambda: len(fleet.orders.orders) > 20, one)
        postgresql_server.stop()
        wait_for(lambda: "delivery not settled" in fleet.log("one"), one)
        postgresql_server.start()
        wait_for(lambda: fleet.over, one)
        assert stop(one) == 0
    fleet.check()
    assert set(fleet.orders.times_sent.values()) == {1}


def test_a_worker_can_be_stopped_during_an_outage_and_the_next_start_goes_on(fleet, postgresql_server):
    with fleet.worker("one") as one:
        fleet.drop(files=1, rows=300)
        wait_for(lambda: len(fleet.orders.orders) > 20, one)
        postgresql_server.stop()
        try:
            assert stop(one) == 0
        finally:
            postgresql_server.start()
    with fleet.worker("one") as one:
        wait_for(lambda: fleet.over, one)
        assert stop(one) == 0
    fleet.check()
    assert set(fleet.orders.times_sent.values()) == {1}


@pytest.mark.parametrize("arguments", [["run"], ["status", "--json"], ["check", "--json"], ["process", __file__]])
def test_a_server_that_is_down_at_the_start_is_a_mistake_with_its_reason(fleet, postgresql_server, arguments):
    postgresql_server.stop()
    try:
        done = command(fleet, *arguments)
    finally:
        postgresql_server.start()
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert f"postgresql+psycopg://longshore:***@127.0.0.1:{postgresql_server.port}/" in said
    assert "the ledger cannot be opened" in said
    assert "Connection refused" in said
    assert "Traceback" not in said
    assert postgresql_server.password not in said


def test_check_and_status_speak_with_the_server_and_never_of_its_password(fleet, postgresql_server):
    with fleet.worker("one") as one:
        fleet.drop(files=1, rows=20)
        wait_for(lambda: fleet.over, one)
        checked, status = command(fleet, "check", "--json"), command(fleet, "status", "--json")
    (ledger,) = [check for check in json.loads(checked.stdout)["checks"] if check["what"] == "ledger"]
    assert ledger["ok"]
    (line,) = json.loads(status.stdout)["deliveries"]
    assert (line["source"], line["state"], line["rows_done"]) == ("clients-000.csv", "done", 20)
    assert postgresql_server.password not in checked.stdout + checked.stderr + status.stdout + status.stderr
