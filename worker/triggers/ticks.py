"""Ticks become deliveries: the job's source is asked for rows, which are on disk before the first of them is run."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from worker import exact_json, files, log
from worker.errors import DeliveryError, Paused
from worker.ledger import Ledger
from worker.records import EXPORTS, Chunk, Delivery, Entry, Input, Reading
from worker.sockets import Opening
from worker.spill import Spill
from worker.triggers.claims import faults
from worker.triggers.endings import by, reason, told
from worker.triggers.settlement import Settlement

TRIGGERS = ("schedule",)


class Ticks:
    """The beginning of a tick's story; ``settlement`` is its end, and ``work`` has a folder for each."""

    def __init__(self, ledger: Ledger, work: Path, settlement: Settlement, *, gone: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._work = work
        self._settlement = settlement
        self._gone = gone
        self._log = log.get_logger()

    def due(self, limit: int) -> list[Opening]:
        """Ticks to run or go on with: made just now, waited long enough, or left behind by a dead or silent worker."""
        return [partial(self.open, entry) for entry in self._ledger.take(self._gone, triggers=TRIGGERS, limit=limit)]

    def open(self, entry: Entry) -> Delivery | None:
        """The delivery, ready to run; None if only its end was left to be finished, or it cannot be opened now."""
        with log.bound(delivery=entry.id), self._ledger.in_hand(entry.id):
            try:
                if entry.state in ("done", "failed"):
                    self._settlement.put_away(entry)
                    return None
                return self._open(entry)
            except (Paused, OSError) as error:
                self._settlement.put_back(entry, error)
                return None

    def _open(self, entry: Entry) -> Delivery:
        folder = self._work / entry.id
        files.durable_folder(folder)
        entry = self._ledger.begin(entry, sha256=entry.sha256, size=entry.bytes)
        self._log.info("delivery taken", source=entry.source, attempt=entry.attempts)
        spill = Spill(folder / "rows.jsonl")
        seal = spill.seal()
        delivery = Delivery(
            id=entry.id,
            trigger=entry.trigger,
            source=entry.source,
            input=Input(entry.source, seal.sha256 if seal else "", seal.bytes if seal else 0),
            folder=folder,
            attempts=entry.attempts,
            started=entry.started or entry.created,
            read=lambda reading: self._read(delivery, spill, entry.sha256, reading),
            guard=partial(self._ledger.guard, entry),
            settle=lambda error: self._settlement.settle(entry, delivery, error),
            job=entry.job,
            faults=faults(self._ledger.attempts(entry.id)) if entry.attempts > 1 else 0,
            state=dict(seal.state) if seal else {},
            # Not of the rows: those of another tick may be the same, and its calls have to be other ones.
            key=hashlib.sha256(f"{entry.id} {entry.source}".encode()).hexdigest(),
            columns=seal.columns if seal else (),
            question=seal.question if seal else 0,
        )
        return delivery

    def _read(self, delivery: Delivery, spill: Spill, sha256: str, reading: Reading) -> Iterator[Chunk]:
        """The tick's rows; its source is asked for them if it was not yet. ``sha256``: what they were, if known."""
        found = delivery.input.sha256
        if (sha256 and found != sha256) or (spill.is_there and not found):
            raise DeliveryError(f"its rows in {delivery.folder} are not those it began with; the next tick asks anew")
        if not found:
            self._ask(delivery, spill, reading)
        yield from spill.read(reading.chunk_rows)

    def _ask(self, delivery: Delivery, spill: Spill, reading: Reading) -> None:
        if reading.source is None:
            raise DeliveryError(f"no job {delivery.job} with a source is left; restore it, then: longshore retry")
        for failed in self._ledger.schedules.failed(delivery.job):  # whose question this one asks, too, and more
            self._forget_exports(failed)
        delivery.question = question = self._ledger.state.ask(delivery.job)
        attempt, guard = delivery.attempts, delivery.guard
        spill.write(reading.source(), delivery.state, question=question, attempt=attempt, guard=guard)
        self._forget_exports(delivery.id)
        if seal := spill.seal():
            delivery.input = Input(delivery.source, seal.sha256, seal.bytes)
            delivery.columns = seal.columns

    def _forget_exports(self, delivery: str) -> None:
        """They are large, and full of records: only rows that are still to be asked for need them."""
        shutil.rmtree(self._work / delivery / EXPORTS, ignore_errors=True)


class TickEnding:
    """Where a tick ends: nothing but the reason of a failure is left, in ``failed``."""

    def __init__(self, failed: Path, work: Path) -> None:
        self._failed = failed
        self._work = work

    def put_away(self, entry: Entry, guard: Callable[[], None]) -> Path | None:
        """Say why it failed, once; returns the folder to remove. A failed tick keeps its rows for a retry."""
        if entry.state != "failed":
            return self._work / entry.id
        place = self._reason(entry)
        if told(place) is None:
            guard()
            files.write(place, exact_json.dumps(reason(entry)) + b"\n", by(entry))
        return None

    def bring_back(self, entry: Entry) -> bool:
        """Undo it."""
        self._reason(entry).unlink(missing_ok=True)
        return True

    def _reason(self, entry: Entry) -> Path:
        place = self._failed / f"{entry.source}.error.json"
        mine = told(place) in (None, entry.id)
        return place if mine else self._failed / f"{entry.source}-{entry.id}.error.json"
