"""How to know a process that a job has forked, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import NoReturn

PATIENCE_SECONDS = 2.0  # for a stream or the log that a thread was at in the fork's moment: nobody lets go of it here


class Forks:
    """Of how many forks, one after the other, this process has come; to ask the kernel at each row takes longer."""

    count = 0

    def another(self) -> None:
        """One more, in the child."""
        self.count += 1


def end(code: int, last_words: Callable[[], None]) -> NoReturn:
    """End this process with what it has printed written out, as Python ends a program.

    What is to be done at Python's exit is not: that is the worker's.
    """
    try:
        saying = Thread(target=_say, args=(last_words,), daemon=True)
        saying.start()
        saying.join(PATIENCE_SECONDS)
    finally:
        os._exit(code & 0xFF)  # which is all that the kernel tells; a number too large for it would be an error here


def _say(last_words: Callable[[], None]) -> None:
    last_words()
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, full, gone, or whatever a job has put in its place
            stream.flush()


forks = Forks()
# Before: else what others have printed, and is not written yet, would be written by the child, too.
os.register_at_fork(before=_flush, after_in_child=forks.another)
