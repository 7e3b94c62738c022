"""Messages without an id that are under way, or that a dead worker was at: told by their bodies as they come again."""

from __future__ import annotations

import threading
from collections.abc import Callable

from worker.amqp import Message
from worker.triggers.requests import Request

MOST = 10_000  # bodies; those that were never acked here are given to another worker, and would pile up


class Nameless:
    """The keys of messages that came without an id; thread-safe.

    When a channel is lost, the broker gives all that was not acked on it again, on another one. So what is redelivered
    here is one of those, and of several with the same body it does not matter which. Or else a worker died of it,
    perhaps, and it must be known how many have: ``left`` tells the keys, by queue and digest, of what dead workers were
    at.
    """

    def __init__(self, left: Callable[[str, str], list[str]]) -> None:
        self._left = left
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], dict[str, int]] = {}  # queue and digest -> key -> the last channel's number

    def key(self, request: Request) -> str:
        """The key that it had when it came before, or else the one that was made for it.

        Raises ``Paused`` if the ledger cannot be asked. Not for several threads.
        """
        message = request.message
        key = (self._known(request) or self._orphan(request) or request.key) if message.redelivered else request.key
        with self._lock:
            self._open.setdefault((message.queue, request.sha256), {})[key] = message.generation
            if len(self._open) > MOST:
                del self._open[next(iter(self._open))]
        return key

    def _known(self, request: Request) -> str:
        message = request.message
        with self._lock:
            same = self._open.get((message.queue, request.sha256), {})
            return next((key for key, generation in same.items() if generation < message.generation), "")

    def _orphan(self, request: Request) -> str:
        place = request.message.queue, request.sha256
        left = self._left(*place)
        with self._lock:
            same = self._open.get(place, {})
            return next((key for key in left if key not in same), "")

    def acked(self, request: Request, message: Message) -> None:
        """It will not come again, unless its channel is gone, in which case the ack does not reach the broker."""
        if not message.is_live:
            return
        place = message.queue, request.sha256
        with self._lock:
            same = self._open.get(place, {})
            same.pop(request.key, None)
            if not same:
                self._open.pop(place, None)
