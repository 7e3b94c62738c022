"""Files that change, or are replaced, while a worker is at them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from order_server import OrderServer
from orders import check_manifest, make_project, running, wait_for, write_clients

ROWS = 200


def test_a_sender_that_goes_on_writing_into_a_claimed_file_makes_it_fail_with_that_reason(tmp_path: Path) -> None:
    with OrderServer(delay=0.05) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        with (project / "inbox" / "clients.csv").open("a") as sender, running(project) as worker:
            wait_for(lambda: len(server.orders) > 20, alive=worker)
            sender.write("99999\n")
            sender.flush()
            wait_for((project / "failed" / "clients.csv").exists, alive=worker)
        why = json.loads((project / "failed" / "clients.csv.error.json").read_text())
        assert "its content changed after it was claimed" in why["detail"]
        assert (project / "failed" / "clients.csv").read_text().endswith("99999\n")
        assert not list((project / "outbox").iterdir()), "no result mixes the two"


def test_a_file_of_the_same_name_that_comes_meanwhile_is_a_delivery_of_its_own(tmp_path: Path) -> None:
    with OrderServer(delay=0.02) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", ROWS)
        with running(project) as worker:
            wait_for(lambda: len(server.orders) > 20, alive=worker)
            write_clients(project / "next.csv", ROWS, first=ROWS)
            (project / "next.csv").rename(project / "inbox" / "clients.csv")
            wait_for(lambda: len(list((project / "archive").iterdir())) == 2, alive=worker)
        archived = [file.read_bytes() for file in (project / "archive").iterdir()]
        first_client = {hashlib.sha256(each).hexdigest(): int(each.split()[1]) for each in archived}
        for manifest in (project / "outbox").glob("*.manifest.json"):
            first = first_client.pop(json.loads(manifest.read_text())["input"]["sha256"])
            check_manifest(manifest, range(first, first + ROWS))
        assert first_client == {}
        assert len(server.orders) == len(set(server.orders.values()))
