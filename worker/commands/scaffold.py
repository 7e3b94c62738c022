"""Makes project folders: an empty one to begin with, and the one of the demo."""

from __future__ import annotations

import shutil
from pathlib import Path

from worker.errors import ConfigError, Problem
from worker.files import private_folder

EXAMPLES = Path(__file__).parents[1] / "examples"

_SETTINGS = """\
# Relative paths start from this file. Any value can come from the environment,
# where secrets belong: client_secret = {{ env = "HOSPITAL_SECRET" }}, or from
# a variable of its own: LONGSHORE_BACKENDS__BILLING__URL.

[worker]
inbox = "inbox"      # what is dropped here is worked on
outbox = "outbox"    # results, rejected rows, and a manifest when all is done
archive = "archive"  # the files that are done
failed = "failed"    # the files that cannot be used, each beside the reason

# An identity and two backends that ask for it: those of `longshore sandbox`.
{connections}"""

_IGNORED = """\
inbox/
outbox/
archive/
failed/
.longshore/
"""

NEXT_STEPS = """\
    longshore sandbox &       # an OAuth server and two backends to try with
    longshore check           # is everything as it should be?
    longshore run &           # the worker
    cp clients.csv inbox/     # something to do
    longshore status          # what became of it
    ls outbox/                # the results, and the manifest that counts them

`jobs/client_summary.py` says what happens to each row. Change it, write others
beside it, and put your own backends into `longshore.toml`.
"""


def make_project(folder: Path, connections: str, jobs: tuple[str, ...]) -> Path:
    """The folders, the settings and some of the example jobs; ``connections`` are the settings' other tables (TOML).

    Returns the settings' file.
    """
    for name in ("inbox", "outbox", "archive", "failed", "jobs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    private_folder(private_folder(folder / ".longshore") / "work")
    for name in jobs:
        shutil.copyfile(EXAMPLES / "jobs" / name, folder / "jobs" / name)
    settings = folder / "longshore.toml"
    settings.write_text(_SETTINGS.format(connections=connections))
    return settings


def init(folder: Path, connections: str) -> None:
    """A project to begin with: one job, and a file for it. Raises ``ConfigError`` if the folder is no new one."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError([Problem(str(folder), "", "is not empty; name a new folder")])
        make_project(folder, connections, ("client_summary.py",))
        shutil.copyfile(EXAMPLES / "sample_inbox" / "clients.csv", folder / "clients.csv")
        (folder / ".gitignore").write_text(_IGNORED)
        (folder / "README.md").write_text(f"# {folder.resolve().name}\n\n{NEXT_STEPS}")
    except OSError as error:
        what = f"a project cannot be made there: {error.strerror}; name another folder"
        raise ConfigError([Problem(str(folder), "", what)]) from error
