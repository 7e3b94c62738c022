"""Equal GETs of many rows, asked once: of those in flight, and later within the same delivery."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import NamedTuple
from urllib.parse import unquote

from worker.backends.lookups import own_copy

MOST_BYTES = 64 * 2**20
"""How much is remembered; then the answer that was wanted last longest ago is dropped."""

_OVERHEAD = 1000  # bytes, of an answer's key and place


class Question(NamedTuple):
    """What makes two GETs equal; ``path`` without its slashes at both ends."""

    path: str
    params: Hashable
    headers: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, path: str, params: Hashable, headers: Mapping[str, str] | None) -> Question:
        """The question that a call asks."""
        return cls(path.strip("/"), params, frozenset((headers or {}).items()))


class Shared:
    """Answers, as the bytes that came, by what was asked; for all threads that work on one delivery.

    An error is raised to all who wait for it, and not remembered. ``url`` is the backend's own, which paths are below.
    """

    def __init__(self, url: str = "", most_bytes: int = MOST_BYTES) -> None:
        self._url = f"{url.rstrip('/')}/"
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._flights: dict[Question, Future[bytes]] = {}
        self._memory: OrderedDict[Question, bytes] = OrderedDict()
        self._index: defaultdict[tuple[str, bool], set[Question]] = defaultdict(set)
        self._bytes = 0

    def get(self, question: Question, ask: Callable[[], bytes]) -> bytes:
        """The answer: remembered, awaited, or asked for by this very thread."""
        with self._lock:
            if question in self._memory:
                self._memory.move_to_end(question)
                return self._memory[question]
            flight = self._flights.get(question)
            if mine := flight is None:
                flight = self._flights[question] = Future()
        if mine:
            return self._fly(question, flight, ask)
        if error := flight.exception():
            raise own_copy(error)
        return flight.result()

    def wrote(self, path: str) -> None:
        """Forget what a write may have changed: what is at the path, above it and below it."""
        written = self._place(path)
        with self._lock:
            for question in list(self._flights):
                asked = self._place(question.path)
                if asked in _places(written) or written in _places(asked):
                    del self._flights[question]  # who waits for it asked before; who comes now asks again
            for key in [(written, False), *((place, True) for place in _places(written))]:
                for question in list(self._index.get(key, ())):
                    self._drop(question)

    def _fly(self, question: Question, flight: Future[bytes], ask: Callable[[], bytes]) -> bytes:
        try:
            answer = ask()
        except BaseException as error:
            self._land(question, flight)
            flight.set_exception(error)
            raise
        if self._land(question, flight):
            self._remember(question, answer)
        flight.set_result(answer)
        return answer

    def _land(self, question: Question, flight: Future[bytes]) -> bool:
        """Whether the answer is still good: nothing was written meanwhile."""
        with self._lock:
            if self._flights.get(question) is not flight:
                return False
            del self._flights[question]
            return True

    def _remember(self, question: Question, answer: bytes) -> None:
        with self._lock:
            self._memory[question] = answer
            for key in self._keys(question):
                self._index[key].add(question)
            self._bytes += len(answer) + _OVERHEAD
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._memory)))

    def _drop(self, question: Question) -> None:
        self._bytes -= len(self._memory.pop(question)) + _OVERHEAD
        for key in self._keys(question):
            self._index[key].discard(question)
            if not self._index[key]:
                del self._index[key]

    def _keys(self, question: Question) -> list[tuple[str, bool]]:
        """Where an answer is found by the path of a write: at its own path, and below each of ``_places``."""
        place = self._place(question.path)
        return [(place, True), *((above, False) for above in _places(place))]

    def _place(self, path: str) -> str:
        """What a path leads to, however it is written: quoted or not, as a whole URL, with a query of its own."""
        written = path.partition("?")[0]
        return unquote(f"{written}/".removeprefix(self._url)).strip("/")


def _places(path: str) -> list[str]:
    """A path and those above it, up to "", the backend itself."""
    places = [path]
    while path:
        path = path.rpartition("/")[0]
        places.append(path)
    return places
