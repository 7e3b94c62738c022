"""The end of a delivery: done, failed with the reason, or back to wait.

The ledger is told first, then the source is put away: a crash in between leaves a finished delivery whose source still
lies in the work folder, and the next worker puts it away.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from worker import log
from worker.errors import DeliveryError, LeftAlone, LostLease, Paused, Stopping, Unavailable, is_unexpected, sentence
from worker.ledger import Ledger
from worker.records import Delivery, Entry
from worker.triggers.endings import Ending

HOLD_OFF_MAX = 60.0  # seconds: an outage without a Retry-After is looked at again at least this often
_NOT_PUT_AWAY = "it is finished, but its file cannot be put away: "


class Settlement:
    """Decides by the error, tells the ledger, and has the source put where it belongs."""

    def __init__(self, ledger: Ledger, ending: Ending, *, jitter: Callable[[], float] = random.random) -> None:
        self._ledger = ledger
        self._ending = ending
        self._jitter = jitter
        self._log = log.get_logger()

    def settle(self, entry: Entry, delivery: Delivery, error: Exception | None) -> None:
        """None: done. ``DeliveryError``: failed. Anything else says nothing about the delivery: it waits."""
        with log.bound(job=delivery.job), self._telling_the_ledger():
            if error is None or isinstance(error, DeliveryError):
                self._finish(entry, delivery, error)
            else:
                self._put_back(entry, delivery, error)

    def put_back(self, entry: Entry, error: Exception) -> None:
        """Let go of a delivery that could not even be opened."""
        with self._telling_the_ledger():
            self._put_back(entry, None, error)

    @contextmanager
    def _telling_the_ledger(self) -> Iterator[None]:
        """If it cannot be told, nothing is lost: the lease ends, and somebody goes on from what is on disk."""
        try:
            yield
        except LostLease as lost:
            self._log.warning("delivery lost", reason=lost.detail)
        except Paused as trouble:
            self._log.error("delivery not settled", reason=trouble.detail)

    def _finish(self, entry: Entry, delivery: Delivery, error: DeliveryError | None) -> None:
        finished = self._ledger.finish(entry, delivery, error)
        if error:
            self._log.error("delivery failed", error=type(error).__name__, reason=error.detail)
        else:
            counts = delivery.counts
            self._log.info(
                "delivery done",
                rows=counts.rows,
                results=counts.results,
                rejected=counts.rejected,
                skipped=counts.skipped,
            )
        self.put_away(finished)

    def _put_back(self, entry: Entry, delivery: Delivery | None, error: Exception) -> None:
        if isinstance(error, LostLease):
            raise error
        hold_off = self._hold_off(entry, error)
        self._ledger.put_back(entry, delivery, error, hold_off=hold_off)
        if isinstance(error, Stopping):
            self._log.info("delivery left for the next start")
            return
        facts = {"error": type(error).__name__, "reason": sentence(error), "seconds": round(hold_off, 1)}
        where = {"where": log.location(error)} if is_unexpected(error) else {}
        self._log.warning("delivery waits", **facts, **where)

    def _hold_off(self, entry: Entry, error: Exception) -> float:
        if isinstance(error, Stopping):
            return 0.0
        asked = error.retry_after if isinstance(error, Unavailable) else None
        if isinstance(error, LeftAlone) and asked:  # nothing was tried: how often this delivery came is no matter
            return asked
        backoff = min(HOLD_OFF_MAX, 2.0 ** min(entry.attempts, 10))
        return max(asked or 0.0, backoff * (0.75 + self._jitter() / 2))

    def put_away(self, entry: Entry) -> None:
        """The last steps of a finished delivery; where they fail, the end stands, and they are tried again later."""
        entry = _as_it_ended(entry)
        try:
            over = self._ending.put_away(entry, partial(self._ledger.guard, entry))
        except OSError as error:
            detail = f"{entry.detail}; " if entry.detail else ""
            self._log.error("file not put away", reason=sentence(error))
            self._ledger.hold(entry, detail=f"{detail}{_NOT_PUT_AWAY}{sentence(error)}", hold_off=HOLD_OFF_MAX)
            return
        if over:
            shutil.rmtree(over, ignore_errors=True)
        self._ledger.put_away(entry)

    def reopen(self, entry: Entry) -> bool:
        """Put a failed delivery back among the waiting; False if it did not fail, or its file is gone from failed/."""
        return entry.state == "failed" and self._ending.bring_back(entry) and self._ledger.reopen(entry)


def _as_it_ended(entry: Entry) -> Entry:
    """Without what an earlier attempt to put it away has added."""
    return replace(entry, detail=entry.detail.partition(_NOT_PUT_AWAY)[0].removesuffix("; "))
