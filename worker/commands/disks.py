"""Whether the disks that a worker writes on take anything: a ledger on a full one cannot say so itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.config import Settings
from worker.files import disk_fault


def faults(settings: Settings) -> list[dict[str, Any]]:
    """The disks that take nothing, as this process sees them: the ``folders`` on them, and the ``reason``."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for folder in _folders(settings):
        if fault := disk_fault(folder):
            found[fault].append(str(folder))
    return [{"folders": folders, "reason": reason} for reason, folders in found.items()]


def _folders(settings: Settings) -> Iterator[Path]:
    if settings.ledger_file:
        yield settings.ledger_file.parent
    worker = settings.worker
    yield from (settings.work, worker.inbox, worker.outbox, worker.archive, worker.failed)
