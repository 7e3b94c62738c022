"""Deliveries that are under way though the ledger does not know them, as it was lost: they are gone on with.

The ledger hears of a file before it is moved, so with a ledger that was never lost there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker import log
from worker.ledger import Ledger
from worker.triggers.endings import Folders

_CLAIMED = re.compile(r"([0-9a-f]{8})\.(.+)", re.DOTALL)
_TAKEN = re.compile(r"\.([0-9a-f]{8})\.(.+)\.claim", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A claimed file that no delivery of the ledger stands for, and how often it was begun at least."""

    id: str
    source: str
    attempts: int


def adopt(ledger: Ledger, folders: Folders) -> None:
    """Write all of them down again under their ids: what is on disk of their outcomes is kept."""
    for orphan in orphans(ledger, folders):
        ledger.adopt(orphan.id, "inbox", orphan.source, attempts=orphan.attempts)
        log.get_logger().warning("delivery found that the ledger did not know", delivery=orphan.id)


def orphans(ledger: Ledger, folders: Folders) -> list[Orphan]:
    """All of them; raises ``OSError`` where the work folder cannot be read."""
    found = {orphan.id: orphan for orphan in (*_in_the_inbox(folders.inbox), *_in_work(folders.work))}
    known = ledger.known(found)
    return [orphan for orphan in found.values() if orphan.id not in known]


def _in_work(work: Path) -> Iterator[Orphan]:
    for file in work.iterdir():
        if found := _CLAIMED.fullmatch(file.name):
            parts = (work / found[1]).glob("outcomes-*.part")
            # At least once: what a first attempt may have left in the outbox is looked for by later ones only.
            begun = max([1, *(int(part.stem.rpartition("-")[2]) for part in parts)])
            yield Orphan(found[1], found[2], begun)


def _in_the_inbox(inbox: Path) -> Iterator[Orphan]:
    with suppress(OSError):  # not mounted, or not readable now: every look at it says so, and a later start looks here
        for file in inbox.iterdir():
            if found := _TAKEN.fullmatch(file.name):
                yield Orphan(found[1], found[2], attempts=0)
