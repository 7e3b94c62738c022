"""The system calls of a program, as strace sees them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest

SUCCESS = re.compile(r"\) += \d+$")


class Call(NamedTuple):
    """A system call that succeeded, as text, between those lines of the log."""

    text: str
    begun: int
    ended: int


def traced(program: Sequence[object], calls: str, log: Path, *, texts: int = 500) -> list[Call]:
    """What a program and its threads call, as it begins; of texts, so many bytes."""
    strace = shutil.which("strace")
    if not strace:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")
    how = ["-f", "-y", "-s", str(texts), "-e", f"trace={calls}", "-o", str(log)]
    run = subprocess.run([strace, *how, *map(str, program)], capture_output=True, text=True)
    found = sorted(read(log.read_text(errors="replace").splitlines()), key=attrgetter("begun"))
    if "PTRACE" in run.stderr and not found:
        pytest.skip(f"strace may not trace here: {run.stderr.strip()[:100]}")
    return found


def read(lines: Iterable[str]) -> Iterator[Call]:
    """What another thread's call comes between is told in two lines: where it begins, and where it is resumed."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        thread, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            begun[thread] = number, call
            continue
        since, call = begun.pop(thread) if call.startswith("<... ") else (number, call)
        if SUCCESS.search(line):
            yield Call(call, since, number)
