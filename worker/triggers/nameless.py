"""Messages without an id that are under way here: told by their bodies when the broker gives them again."""

from __future__ import annotations

import threading

from worker.amqp import Message
from worker.triggers.requests import Request

MOST = 10_000  # bodies; those that were never acked here are given to another worker, and would pile up


class Nameless:
    """The keys of messages that came without an id; thread-safe.

    When a channel is lost, the broker gives all that was not acked on it again, on another one. So what is redelivered
    here is one of those, and of several with the same body it does not matter which.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], dict[str, int]] = {}  # queue and digest -> key -> the last channel's number

    def key(self, request: Request) -> str:
        """The key that it had when it came before, or else the one that was made for it."""
        message = request.message
        with self._lock:
            same = self._open.setdefault((message.queue, request.sha256), {})
            before = (key for key, generation in same.items() if generation < message.generation)
            key = next(before, request.key) if message.redelivered else request.key
            same[key] = message.generation
            if len(self._open) > MOST:
                del self._open[next(iter(self._open))]
        return key

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
