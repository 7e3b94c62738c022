"""What the folders tell: a ledger on a full disk cannot, and knows nothing of what still lies in the inbox."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from worker.commands.accounts import moment
from worker.config import Settings
from worker.files import disk_fault


def full_disks(settings: Settings) -> list[dict[str, Any]]:
    """The disks that take nothing, as this process sees them: the ``folders`` on them, and the ``reason``."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for folder in _written_to(settings):
        if fault := disk_fault(folder):
            found[fault].append(str(folder))
    return [{"folders": folders, "reason": reason} for reason, folders in found.items()]


def _written_to(settings: Settings) -> Iterator[Path]:
    if settings.ledger_file:
        yield settings.ledger_file.parent
    worker = settings.worker
    yield from (settings.work, worker.inbox, worker.outbox, worker.archive, worker.failed)


def in_the_inbox(inbox: Path) -> dict[str, Any]:
    """How many ``files`` lie there, hidden ones aside, and ``since`` when the first of them does.

    Raises ``OSError`` if nobody can look into it.
    """
    times = []
    with os.scandir(inbox) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and not entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # a worker has just taken it
                    times.append(entry.stat(follow_symlinks=False).st_ctime)  # when it got its name, or its last byte
    return {"files": len(times), "since": moment(min(times, default=None))}
