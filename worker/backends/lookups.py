"""Reads of many rows at once, turned into few requests: equal ones are shared, those that wait travel together."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from worker import exact_json
from worker.backends.answers import TooCostly
from worker.errors import Refused

MOST_IDS = 50
"""How many ids one request asks for."""

_REMEMBERED = 10_000
_GONE = frozenset({404, 410})

Found = Mapping[str, Any]
"""What was found, by id: a resource, or the error that stands in its place."""

Fetch = Callable[[str, Sequence[str]], Found]
Key = tuple[str, str]
Answer = bytes | Exception
Failure = TypeVar("Failure", bound=BaseException)


class _Slot:
    """One id's answer, awaited by any number of threads."""

    __slots__ = ("answer", "id")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.answer: Answer | None = None


class _Sizes(dict[str, int]):
    """How many ids one request may ask for, by type; what is not known yet comes from ``most``."""

    def __init__(self, most: Callable[[str], int]) -> None:
        self._most = most

    def __missing__(self, type_: str) -> int:
        return self.setdefault(type_, self._most(type_))


class Lookups:
    """Reads by id, shared by all threads that work on one delivery.

    ``fetch(type, ids)`` does the asking, of ``most(type)`` ids at once. What it leaves out is asked for again, one by
    one. While a request for a type is in flight others wait and then go together, at once when there are ``most`` of
    them: so nobody ever sleeps to collect, and a single read goes out at once. A waiting thread does the sending. An
    answer is remembered as JSON, so that no two rows share one dict.
    """

    def __init__(
        self, fetch: Fetch, *, most: Callable[[str], int] = lambda _: MOST_IDS, remembered: int = _REMEMBERED
    ) -> None:
        self._fetch = fetch
        self._most_remembered = remembered
        self._changed = threading.Condition()
        self._memory: OrderedDict[Key, Answer] = OrderedDict()
        self._slots: dict[Key, _Slot] = {}
        self._waiting: defaultdict[str, list[_Slot]] = defaultdict(list)
        self._in_flight: Counter[str] = Counter()
        self._batch = _Sizes(most)

    def read(self, type_: str, ids: Iterable[str], *, fresh: bool = False) -> Found:
        """Answers by id, in the order asked; ``fresh`` asks for what is remembered too."""
        wanted = list(dict.fromkeys(ids))
        with self._changed:
            if fresh:
                self._drop(type_, wanted)
            slots = {id_: self._slot(type_, id_) for id_ in wanted}
        while batch := self._wait(type_, slots):
            self._fly(type_, batch)
        return {id_: _own(slot.answer) for id_, slot in slots.items()}

    def forget(self, type_: str, id_: str) -> None:
        """A resource was written: the next read asks for it."""
        with self._changed:
            self._drop(type_, [id_])

    def forget_all(self) -> None:
        """Many resources may have been written."""
        with self._changed:
            self._memory.clear()
            for type_, id_ in list(self._slots):
                self._drop(type_, [id_])

    def _slot(self, type_: str, id_: str) -> _Slot:
        key = type_, id_
        slot = self._slots.get(key)
        if slot:
            return slot
        slot = _Slot(id_)
        if key in self._memory:
            self._memory.move_to_end(key)
            slot.answer = self._memory[key]
        else:
            self._slots[key] = slot
            self._waiting[type_].append(slot)
        return slot

    def _drop(self, type_: str, ids: Iterable[str]) -> None:
        """Forget answers, those too that are under way, but leave those that have not been asked for yet."""
        for id_ in ids:
            self._memory.pop((type_, id_), None)
            if self._slots.get((type_, id_)) not in self._waiting[type_]:
                self._slots.pop((type_, id_), None)

    def _wait(self, type_: str, slots: Mapping[str, _Slot]) -> list[_Slot]:
        """Wait until all slots have answers (then nothing is returned) or it is this thread's turn to ask for some."""
        waiting = self._waiting[type_]

        def is_done() -> bool:
            return all(slot.answer is not None for slot in slots.values())

        def may_go() -> bool:
            return bool(waiting) and (not self._in_flight[type_] or len(waiting) >= self._batch[type_])

        with self._changed:
            self._changed.wait_for(lambda: is_done() or may_go())
            if is_done():
                return []
            batch = waiting[: self._batch[type_]]
            del waiting[: len(batch)]
            self._in_flight[type_] += 1
            return batch

    def _fly(self, type_: str, batch: list[_Slot]) -> None:
        ids = list(dict.fromkeys(slot.id for slot in batch))
        answers: dict[str, Answer] = {}
        smaller = 1
        try:
            found = self._fetch(type_, ids)
            answers = {id_: a if isinstance(a, Exception) else exact_json.dumps(a) for id_, a in found.items()}
        except Exception as error:  # noqa: BLE001 - it is raised in every thread that waits for it
            if len(ids) == 1 or not isinstance(error, Refused):
                answers = dict.fromkeys(ids, error)
            elif isinstance(error, TooCostly):
                smaller = len(ids) // 2
        finally:
            self._land(type_, batch, answers, smaller)

    def _land(self, type_: str, batch: list[_Slot], answers: Mapping[str, Answer], smaller: int) -> None:
        with self._changed:
            self._in_flight[type_] -= 1
            for slot in batch:
                if slot.id in answers:
                    self._answer((type_, slot.id), slot, answers[slot.id])
                else:
                    self._waiting[type_].append(slot)
                    self._batch[type_] = min(self._batch[type_], smaller)
            self._changed.notify_all()

    def _answer(self, key: Key, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        if self._slots.get(key) is not slot:
            return  # written or asked for afresh meanwhile
        del self._slots[key]
        if isinstance(answer, bytes) or (isinstance(answer, Refused) and answer.status in _GONE):
            self._memory[key] = answer
            if len(self._memory) > self._most_remembered:
                self._memory.popitem(last=False)


def own_copy(error: Failure) -> Failure:
    """An exception for one more thread: raising one instance in several mixes up their tracebacks."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy


def _own(answer: Answer | None) -> Any:
    return own_copy(answer) if isinstance(answer, Exception) else exact_json.loads(answer or b"null")
