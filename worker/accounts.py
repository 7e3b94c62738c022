"""What is known of a delivery, for people and programs: its manifest, or what the ledger says of its failure."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker import exact_json
from worker.records import Entry


def account(entry: Entry, outbox: Path) -> dict[str, Any]:
    """The manifest of a done delivery; of any other, what became of it up to now and why."""
    if entry.state == "done" and (manifest := manifest_of(entry, outbox)):
        return manifest
    return line(entry)


def line(entry: Entry) -> dict[str, Any]:
    """A delivery's line in the status; ``error`` is a sentence, empty where all is well."""
    return {
        "delivery": entry.id,
        "job": entry.job,
        "trigger": entry.trigger,
        "source": entry.source,
        "state": entry.state,
        "rows_done": entry.rows_done,
        "attempts": entry.attempts,
        "error": entry.detail or entry.error,
    }


def manifest_of(entry: Entry, outbox: Path) -> dict[str, Any] | None:
    """The manifest, as long as it lies in the outbox."""
    for file in outbox.glob(f"*-{entry.id}.manifest.json"):
        found: dict[str, Any] = exact_json.loads(file.read_bytes())
        return found
    return None


def moment(seconds: float | None) -> str:
    """A time of the ledger for a person."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else ""
