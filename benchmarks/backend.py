"""The backend of the benchmarks, in a process of its own: backend.go, built where Go is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longshore-benchmarks"


def built(source: Path) -> Path:
    """The program of a Go file, built anew where the file is newer."""
    program = CACHE / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        if not (go := shutil.which("go")):
            raise SystemExit("the benchmarks' backend is written in Go: install it (Debian: golang-go), then try again")
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([go, "build", "-o", program, source], check=True)
    return program


@contextmanager
def backend(latency: float) -> Iterator[str]:
    """Its URL; every answer comes after so many seconds."""
    command = [built(HERE / "backend.go"), str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def requests_since(url: str) -> int:
    """How many requests it has answered since it was last asked this."""
    with urlopen(f"{url}/requests") as answer:
        return int(answer.read())
