"""The named points at which a worker can be killed, or stopped to go on later.

They exist only here: each wraps a seam of the program so that the process is really killed (SIGKILL) or stopped
(SIGSTOP) before it, after it, or in the middle of a write. Nothing in the program itself knows of them.
"""

import os
import shutil
import signal
from itertools import count
from pathlib import Path

from worker import files, spill
from worker.ledger import Ledger
from worker.ledger.schedules import Schedules
from worker.outputs.part import PartFile
from worker.triggers.claims import Claims


def die(*_args, **_named):
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    signal.raise_signal(signal.SIGSTOP)  # to this thread, which so does not go on before all the others stop, too


def before(place, name, what=die, *, call=1):
    """Die, or stop, before the so manieth call."""
    original, calls = getattr(place, name), count(1)

    def wrapped(*args, **named):
        if next(calls) == call:
            what()
        return original(*args, **named)

    setattr(place, name, wrapped)


def after(place, name, what=die, *, call=1):
    """Die, or stop, when the so manieth call has done its work."""
    original, calls = getattr(place, name), count(1)

    def wrapped(*args, **named):
        returned = original(*args, **named)
        if next(calls) == call:
            what()
        return returned

    setattr(place, name, wrapped)


def half_a_write(call):
    """Die when half of what is to be appended to the part file is on disk."""
    original, calls = PartFile._write, count(1)

    def write(self, data):
        if next(calls) == call:
            original(self, data[: len(data) // 2])
            die()
        original(self, data)

    PartFile._write = write


def half_a_copy():
    """Die when half of a file was copied to another file system."""

    def copy(original, twin, *_args):
        twin.write(original.read()[:100])
        twin.flush()
        die()

    shutil.copyfileobj = copy


POINTS = {
    "moved, its done file not removed": lambda: after(Path, "rename"),
    "during the sweep": lambda: before(Ledger, "announce"),
    "announced, not moved": lambda: after(Ledger, "announce"),
    "moved, not begun": lambda: before(Ledger, "begin"),
    "begun, before the first row": lambda: after(Ledger, "begin"),
    "in the middle of a chunk": lambda: after(PartFile, "append", call=3),
    "in the middle of a write": lambda: half_a_write(4),
    "all rows done, nothing published": lambda: before(files, "publish"),
    "results published": lambda: after(files, "publish"),
    "rejects published": lambda: after(files, "publish", call=2),
    "manifest published, not in the ledger": lambda: before(Ledger, "finish"),
    "in the ledger, not put away": lambda: before(files, "put_away"),
    "put away, not in the ledger": lambda: after(files, "put_away"),
    "half copied to another file system": half_a_copy,
    "copied to another file system, not removed": lambda: after(files, "copy"),
    "tick half made": lambda: before(Schedules, "_make"),
    "tick made, not taken": lambda: after(Schedules, "see_to"),
    "while the source is asked": lambda: before(spill, "line", call=60),
    "asked, the rows not to be seen yet": lambda: before(files, "publish"),
    "rows on disk, none of them run": lambda: after(spill.Spill, "write"),
    "all rows of a tick done, nothing published": lambda: before(files, "publish", call=2),
    "results of a tick published": lambda: after(files, "publish", call=2),
    "tick in the ledger, not put away": lambda: before(Ledger, "put_away"),
    "failed, without its reason": lambda: before(files, "write"),
    "failed, with its reason, not moved": lambda: before(files, "put_away"),
    "stops: about to move its file": lambda: before(Path, "rename", stop),
    "stops: has looked for a file in vain": lambda: after(Ledger, "guard", stop),
    "stops: about to begin": lambda: before(Ledger, "begin", stop),
    "stops: about to publish results": lambda: before(files, "publish", stop),
    "stops: has published results": lambda: after(files, "publish", stop),
    "stops: about to say done": lambda: before(Ledger, "finish", stop),
    "stops: has said done": lambda: after(Ledger, "finish", stop),
    "stops: has looked once more": lambda: after(Claims, "open", stop),
}
