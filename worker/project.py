"""A folder of the user's: its settings and its jobs, where its files are, and how its deliveries end."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from worker import config, jobs
from worker.config import Settings
from worker.errors import ConfigError, Problem
from worker.jobs import Jobs
from worker.ledger import Ledger
from worker.triggers.endings import FileEnding, Folders
from worker.triggers.settlement import Settlement
from worker.triggers.ticks import TickEnding


@dataclass(frozen=True, slots=True)
class Project:
    """Its settings and its jobs."""

    settings: Settings
    jobs: Jobs

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read both; raises ``ConfigError`` with the mistakes of both."""
        problems: list[Problem] = []
        try:
            settings = config.load(path)
        except ConfigError as error:
            problems += error.problems
            folder = (path or Path("longshore.toml")).resolve().parent / "jobs"
            overrides = config.load_jobs(path)
        else:
            folder, overrides = settings.jobs_folder, settings.jobs
        try:
            with redirect_stdout(sys.stderr):  # programs read what a command says
                found = jobs.load(folder, overrides)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        return cls(settings, found)


def folders(settings: Settings) -> Folders:
    """Where the files of a project come from and go to."""
    worker = settings.worker
    return Folders(worker.inbox, worker.archive, worker.failed, settings.work)


def settlement(trigger: str, ledger: Ledger, settings: Settings) -> Settlement:
    """How the deliveries of a trigger end."""
    if trigger == "schedule":
        return Settlement(ledger, TickEnding(settings.worker.failed, settings.work))
    return Settlement(ledger, FileEnding(folders(settings)))
