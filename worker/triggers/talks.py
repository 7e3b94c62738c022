"""Talks with the ledger about messages, one after the other, on a thread of their own.

While the ledger writes and the disk takes it, Python is free: whoever began a talk hears of the one before, and gathers
what the next one is about.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from worker.ledger import Messages, Note, Standing
from worker.triggers.requests import Request

Ended = tuple[Request, Note, Callable[[], None]]
"""A request whose run is over, what is to be written down of it, and what follows once that is durable."""


class Talk:
    """What is said to the ledger at once: claims, ``alone`` or not, and ends; ``over`` once it has answered."""

    def __init__(self, claims: Sequence[Request], ended: Sequence[Ended], *, alone: bool) -> None:
        self.claims = claims
        self.ended = ended
        self.over = False
        self._said = [request.claim(alone=alone) for request in claims], [note for _, note, _ in ended]
        self._heard: tuple[list[Standing], list[Note]] = [], []
        self._trouble: Exception | None = None

    def hold(self, ledger: Messages, gone: Callable[[str], bool]) -> None:
        """Say it; what goes wrong is for whoever wants to hear."""
        try:
            self._heard = ledger.record(*self._said, gone)
        except Exception as trouble:  # noqa: BLE001 - as it says
            self._trouble = trouble
        self.over = True

    def heard(self) -> tuple[list[Standing], list[Note]]:
        """What is said to each claim, and the notes that came too late; raises what went wrong."""
        if self._trouble:
            raise self._trouble
        return self._heard


class Talks:
    """Holds talks; ``then`` is called after each. Until ``start``, whoever begins one holds it."""

    def __init__(self, ledger: Messages, gone: Callable[[str], bool], then: Callable[[], None]) -> None:
        self._ledger = ledger
        self._gone = gone
        self._then = then
        self._begun: SimpleQueue[Talk | None] = SimpleQueue()
        self._taken: SimpleQueue[Talk | None] = SimpleQueue()
        self._started = False

    def start(self, first: Callable[[], None]) -> None:
        """From now on, talks are held elsewhere, by a thread that calls ``first`` before."""
        self._started = True
        self._thread = threading.Thread(target=self._work, args=(first,), name="ledger", daemon=True)
        self._thread.start()

    def begin(self, talk: Talk) -> None:
        """Hold it; not before the last one is over.

        Where another thread holds it, that one is waited for: it needs Python's lock to begin, and whoever began the
        talk has a good deal to do with that.
        """
        if self._started:
            self._begun.put(talk)
            self._taken.get()
        else:
            talk.hold(self._ledger, self._gone)

    def _work(self, first: Callable[[], None]) -> None:
        first()
        while talk := self._begun.get():
            self._taken.put(talk)
            talk.hold(self._ledger, self._gone)
            self._then()

    def close(self) -> None:
        """Wait for the last one; the next is held by whoever begins it."""
        if self._started:
            self._started = False
            self._begun.put(None)
            self._thread.join()
