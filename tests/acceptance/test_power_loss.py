"""What a power cut cannot take away: the order of the system calls on a delivery's way, as strace sees them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest
from order_server import OrderServer
from orders import make_project, write_clients

CALLS = "fsync,fdatasync,rename,renameat,renameat2,link,linkat"
SYNC = re.compile(r"f(?:data)?sync\(\d+<([^>]+)>")
NAMED = re.compile(r'(?:rename|link)\w*\((?:AT_FDCWD[^,]*, )?"[^"]+", (?:AT_FDCWD[^,]*, )?"([^"]+)"')


class Event(NamedTuple):
    """An fsync (``sync``) of a path, or a rename or link (``name``) to it, between those lines of the log."""

    what: str
    path: str
    begun: int
    ended: int


def traced(project: Path) -> list[Event]:
    """Everything of the kind that succeeded below the project, as it began."""
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
    return sorted(read(log.read_text().splitlines(), project), key=attrgetter("begun"))


def read(lines: list[str], project: Path) -> Iterator[Event]:
    """What another thread's call comes between is told in two lines: where it begins, and where it is resumed."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        thread, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            begun[thread] = number, call
            continue
        since, call = begun.pop(thread) if call.startswith("<... ") else (number, call)
        if line.rstrip().endswith("= 0"):
            if found := SYNC.match(call):
                yield Event("sync", found[1].removeprefix(f"{project}/"), since, number)
            elif found := NAMED.match(call):
                yield Event("name", found[1].removeprefix(f"{project}/"), since, number)


def test_a_call_that_is_not_finished_has_done_nothing_yet() -> None:
    lines = [
        "11 fsync(5</p/outbox/a> <unfinished ...>",
        '12 rename("/p/inbox/b", "/p/work/b") = 0',
        '13 link("/p/x", "/p/archive/x" <unfinished ...>',
        "11 <... fsync resumed>)              = 0",
        "13 <... link resumed>)               = -1 EEXIST (File exists)",
        "11 +++ exited with 0 +++",
    ]
    assert list(read(lines, Path("/p"))) == [Event("name", "work/b", 1, 1), Event("sync", "outbox/a", 0, 3)]


def test_everything_is_on_disk_before_anything_says_so(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 60)
        events = traced(project)

    def first(what: str, pattern: str, after: Event | None = None) -> Event:
        """The first such event that begins after another one has ended."""
        for event in events:
            if event.what == what and re.fullmatch(pattern, event.path) and (not after or event.begun > after.ended):
                return event
        raise AssertionError(f"no {what} of {pattern} after {after or 'the start'}: {events}")

    ledger = r"\.longshore/state\.db(-wal)?"
    announced = first("sync", ledger)
    claimed = first("name", r"\.longshore/work/\w{8}\.clients\.csv", announced)
    assert first("sync", r"\.longshore").ended < claimed.begun, "the work folder's own name"
    claim_durable = first("sync", r"\.longshore/work", claimed)
    outcomes = first("sync", r"\.longshore/work/\w{8}/outcomes-1\.part", claim_durable)
    named = first("sync", r"\.longshore/work/\w{8}", outcomes)
    folder_named = first("sync", r"\.longshore/work", named)
    results = first("name", r"outbox/clients-\w{8}\.csv", folder_named)
    assert first("sync", r"outbox/\.clients-\w{8}\.csv\.1\.part").ended < results.begun
    results_named = first("sync", "outbox", results)
    manifest = first("name", r"outbox/clients-\w{8}\.manifest\.json", results_named)
    assert first("sync", r"outbox/\.clients-\w{8}\.manifest\.json\.1\.part").ended < manifest.begun
    manifest_named = first("sync", "outbox", manifest)
    done = first("sync", ledger, manifest_named)
    archived = first("name", r"archive/clients\.csv", done)
    first("sync", "archive", archived)
