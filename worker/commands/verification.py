"""Whether what lies in the outbox is still what its manifest says."""

from __future__ import annotations

import csv
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
    with file.open(encoding="utf-8", errors="replace", newline="") as text:
        if file.suffix == ".ndjson":
            return sum(1 for _ in text)
        return max(0, sum(1 for _ in csv.reader(text)) - 1)
