"""Whether what lies in the outbox is still what its manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worker import exact_json

COUNTS = ("results", "rejected", "skipped")


def differences(manifest: Path) -> Iterator[str]:
    """Each difference as a sentence; raises ``OSError`` if the manifest itself cannot be read."""
    try:
        says: dict[str, Any] = exact_json.loads(manifest.read_bytes())
        counted, outputs = sum(says[name] for name in COUNTS), says["outputs"]
        if says["rows_in"] != counted:
            yield f"rows_in is {says['rows_in']}, but results, rejected and skipped come to {counted}"
        for output in outputs:
            yield from _output_differences(manifest.with_name(output["name"]), output)
    except (ValueError, KeyError, TypeError):
        yield "it is not a manifest of Longshore"


def _output_differences(file: Path, says: Mapping[str, Any]) -> Iterator[str]:
    if not file.is_file():
        yield f"{file.name} is missing"
        return
    if (size := file.stat().st_size) != says["bytes"]:
        yield f"{file.name} has {size} bytes, not {says['bytes']}"
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != says["sha256"]:
            yield f"{file.name} has another SHA-256"
    if (rows := _count(file)) != says["rows"]:
        yield f"{file.name} has {rows} records, not {says['rows']}"


def _count(file: Path) -> int:
    """The records; those of CSV end where a line does and no quote is open, however long their fields are."""
    records, quoted = 0, False
    with file.open(encoding="utf-8", errors="replace", newline="\n") as text:
        if file.suffix == ".ndjson":
            return sum(1 for _ in text)
        for line in text:
            quoted ^= line.count('"') % 2 == 1
            records += not quoted
    return max(0, records - 1)
