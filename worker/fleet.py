"""What the workers of a fleet tell each other, and people, through the ledger.

That is the pauses that backends asked for, open circuits, and that a worker has no broker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from worker.errors import Paused
from worker.records import Pause
from worker.sockets import Backend

BEAT_SECONDS = 1.0


class Pauses(Protocol):
    """Where pauses are told (see ``worker.ledger.pauses.Pauses``); raises ``Paused`` while it cannot be reached."""

    def tell(self, pause: Pause) -> None:
        """This worker's pause of a backend has begun, or is over."""

    def current(self) -> list[Pause]:
        """Every worker's pauses."""


News = Callable[[], Pause | None]
"""What is new of a backend, or of the broker, if anything is."""


class Fleet:
    """Tells and hears every second.

    A pause that a backend asked one worker for is kept by all. A circuit is told for people only: each worker opens and
    closes its own, so that one machine with a broken network cannot stop the others. While the ledger is away, each
    worker goes by what it knows.
    """

    def __init__(self, pauses: Pauses, backends: Mapping[str, Backend], owner: str) -> None:
        self._pauses = pauses
        self._backends = backends
        self._sources: list[News] = [backend.limits.news for backend in backends.values()]
        self._owner = owner
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="fleet", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def listen(self, news: News) -> None:
        """Tell that, too."""
        self._sources.append(news)

    def _live(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self.beat()

    def beat(self) -> None:
        """Tell what is new here, and keep what others were asked for."""
        try:
            for source in self._sources:
                if news := source():
                    self._pauses.tell(news)
            for pause in self._pauses.current():
                if not pause.is_down and pause.owner != self._owner and pause.backend in self._backends:
                    self._backends[pause.backend].limits.hold(pause.seconds)
        except Paused:
            return  # the heartbeat and the inbox say so

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()
