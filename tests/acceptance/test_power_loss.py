"""What a power cut cannot take away: the order of the system calls on a delivery's way, as strace sees them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from order_server import OrderServer
from orders import make_project, write_clients
from tracing import Call, read, traced

CALLS = "fsync,fdatasync,rename,renameat,renameat2,link,linkat"
SYNC = re.compile(r"f(?:data)?sync\(\d+<([^>]+)>")
NAMED = re.compile(r'(?:rename|link)\w*\((?:AT_FDCWD[^,]*, )?"[^"]+", (?:AT_FDCWD[^,]*, )?"([^"]+)"')


class Event(NamedTuple):
    """An fsync (``sync``) of a path, or a rename or link (``name``) to it, between those lines of the log."""

    what: str
    path: str
    begun: int
    ended: int


def events_of(calls: Iterable[Call], project: Path) -> Iterator[Event]:
    """What is of the kind, below the project."""
    for text, begun, ended in calls:
        if found := SYNC.match(text):
            yield Event("sync", found[1].removeprefix(f"{project}/"), begun, ended)
        elif found := NAMED.match(text):
            yield Event("name", found[1].removeprefix(f"{project}/"), begun, ended)


def test_a_call_that_is_not_finished_has_done_nothing_yet() -> None:
    lines = [
        "11 fsync(5</p/outbox/a> <unfinished ...>",
        '12 rename("/p/inbox/b", "/p/work/b") = 0',
        '13 link("/p/x", "/p/archive/x" <unfinished ...>',
        "11 <... fsync resumed>)              = 0",
        "13 <... link resumed>)               = -1 EEXIST (File exists)",
        "11 +++ exited with 0 +++",
    ]
    assert list(events_of(read(lines), Path("/p"))) == [Event("name", "work/b", 1, 1), Event("sync", "outbox/a", 0, 3)]


def test_everything_is_on_disk_before_anything_says_so(tmp_path: Path) -> None:
    with OrderServer(delay=0) as server:
        project = make_project(tmp_path / "project", server.url)
        (project / "inbox").mkdir()
        write_clients(project / "inbox" / "clients.csv", 60)
        program = [sys.executable, "-m", "worker", "--config", project / "longshore.toml", "run", "--once"]
        events = list(events_of(traced(program, CALLS, tmp_path / "strace.log"), project))

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
