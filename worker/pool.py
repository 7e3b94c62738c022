"""The threads that run jobs, shared by all deliveries under way: rows in, outcomes out in order of completion.

Threads take rows in slices: one row where rows wait for backends, more where a row takes microseconds, so that handing
them out costs next to nothing either way. A delivery's own thread reads the chunks ahead and collects the outcomes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any, Generic, Self, TypeVar

from worker.cores import Cores
from worker.errors import Stopping
from worker.lane import Lane
from worker.records import Narrow

Item = TypeVar("Item")
Result = TypeVar("Result")

SLICE_SECONDS = 0.002  # what a thread takes at once should be done in about this time
SLICE_ITEMS = 64
TICK_SECONDS = 0.005  # how long an outcome may wait to be collected, and so to be on disk
MOST_CALLED = 64  # threads, at a tick
ITEMS_AHEAD = 512  # or one for each thread: they last while a delivery's thread waits for disk and interpreter
FEWEST = 16  # threads that go on, at the least, where they use up a core
LOOK_SECONDS = 0.125  # from one look at how many it takes to the next
CHUNKS_AHEAD = 10  # how many chunks may pass a slow row: bounds what waits in memory for its turn


class _Chunk:
    """How many items of those that were read together are still unfinished."""

    __slots__ = ("unfinished",)

    def __init__(self, items: int) -> None:
        self.unfinished = items


class _Stream(Generic[Item, Result]):
    """One delivery's items on their way through the pool; guarded by the pool's lock, but for ``finished``."""

    def __init__(self, work: Callable[[Item], Result], limit: int | None, held_up: Sequence[Narrow]) -> None:
        self.work = work
        self.limit = limit
        self.held_up = held_up
        self.todo: deque[tuple[_Chunk, Sequence[Item]]] = deque()
        self.chunks: deque[_Chunk] = deque()
        self.finished: deque[Result] = deque()
        self.wake = threading.Event()
        self.active = 0
        self.most: int | None = None  # threads, while they use up a core
        self.looked_at = time.perf_counter()
        self.done, self.quickest = 0, inf  # items since then, and the seconds of the quickest
        self.patience, self.looks_on = 1, 0  # for how many looks they are not made few, as that was wrong
        self.narrow: Narrow | None = None  # what held some up last: from then on, threads are called at ticks only
        self.more = True  # whether there may be further chunks
        self.pace = SLICE_SECONDS  # seconds an item takes, a moving average
        self.error: BaseException | None = None

    def add(self, items: Sequence[Item]) -> None:
        if not items:  # rows that an earlier attempt has done: no thread would ever tick the chunk off
            return
        chunk = _Chunk(len(items))
        size = min(SLICE_ITEMS, max(1, int(SLICE_SECONDS / self.pace))) if not self.limit else 1
        self.chunks.append(chunk)
        self.todo.extend((chunk, items[at : at + size]) for at in range(0, len(items), size))

    def settle(self, chunk: _Chunk, done: int, rest: Sequence[Item], seconds: float) -> None:
        self.active -= 1
        chunk.unfinished -= done
        for narrow in self.held_up[-1:]:  # of a list that others change meanwhile
            self.narrow = narrow
        self.pace += ((seconds / max(1, done)) - self.pace) / 8
        if done:
            self.done += done
            self.quickest = min(self.quickest, seconds / done)
        if rest and not self.error:
            self.todo.extendleft((chunk, [item]) for item in reversed(rest))  # slower than thought: share them out
        while self.chunks and not self.chunks[0].unfinished:
            self.chunks.popleft()

    def look(self, *, core_is_full: bool) -> None:
        """See now and then how many threads it takes, where those that are at it use up a core.

        As many as their rate would need if each item were as quick as the quickest, three times over: any more only
        wait for the interpreter, and what each one needs drops out of the cache meanwhile. Where so few leave the core
        idle, as others wait for a backend, all go on, each time for twice as long.
        """
        if (seconds := time.perf_counter() - self.looked_at) < LOOK_SECONDS:
            return
        if self.most and not core_is_full:
            self.looks_on = self.patience = 2 * self.patience
        few = max(FEWEST, int(3 * self.done / seconds * self.quickest)) if self.done else None
        self.most = few if core_is_full and not self.looks_on else None
        self.looks_on = max(0, self.looks_on - 1)
        self.looked_at, self.done, self.quickest = self.looked_at + seconds, 0, inf

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.todo.clear()

    def grow(self) -> int:
        """How many threads to call at a tick: as many as might pass, and one at the least, which may go elsewhere."""
        return max(1, min(MOST_CALLED, self.narrow.room)) if self.narrow and self.ready else 0

    @property
    def enough(self) -> bool:
        """Whether those that are at it need no other: one more would be held up, or fight for the interpreter's lock
        with one whose rows only compute.
        """
        return self.narrow is not None or self.pace * SLICE_ITEMS < SLICE_SECONDS

    @property
    def ready(self) -> bool:
        return (
            bool(self.todo)
            and not self.held_up
            and (self.limit is None or self.active < self.limit)
            and (self.most is None or self.active < self.most)
        )

    @property
    def idle(self) -> bool:
        return not self.todo and not self.active


class Pool:
    """At most ``threads`` items are worked on at once; they go round the streams in turn.

    ``cores`` places the threads, and whatever others take turns with them at Python's lock.
    """

    def __init__(self, threads: int, cores: Cores | None = None) -> None:
        self._inside = threading.local()
        self.cores = cores or Cores()
        self._size = threads
        self._ahead = max(threads, ITEMS_AHEAD)
        self._threads: list[threading.Thread] = []
        self._streams: deque[_Stream[Any, Any] | Lane[Any]] = deque()
        self._lock = threading.Lock()
        self._resting: list[threading.Lock] = []  # what each thread waits for that has nothing to do
        self._closed = self._given_up = False

    def run(
        self,
        work: Callable[[Item], Result],
        chunks: Iterable[Sequence[Item]],
        *,
        limit: int | None = None,
        held_up: Sequence[Narrow] = (),
        hurry: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Result]]:
        """Call ``work`` on every item, ``limit`` at once; yields the results as they come, in no order.

        While ``held_up`` holds anything, for each item that is held up what does that, no further one is begun: it
        would wait behind those.

        The first exception, of ``work``, of ``chunks`` or of the caller, ends it: ``hurry`` is called, so that what is
        under way can come to an end; that is yielded, the rest is left, and the exception raised.
        """
        stream: _Stream[Item, Result] = _Stream(work, limit, held_up)
        with self._lock:
            self._streams.append(stream)
        try:
            yield from self._collect(stream, iter(chunks), hurry)
        finally:
            self._abandon(stream, hurry)
            self.cores.leave()
        if stream.error:
            raise stream.error

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is one of these: it must ``run`` nothing, as it would wait for its own kind."""
        return getattr(self._inside, "of_a_thread", False)

    def lane(
        self, work: Callable[[Item], None], *, rest: Callable[[], None] = lambda: None, limit: int | None = None
    ) -> Lane[Item]:
        """A way to hand in items one by one, ``limit`` of them worked on at once."""
        lane = Lane(self._call, work, rest, limit)
        with self._lock:
            self._streams.append(lane)
        return lane

    def _call(self, lane: Lane[Any], urgent: bool) -> None:
        with self._lock:
            self._start_threads(lane.waiting)
            if not lane.enough:
                self._wake(lane.waiting)
            elif urgent or not lane.active:  # else the one that is at it goes on with these
                lane.wanted = urgent
                self._wake(1)

    def _add(self, stream: _Stream[Any, Any], items: Sequence[Any]) -> None:
        with self._lock:
            stream.add(items)
            self._wake(1 if stream.enough else len(stream.todo))

    def _collect(
        self, stream: _Stream[Item, Result], chunks: Iterator[Sequence[Item]], hurry: Callable[[], None]
    ) -> Iterator[list[Result]]:
        while True:
            stream.wake.clear()
            self.cores.look()
            stream.look(core_is_full=self.cores.is_full)
            if self._given_up:
                with self._lock:
                    stream.fail(Stopping("the worker has stopped; the next start goes on from here"))
                return
            fed = stream.more and not stream.error and self._hungry(stream)
            if fed:
                stream.more = self._feed(stream, chunks)
            with self._lock:
                over = stream.idle and (not stream.more or stream.error is not None)
            if stream.error:
                hurry()
            if not fed and not over:
                stream.wake.wait(TICK_SECONDS)
            if stream.narrow:
                with self._lock:
                    self._wake(stream.grow())
            if results := [stream.finished.popleft() for _ in range(len(stream.finished))]:
                yield results
            elif stream.todo and not stream.narrow:  # one row takes its time among quick ones: on with the rest
                with self._lock:
                    self._wake(1)
            if over:
                return

    def _hungry(self, stream: _Stream[Item, Result]) -> bool:
        return len(stream.todo) < self._ahead and len(stream.chunks) < CHUNKS_AHEAD

    def _feed(self, stream: _Stream[Item, Result], chunks: Iterator[Sequence[Item]]) -> bool:
        try:
            items = next(chunks, None)
        except Exception as error:  # noqa: BLE001 - raised again at the end of run(), when no row is under way
            with self._lock:
                stream.fail(error)
            return False
        if items is None:
            return False
        self._add(stream, items)
        return True

    def _start_threads(self, wanted: int) -> None:
        while len(self._threads) < min(self._size, wanted):
            self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"row-{len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        self._inside.of_a_thread = True
        self.cores.join()
        call = threading.Lock()
        call.acquire()
        lane: Lane[Any] | None = None
        while (work := self._take(call, lane)) is not None:
            lane = work()

    def _take(self, call: threading.Lock, left: Lane[Any] | None) -> Callable[[], Lane[Any] | None] | None:
        """What there is to do; waits for it. Until here, the lane that was ``left`` counts this thread as its own, so
        that nobody is called for what this one is about to take.
        """
        with self._lock:
            if left:
                left.active -= 1
                if left.ready and not left.enough:  # a further thread, beside this one
                    self._wake(1)
            while not self._closed:
                if stream := self._next():
                    stream.active += 1
                    work: Callable[[], Lane[Any] | None]
                    if isinstance(stream, Lane):
                        stream.wanted = False
                        work = partial(_work_off_lane, stream)
                    else:
                        work = partial(self._work_off, stream, *stream.todo.popleft())
                    if self._resting and stream.ready and not stream.enough:
                        self._wake(1)
                    return work
                self._rest(call)
        return None

    def _rest(self, call: threading.Lock) -> None:
        """Wait for a call, without the pool's lock meanwhile."""
        self._resting.append(call)
        self._lock.release()
        try:
            call.acquire()
        finally:
            self._lock.acquire()

    def _wake(self, threads: int) -> None:
        """Call so many, if there are; first who rests the shortest: what that one needs is still in the cache.

        Where all that there are have something to do, which may take long, new ones come for what may be begun.
        """
        for _ in range(threads):
            if self._resting:
                self._resting.pop().release()
            elif len(self._threads) < self._size and any(stream.ready for stream in self._streams):
                self._start_thread()
            else:
                break

    def _next(self) -> _Stream[Any, Any] | Lane[Any] | None:
        """Of the streams with work, the one that has the fewest threads, and of those the one that waited longest.

        Rows that all wait for one slow backend would take thread after thread if the streams only took turns.
        """
        if len(self._streams) == 1:
            return self._streams[0] if self._streams[0].ready else None
        found = min((stream for stream in self._streams if stream.ready), key=_threads, default=None)
        if found is not None:
            self._streams.remove(found)
            self._streams.append(found)
        return found

    def _work_off(self, stream: _Stream[Any, Any], chunk: _Chunk, items: Sequence[Any]) -> None:
        begun, seconds, done = time.perf_counter(), 0.0, 0
        error: BaseException | None = None
        while done < len(items) and seconds < SLICE_SECONDS and not (error or stream.error):
            try:
                stream.finished.append(stream.work(items[done]))
                done += 1
            except BaseException as raised:  # noqa: BLE001 - carried over to the delivery's thread
                error = raised
            seconds = time.perf_counter() - begun
        with self._lock:
            stream.settle(chunk, done, items[done + (error is not None) :], seconds)
            if error:
                stream.fail(error)
            if stream.idle or stream.error or (stream.more and len(stream.todo) < self._ahead // 2):
                stream.wake.set()

    def _abandon(self, stream: _Stream[Any, Any], hurry: Callable[[], None]) -> None:
        """Let what is under way come to its end; nothing new of this stream begins."""
        with self._lock:
            self._streams.remove(stream)
            stream.todo.clear()
        if stream.active:
            hurry()
        while stream.active and not self._given_up:
            stream.wake.wait(TICK_SECONDS)
            stream.wake.clear()

    def give_up(self) -> None:
        """Wait no more for what is under way, be it for ever: whoever does so gets ``Stopping``."""
        self._given_up = True

    def close(self) -> None:
        """End the threads; nothing may be running any more, but what was given up."""
        with self._lock:
            self._closed = True
            self._wake(len(self._resting))
        for thread in self._threads:
            thread.join(0 if self._given_up else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work_off_lane(lane: Lane[Any]) -> Lane[Any]:
    lane.work_off()
    return lane


def _threads(stream: _Stream[Any, Any] | Lane[Any]) -> int:
    return stream.active
