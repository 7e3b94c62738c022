"""What a crash would take back: requests between their begin and the ledger's knowing their end."""

from __future__ import annotations

from collections import defaultdict

from worker.triggers.requests import Request


class Begun:
    """At most as many of a queue's as may run at once, without those that have ended and made no call.

    Thread-safe without a lock, for which the threads would wait with every message: a set takes one step at a time.
    """

    def __init__(self) -> None:
        self._begun: defaultdict[str, set[Request]] = defaultdict(set)

    def begin(self, request: Request) -> bool:
        """Whether it may begin; of two that come at once for the last place, it may be that neither does."""
        begun = self._begun[request.message.queue]
        begun.add(request)
        if len(begun) <= request.consumed.at_once:
            return True
        begun.discard(request)
        return False

    def forget(self, request: Request) -> None:
        """A crash would take back no call of this one."""
        self._begun[request.message.queue].discard(request)
