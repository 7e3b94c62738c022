"""``python -m worker`` is ``longshore``."""

from worker.cli import main

main()
