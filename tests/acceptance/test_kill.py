"""The promise that nothing is lost and nothing done twice unnoticed, against real processes and real kills."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from order_server import OrderServer
from orders import THREADS, check_outcomes, make_project, manifest_of, running, status, wait_for, write_clients

ROWS = 2000
KILLS = 20


def test_after_twenty_kills_every_row_has_one_outcome_and_only_rows_in_flight_were_sent_again(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(tmp_path / "clients.csv", ROWS)
        (tmp_path / "clients.csv").rename(project / "inbox" / "clients.csv")
        kills = 0
        while kills < KILLS and not manifest_of(project):
            server.first_order.clear()
            with running(project) as worker:
                wait_for(lambda: server.first_order.is_set() or manifest_of(project), alive=worker)
                time.sleep(chance.uniform(0, 0.35))
                os.kill(worker.pid, signal.SIGKILL)
                kills += 1
                if kills == 1:
                    (left,) = status(project)["deliveries"]
                    assert (left["state"], left["error"].partition(";")[0]) == ("running", "its worker has died")
        with running(project) as worker:
            wait_for(lambda: manifest_of(project), alive=worker)
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        manifest = check_outcomes(project, ROWS)
        again = sum(times - 1 for times in server.times_sent.values())
        print(f"{kills} kills, {again} requests repeated, {again / kills:.1f} a kill with {THREADS} in flight")
        assert kills == KILLS
        assert manifest["attempts"] == KILLS + 1
        assert len(server.orders) == manifest["results"], "one key a row, the same at every attempt"
        # In flight: sent, or answered less than a tick of the pool ago.
        assert again <= KILLS * THREADS * 2


def test_sigterm_finishes_the_rows_in_flight_and_the_next_start_does_the_rest_without_repeating_any(
    tmp_path: Path,
) -> None:
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 600)
        with running(project) as worker:
            wait_for(lambda: len(server.orders) > 100, alive=worker)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=20) == 0
        assert not manifest_of(project)
        assert not list((project / "failed").iterdir())
        with running(project) as worker:
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
        check_outcomes(project, 600)
        assert set(server.times_sent.values()) == {1}


@pytest.mark.parametrize("way", ["rename", "copy"])
def test_a_file_dropped_into_a_running_worker_comes_out_as_results(tmp_path: Path, way: str) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        with running(project) as worker:
            wait_for((project / "inbox").exists, alive=worker)
            write_clients(tmp_path / "clients.csv", 60)
            if way == "rename":
                (tmp_path / "clients.csv").rename(project / "inbox" / "clients.csv")
            else:
                write_clients(project / "inbox" / "clients.csv", 60)
            wait_for(lambda: (project / "archive" / "clients.csv").exists(), alive=worker)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=20) == 0
        check_outcomes(project, 60)
