"""What ``longshore check`` looks at."""

from __future__ import annotations

from collections.abc import Iterator

from worker.app import Project
from worker.errors import ConfigError, Problem


def refuse_unsupported(project: Project) -> None:
    """Raise ``ConfigError`` for what the project asks for and this version cannot do yet."""
    if problems := list(unsupported(project)):
        raise ConfigError(problems)


def unsupported(project: Project) -> Iterator[Problem]:
    """What the project asks for and this version cannot do yet: nothing of it must be left undone in silence."""
    if project.settings.amqp:
        yield Problem(str(project.settings.path), "amqp", "queues are not supported yet by this version; remove it")
    for job in project.jobs.enabled:
        if job.schedule:
            what = "schedules are not supported yet by this version; remove it, or set enabled = false"
            yield Problem(job.place, f"{job.name}: schedule", what)
