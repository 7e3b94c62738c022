"""Signals in a command's first second: they come as it imports a module, which takes most of that time."""

import signal
import subprocess
import sys

import pytest

SIGNALLED = """
import os, sys

class Signal:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Signal())
from worker.__main__ import main
main()
"""


def ended(project, module, number, *arguments):
    program = SIGNALLED.format(module=module, number=int(number))
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "number"),
    [("typer", signal.SIGINT), ("worker.jobs", signal.SIGTERM), ("worker.app", signal.SIGINT)],
)
def test_a_worker_that_is_told_to_stop_before_it_has_begun_ends_well(project, module, number):
    done = ended(project, module, number, "run")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_one_that_was_to_work_off_what_is_there_has_not_done_it(project):
    assert ended(project, "worker.jobs", signal.SIGTERM, "run", "--once").returncode == 1


def test_a_worker_reads_secrets_anew_when_it_has_begun(project):
    done = ended(project, "typer", signal.SIGHUP, "run", "--once")
    assert (done.returncode, "secrets read anew" in done.stderr) == (0, True)


def test_other_commands_end_at_once_by_the_signal(project):
    assert ended(project, "typer", signal.SIGTERM, "status").returncode == -signal.SIGTERM
