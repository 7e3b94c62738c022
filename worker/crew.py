"""The threads that deliveries run on, and the heartbeat that keeps this worker's hands on them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from worker import log
from worker.errors import Paused
from worker.ledger import Ledger
from worker.records import Delivery
from worker.runner import Runner
from worker.sockets import Opening
from worker.stopping import Stop

HEARTBEAT_SECONDS = 1.0


class Crew:
    """Runs ``size`` deliveries at once; tells the ledger every second which they are and how far."""

    def __init__(self, runner: Runner, ledger: Ledger, *, size: int, stop: Stop) -> None:
        self._runner = runner
        self._ledger = ledger
        self._stop = stop
        self._size = size
        self._room = threading.Semaphore(size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="delivery")
        self._active: dict[str, Delivery] = {}
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._log = log.get_logger()
        self._heart.start()

    def room(self) -> int:
        """How many more deliveries can begin; waits until one can, unless the worker stops: then 0."""
        while not self._stop.is_set():
            if self._room.acquire(timeout=0.1):
                self._room.release()
                return max(1, self._size - len(self._active))
        return 0

    def submit(self, opening: Opening) -> None:
        """Run a delivery as soon as there is room; waits for that, unless the worker stops."""
        while not self._stop.is_set():
            if self._room.acquire(timeout=0.1):
                self._threads.submit(self._run, opening)
                return

    def _run(self, opening: Opening) -> None:
        try:
            if delivery := opening():
                with self._ledger.in_hand(delivery.id):
                    self._active[delivery.id] = delivery
                    try:
                        self._runner.run(delivery)
                    finally:
                        del self._active[delivery.id]
        except Exception as bug:  # noqa: BLE001 - nobody above would see it; the lease ends, and somebody goes on
            self._log.error("the worker has a bug", error=type(bug).__name__, where=log.location(bug))
        finally:
            self._room.release()

    def join(self) -> None:
        """Wait until nothing is running, or the stop is over."""
        free = 0
        while free < self._size and not self._stop.over.is_set():
            free += self._room.acquire(timeout=0.1)
        for _ in range(free):
            self._room.release()

    def _beat(self) -> None:
        heard = True
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                for delivery in self._ledger.heartbeat(list(self._active.values())):
                    delivery.lose()
                heard = True
            except Paused as trouble:
                if heard:
                    self._log.warning("no heartbeat", reason=trouble.detail)
                heard = False

    def close(self) -> None:
        """End when what is running has ended, or the stop is over."""
        self.join()
        self._threads.shutdown(wait=not self._stop.over.is_set(), cancel_futures=True)
        self._over.set()
        self._heart.join()
