"""What a power cut cannot take away: the order of the system calls on a delivery's way, as strace sees them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from order_server import OrderServer
from orders import make_project, write_clients

CALLS = "fsync,fdatasync,rename,renameat,renameat2,link,linkat"
SYNC = re.compile(r"\bf(?:data)?sync\(\d+<([^>]+)>")
NAMED = re.compile(r'\b(?:rename|link)\w*\((?:AT_FDCWD[^,]*, )?"([^"]+)", (?:AT_FDCWD[^,]*, )?"([^"]+)"')


def traced(project: Path) -> list[tuple[str, str, str]]:
    """(what, from, to) of every fsync and every rename or link that succeeded, in order, below the project."""
    strace = shutil.which("strace")
    if not strace:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")
    log = project.parent / "strace.log"
    program = [sys.executable, "-m", "worker", "--config", str(project / "longshore.toml"), "run", "--once"]
    run = subprocess.run(
        [strace, "-f", "-y", "-s", "500", "-e", f"trace={CALLS}", "-o", str(log), *program],
        capture_output=True,
        text=True,
    )
    if "PTRACE" in run.stderr and not (project / "archive").exists():
        pytest.skip(f"strace may not trace here: {run.stderr.strip()[:100]}")
    events = []
    for line in log.read_text().splitlines():
        if line.rstrip().endswith("= 0") or "resumed" in line or "unfinished" in line:
            if found := SYNC.search(line):
                events.append(("sync", "", found[1].removeprefix(f"{project}/")))
            elif found := NAMED.search(line):
                events.append(("name", *(each.removeprefix(f"{project}/") for each in found.groups())))
    return events


def test_everything_is_on_disk_before_anything_says_so(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 60)
        events = traced(project)

    def first(what: str, pattern: str, after: int = -1) -> int:
        """Where such an event comes first after another one."""
        for at in range(after + 1, len(events)):
            if events[at][0] == what and re.fullmatch(pattern, events[at][2]):
                return at
        raise AssertionError(f"no {what} of {pattern} after {events[after] if after >= 0 else 'the start'}: {events}")

    ledger = r"\.longshore/state\.db(-wal)?"
    announced = first("sync", ledger)
    claimed = first("name", r"\.longshore/work/\w{8}\.clients\.csv", announced)
    assert first("sync", r"\.longshore") < claimed, "the work folder's own name"
    claim_durable = first("sync", r"\.longshore/work", claimed)
    outcomes = first("sync", r"\.longshore/work/\w{8}/outcomes-1\.part", claim_durable)
    named = first("sync", r"\.longshore/work/\w{8}", outcomes)
    folder_named = first("sync", r"\.longshore/work", named)
    results = first("name", r"outbox/clients-\w{8}\.csv", folder_named)
    assert first("sync", r"outbox/\.clients-\w{8}\.csv\.1\.part") < results
    results_named = first("sync", "outbox", results)
    manifest = first("name", r"outbox/clients-\w{8}\.manifest\.json", results_named)
    assert first("sync", r"outbox/\.clients-\w{8}\.manifest\.json\.1\.part") < manifest
    manifest_named = first("sync", "outbox", manifest)
    done = first("sync", ledger, manifest_named)
    archived = first("name", r"archive/clients\.csv", done)
    first("sync", "archive", archived)
