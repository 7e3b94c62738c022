"""What the pieces of a row and of a call cost, each by itself on one thread: microseconds of CPU, best of some rounds.

.venv/bin/python benchmarks/pieces.py

With many threads each piece costs more, as they take turns at Python's lock: running.py and calls.py have the sums.
"""

from __future__ import annotations

import gc
import itertools
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rows import write_rows

from worker import tables
from worker.auth.credentials import FixedCredential
from worker.backends import open_backend
from worker.backends.answers import plain_json
from worker.backends.calls import Call
from worker.backends.http1 import read_answer, request_bytes
from worker.backends.limits import Limits
from worker.backends.lookups import Lookups
from worker.backends.prepare import prepare
from worker.config import RestSettings
from worker.context import DeliveryContext
from worker.declare import job
from worker.execution import Execution
from worker.outputs.outbox import Outbox
from worker.records import Delivery, Input, Meter, Outcome, Reading, Row, RowKey

ROWS = 10_000
ROUNDS = 5
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 52\r\n\r\n" + (
    b'{"client_id":"0000001","name":"basic","active":true}'
)
PRACTITIONER = {"resourceType": "Practitioner", "id": "p1", "name": [{"family": "Bergstrom287", "given": ["Randy380"]}]}


@job(files="*.csv")
def echo(row: Row, _ctx: object) -> dict[str, str]:
    """No calls."""
    return {"client_id": row["client_id"], "plan": "basic", "practitioner": row["practitioner_id"]}


def cost(work: Callable[[], object], times: int) -> float:
    """Microseconds of one of so many that a round of ``work`` does."""
    found = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        work()
        found.append(time.thread_time() - begun)
    return min(found) / times * 1e6


def each(work: Callable[[], object]) -> float:
    """Microseconds of one."""
    return cost(lambda: [work() for _ in range(ROWS)], ROWS)


def delivery(folder: Path, source: Path) -> Delivery:
    """One that nobody else knows of."""
    folder.mkdir(parents=True)
    given = Input(source.name, "d" * 64, source.stat().st_size)

    def nothing(*_: object) -> None:
        pass

    return Delivery(
        "3f9a1c2b", "inbox", source.name, given, folder, 1, datetime.now(UTC), lambda _: iter(()), nothing, nothing
    )


def row_pieces(folder: Path) -> dict[str, float]:
    """From the file to the outbox."""
    source = write_rows(folder / "rows.csv", ROWS, 2000)
    made = delivery(folder / "work", source)
    execution = Execution(echo, DeliveryContext(made, {}, lambda _: {}, threading.Event))
    rows = [row for chunk in tables.read(source, Reading()) for row in chunk.rows]
    outcomes = [execution.row(row) for row in rows]
    (folder / "outbox").mkdir()
    outbox = Outbox(folder / "outbox", chunk_rows=1000)

    batches: list[list[Outcome]] = [outcomes[at : at + 200] for at in range(0, ROWS, 200)]
    attempts = itertools.count()

    def write() -> None:
        with outbox.open(delivery(folder / f"work-{next(attempts)}", source), echo) as part:
            for batch in batches:
                part.append(batch)

    return {
        "read from CSV": cost(lambda: list(tables.read(source, Reading())), ROWS),
        "run the job, keep its result as JSON": cost(lambda: [execution.row(row) for row in rows], ROWS),
        "journal, and write to the outbox": cost(write, ROWS),
    }


def call_pieces() -> dict[str, float]:
    """From ``ctx.rest[name].get`` to the wire and back; what the kernel does is not among them."""
    credential = FixedCredential("fixed", "bearer token", "Authorization", lambda: "Bearer benchmark")
    billing = open_backend("billing", RestSettings(url="http://127.0.0.1:1/api"), credential, threads=64)
    call, stop, meter = Call("GET", "/plans", {"client_id": "0000001"}), threading.Event(), Meter()
    url = "http://127.0.0.1:1/api/plans"
    request = prepare(call, url)
    limits = Limits("billing", 64, None, threads=64, clock=time.monotonic, sleep=threading.Event.wait)
    ticket = credential.ticket(meter, "http://127.0.0.1:1")
    answer, _ = read_answer(request, lambda: ANSWER, 1000)
    session = billing.open(meter, stop)

    def turn() -> None:
        with limits.turn(stop, meter):
            pass

    return {
        "find the backend": each(lambda: session.at(RowKey("d" * 64, 1))),
        "limits and breaker": each(turn),
        "make the request": each(lambda: prepare(call, url)),
        "sign it": each(lambda: ticket(request)),
        "write it as bytes": each(lambda: request_bytes(request)),
        "read the answer": each(lambda: read_answer(request, lambda: ANSWER, 1000)),
        "parse its JSON": each(lambda: plain_json("billing", answer)),
    }


def lookup_pieces() -> dict[str, float]:
    """A FHIR read of what the delivery remembers."""
    lookups = Lookups(lambda _type, ids: dict.fromkeys(ids, PRACTITIONER))
    lookups.read_one("Practitioner", "p1")
    return {"a FHIR read that is remembered": each(lambda: lookups.read_one("Practitioner", "p1"))}


def show(title: str, pieces: dict[str, float]) -> None:
    """A table."""
    print(f"\n{title}\n")
    for name, microseconds in pieces.items():
        print(f"{name:>38} {microseconds:>8.1f} us")
    if len(pieces) > 1:
        print(f"{'together':>38} {sum(pieces.values()):>8.1f} us")


def main() -> None:
    """Print the tables."""
    gc.set_threshold(50_000, 20, 20)  # as the worker does
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as name:
        show("A row without calls", row_pieces(Path(name)))
    show("A call, without the kernel's part", call_pieces())
    show("A lookup", lookup_pieces())


if __name__ == "__main__":
    main()
