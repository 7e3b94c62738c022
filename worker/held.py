"""Signals that come while a command is imported, which takes a second: they wait until it says what they do to it."""

import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> None:
    """Let signals wait from now on; one of each kind is kept."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release(*signals: signal.Signals) -> None:
    """Let these come, all if none is named, and those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals or SIGNALS)
