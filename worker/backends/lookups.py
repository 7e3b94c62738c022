"""Reads of many rows at once, turned into few requests: equal ones are shared, those that wait travel together."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from worker import exact_json
from worker.errors import Interrupted, Refused, ServerFault, TooCostly

MOST_IDS = 50
"""How many ids one request asks for."""

ENOUGH = 24
"""So many ids are worth a request while others are in flight: to wait for more holds up the rows that ask."""

MOST_BYTES = 64 * 2**20
"""How much is remembered; then the answer that was wanted last longest ago is dropped."""

_OVERHEAD = 1000  # bytes, of an answer's key and place
GONE = frozenset({404, 410})
"""The statuses of a resource that is not there."""

Found = Mapping[str, Any]
"""What was found, by id: a resource, or the error that stands in its place."""

Fetch = Callable[[str, Sequence[str]], Found]
Key = tuple[str, str]
Failure = TypeVar("Failure", bound=BaseException)


class _Kept:
    """A resource as JSON, and what reads it back fastest."""

    __slots__ = ("_as_it_came", "_loads", "_text", "size")

    def __init__(self, resource: Any) -> None:
        self._text, self._loads = exact_json.packed(resource)
        self.size = len(self._text)
        self._as_it_came = [resource]

    def own(self) -> Any:
        """It itself for the first row, which is there already, and a copy for each further one."""
        if self._as_it_came:
            with suppress(IndexError):  # another thread was faster
                return self._as_it_came.pop()
        return self._loads(self._text)


Answer = _Kept | BaseException


class _Memory(OrderedDict[Key, "Answer"]):
    """Answers, bounded by their size as JSON."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most = most_bytes
        self._bytes = 0

    def keep(self, key: Key, answer: Answer) -> None:
        self.drop(key)
        self[key] = answer
        self._bytes += _size(answer)
        while self._bytes > self._most:
            self.drop(next(iter(self)))

    def drop(self, key: Key) -> None:
        if (answer := self.pop(key, None)) is not None:
            self._bytes -= _size(answer)


class _Slot:
    """One id's answer, awaited by any number of threads; ``alone`` once it was asked for with others in vain."""

    __slots__ = ("alone", "answer", "id", "readers")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.alone = False
        self.answer: Answer | None = None
        self.readers: list[_Reader] = []


class _Reader:
    """A thread that waits for some slots, or to be called to ask for those that wait; woken alone."""

    __slots__ = ("_turn", "missing")

    def __init__(self, slots: Iterable[_Slot]) -> None:
        self.missing = 0
        for slot in slots:
            if slot.answer is None:
                slot.readers.append(self)
                self.missing += 1
        self._turn = threading.Lock()
        self._turn.acquire()

    def call(self) -> None:
        self._turn.release()

    def wait(self) -> None:
        self._turn.acquire()


class _Sizes(dict[str, int]):
    """How many ids one request may ask for, by type; what is not known yet comes from ``most``."""

    def __init__(self, most: Callable[[str], int]) -> None:
        self._most = most

    def __missing__(self, type_: str) -> int:
        return self.setdefault(type_, self._most(type_))


class Lookups:
    """Reads by id, shared by all threads that work on one delivery.

    ``fetch(type, ids)`` does the asking, of ``most(type)`` ids at once. What it leaves out or breaks over is asked for
    again, one by one, as one of those ids may be the reason; all of a type only where it refuses several and has never
    answered several. A single read goes out at once. While ids of a type are in flight others wait, and go together as
    soon as they are ``ENOUGH``, or ``most``, or nothing is in flight any more: so nobody ever sleeps to collect. A
    waiting thread does the sending. An answer is remembered as JSON, so that no two rows share one dict.
    """

    def __init__(
        self, fetch: Fetch, *, most: Callable[[str], int] = lambda _: MOST_IDS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._memory = _Memory(most_bytes)
        self._slots: dict[Key, _Slot] = {}
        self._waiting: defaultdict[str, list[_Slot]] = defaultdict(list)
        self._readers: defaultdict[str, dict[_Reader, None]] = defaultdict(dict)  # those that sleep, in order
        self._in_flight: Counter[str] = Counter()  # ids that are being asked for
        self._batch = _Sizes(most)
        self._together: set[str] = set()  # types of which several have been answered at once

    def read_one(self, type_: str, id_: str, *, fresh: bool = False) -> Any:
        """The answer for one id."""
        try:  # without the lock: what is remembered costs less than to wait for one
            if not fresh:
                answer = self._memory[type_, id_]
                self._memory.move_to_end((type_, id_))
                return answer.own() if type(answer) is _Kept else _own(answer)
        except KeyError:
            pass
        return self.read(type_, [id_], fresh=fresh)[id_]

    def read(self, type_: str, ids: Iterable[str], *, fresh: bool = False) -> Found:
        """Answers by id, in the order asked; ``fresh`` asks for what is remembered too."""
        wanted = list(dict.fromkeys(ids))
        with self._lock:
            if fresh:
                self._drop(type_, wanted)
            slots = {id_: self._slot(type_, id_) for id_ in wanted}
            reader = _Reader(slots.values())
        while batch := self._wait(type_, reader):
            self._fly(type_, batch)
        return {id_: _own(slot.answer) for id_, slot in slots.items()}

    def forget(self, type_: str, id_: str) -> None:
        """A resource was written: the next read asks for it."""
        with self._lock:
            self._drop(type_, [id_])

    def forget_missing(self, type_: str) -> None:
        """Something of this type was written, it is not known what: it may be what was not there."""
        with self._lock:
            missing = [key for key, answer in self._memory.items() if key[0] == type_ and isinstance(answer, Exception)]
            under_way = [key for key in self._slots if key[0] == type_]
            self._drop(type_, [id_ for _, id_ in missing + under_way])

    def forget_all(self) -> None:
        """Many resources may have been written."""
        with self._lock:
            for key in list(self._memory):
                self._memory.drop(key)
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
            self._memory.drop((type_, id_))
            if self._slots.get((type_, id_)) not in self._waiting[type_]:
                self._slots.pop((type_, id_), None)

    def _wait(self, type_: str, reader: _Reader) -> list[_Slot]:
        """Wait until all slots have answers (then nothing is returned) or it is this thread's turn to ask for some."""
        while reader.missing:
            with self._lock:
                if not reader.missing:
                    break
                if self._may_go(type_):
                    return self._next_batch(type_)
                self._readers[type_][reader] = None
            reader.wait()
        return []

    def _may_go(self, type_: str) -> bool:
        waiting = len(self._waiting[type_])
        return waiting > 0 and (not self._in_flight[type_] or waiting >= min(ENOUGH, self._size(type_)))

    def _size(self, type_: str) -> int:
        """How many go together now; those that go alone stand in front."""
        return 1 if self._waiting[type_][0].alone else self._batch[type_]

    def _next_batch(self, type_: str) -> list[_Slot]:
        waiting = self._waiting[type_]
        batch = waiting[: self._size(type_)]
        del waiting[: len(batch)]
        self._in_flight[type_] += len(batch)
        self._call_one(type_)
        return batch

    def _call_one(self, type_: str) -> None:
        """Call a thread to ask for what waits, if that may go; whose slots wait is asleep, or about to look itself."""
        asleep = self._readers[type_]
        if asleep and self._may_go(type_):
            reader = next(iter(asleep))
            del asleep[reader]
            reader.call()

    def _fly(self, type_: str, batch: list[_Slot]) -> None:
        ids = list(dict.fromkeys(slot.id for slot in batch))
        answers: dict[str, Answer] = {}
        smaller = None
        try:
            found = self._fetch(type_, ids)
            answers = {id_: a if isinstance(a, BaseException) else _Kept(a) for id_, a in found.items()}
            if len(answers) > 1:
                self._together.add(type_)
        except (Exception, Interrupted) as error:  # noqa: BLE001 - it is raised in every thread that waits for it
            if len(ids) == 1 or not isinstance(error, Refused | ServerFault):
                answers = dict.fromkeys(ids, error)
            elif isinstance(error, TooCostly):
                smaller = len(ids) // 2
            elif isinstance(error, Refused) and type_ not in self._together:
                smaller = 1
        finally:
            self._land(type_, batch, answers, smaller)

    def _land(self, type_: str, batch: list[_Slot], answers: Mapping[str, Answer], smaller: int | None) -> None:
        with self._lock:
            self._in_flight[type_] -= len(batch)
            self._ask_again(type_, [slot for slot in batch if slot.id not in answers], smaller)
            for slot in batch:
                if slot.id in answers:
                    self._answer((type_, slot.id), slot, answers[slot.id])
            readers = [reader for slot in batch for reader in slot.readers if not reader.missing]
            served = [reader for reader in readers if self._readers[type_].pop(reader, True) is None]
            self._call_one(type_)  # first of all, as the others may go on while its request is on its way
        for reader in served:
            reader.call()

    def _ask_again(self, type_: str, slots: list[_Slot], smaller: int | None) -> None:
        if smaller:
            self._batch[type_] = min(self._batch[type_], smaller)
            self._waiting[type_] += slots
            return
        for slot in slots:
            slot.alone = True
        self._waiting[type_][:0] = slots

    def _answer(self, key: Key, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        for reader in slot.readers:
            reader.missing -= 1
        if self._slots.get(key) is not slot:
            return  # written or asked for afresh meanwhile
        del self._slots[key]
        if isinstance(answer, _Kept) or (isinstance(answer, Refused) and answer.status in GONE):
            self._memory.keep(key, answer)


def own_copy(error: Failure) -> Failure:
    """An exception for one more thread: raising one instance in several mixes up their tracebacks."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy


def _size(answer: Answer) -> int:
    return _OVERHEAD + (answer.size if isinstance(answer, _Kept) else 0)


def _own(answer: Answer | None) -> Any:
    return answer.own() if isinstance(answer, _Kept) else own_copy(answer) if answer else None
