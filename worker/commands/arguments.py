"""What the commands share: their options, and what they read first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

if TYPE_CHECKING:
    from worker.config import Settings
    from worker.project import Project

FAILED, MISUSED = 1, 2

CONFIG, JSON = "The project's longshore.toml.", "Write JSON, for programs."


def _or_before(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """The option may stand after the command, or before it."""
    return value or context.find_root().params.get(str(parameter.name))


Config = Annotated[Path | None, typer.Option("--config", metavar="PATH", callback=_or_before, help=CONFIG)]
Json = Annotated[bool, typer.Option("--json", callback=_or_before, help=JSON)]
DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="A delivery's id, or the beginning of it.")]


def load_project(config: Path | None) -> Project:
    """Settings and jobs; raises ``ConfigError``."""
    from worker.project import Project

    return Project.load(config)


def prints_aside() -> redirect_stdout[TextIO]:
    """What jobs print goes to standard error meanwhile, as a program may read the results."""
    return redirect_stdout(sys.stderr)


def load_settings(config: Path | None) -> Settings:
    """The settings alone; raises ``ConfigError``."""
    from worker.config import load

    return load(config)


def load_worker(config: Path | None) -> Settings:
    """What ``[worker]`` says alone; raises ``ConfigError``."""
    from worker.config import load_worker

    return load_worker(config)


def check_name(given: str, name: str, known: Iterable[str]) -> None:
    """Exit, with the nearest one, if there is no such name; ``given`` is where it was written."""
    from worker.config import nearest

    names = list(known)
    if name not in names:
        misused(f"{given} {name}: there is no such name{nearest(name, names)}")


def check_files(files: Iterable[Path]) -> None:
    """Exit if any of them is no file that can be read."""
    for file in files:
        if not file.is_file():
            misused(f"{file}: {'is no regular file' if file.exists() else 'there is no such file'}")
        if not os.access(file, os.R_OK):
            misused(f"{file}: cannot be read; give this user the permission")


def misused(what: str) -> NoReturn:
    """Say what is wrong with the arguments, and exit."""
    from worker.commands import screens

    screens.complain(what)
    raise typer.Exit(MISUSED)


def short(path: Path) -> str:
    """A path as one would write it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
