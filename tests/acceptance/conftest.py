"""The installed command as a subprocess, in a project that talks to a sandbox of its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.commands.scaffold import EXAMPLES
from worker.sandbox import Sandbox

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as servers:
        yield servers


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox) -> Path:
    """A project's folder, with the example jobs."""
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLES / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "longshore.toml").write_text(f"[worker]\nsettle_seconds = 0.1\n\n{sandbox.settings_toml()}")
    return folder


@pytest.fixture
def samples() -> Path:
    return EXAMPLES / "sample_inbox"


@pytest.fixture
def longshore(tmp_path: Path) -> Command:
    """Runs the command, in ``cwd`` or an empty folder, to its end."""

    def call(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "worker", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)

    return call
