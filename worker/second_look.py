"""A look, beside the work, at whether the backends are what their settings say."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial

from worker import log
from worker.errors import BackendError, Interrupted, Paused, Unavailable
from worker.sockets import Backend

AGAIN_SECONDS = 60.0  # after which one that was down is asked again


def begin(backends: Iterable[Backend], stop: threading.Event) -> None:
    """Ask all of them, for as long as that takes or until ``stop`` is set; returns at once."""
    threading.Thread(target=partial(look, list(backends), stop), name="second look", daemon=True).start()


def look(backends: list[Backend], stop: threading.Event) -> None:
    """Log a warning for each backend that contradicts its settings. Rows go on: most of what they ask for may do."""
    while backends := [backend for backend in backends if not _is_seen(backend, stop)]:
        if stop.wait(AGAIN_SECONDS):
            return


def _is_seen(backend: Backend, stop: threading.Event) -> bool:
    try:
        if wrong := backend.contradiction(stop):
            log.get_logger().warning("a backend is not what its settings say", backend=backend.name, reason=wrong)
    except Unavailable:
        return False  # its rows say so
    except BackendError as error:
        log.get_logger().info("a backend does not say what it is", backend=backend.name, status=error.status)
    except (Interrupted, Paused):
        return True
    return True
