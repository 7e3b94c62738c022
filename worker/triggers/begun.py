"""What a crash would take back: requests between their begin and the ledger's knowing their end."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

from worker.triggers.requests import Request


class Begun:
    """At most ``room`` of a queue's, without those that have ended and made no call; thread-safe."""

    def __init__(self, room: Callable[[str], int]) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._begun: defaultdict[str, set[Request]] = defaultdict(set)

    def begin(self, request: Request) -> bool:
        """Whether it may begin."""
        queue = request.message.queue
        with self._lock:
            begun = self._begun[queue]
            if len(begun) >= self._room(queue):
                return False
            begun.add(request)
            return True

    def forget(self, request: Request) -> None:
        """A crash would take back no call of this one."""
        with self._lock:
            self._begun[request.message.queue].discard(request)
