"""``longshore``, which is ``python -m worker``, too."""

import io
import os
import sys

from worker.held import hold


def main() -> None:
    """The command; what it imports comes after the first lines of this."""
    hold()
    _open_streams()
    from worker.cli import main as command

    command()


def _open_streams() -> None:
    """Standard streams that came closed lead nowhere; else files opened later would be taken for them.

    What standard output cannot write, where the locale is not UTF-8, is escaped, as standard error does it anyway.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
