"""Which acknowledgements to send: as few as there can be, without waiting for a message that takes long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator


class Acks:
    """The delivery tags of one channel; they count from 1.

    A tag that was settled before is left out: the broker closes a channel for that (AMQP 0-9-1, basic.ack).
    """

    def __init__(self) -> None:
        self._lowest = 1  # all below are settled
        self._ahead: set[int] = set()  # settled, above the lowest

    def settle(self, tags: Iterable[int]) -> Iterator[tuple[int, bool]]:
        """The acks to send for these: a tag, and whether it stands for all below it as well."""
        before = self._lowest
        new = self._settled(tags)
        below = bisect_left(new, self._lowest)
        if below:
            yield new[below - 1], new[below - 1] > before
        yield from ((tag, False) for tag in new[below:])

    def put_back(self, tags: Iterable[int]) -> list[int]:
        """The tags to send a nack for, one by one."""
        return self._settled(tags)

    def _settled(self, tags: Iterable[int]) -> list[int]:
        new = sorted({tag for tag in tags if tag >= self._lowest} - self._ahead)
        for tag in new:
            if tag > self._lowest:
                self._ahead.add(tag)
                continue
            self._lowest += 1
            while self._lowest in self._ahead:
                self._ahead.remove(self._lowest)
                self._lowest += 1
        return new
