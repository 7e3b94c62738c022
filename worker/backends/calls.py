"""What a job's classes and the HTTP below them say to each other; a fake of ``Caller`` is all that a test needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import requests

Result = TypeVar("Result")


@dataclass(slots=True)  # not frozen, which would take as long as to find out where to send it
class Call:
    """One request to a backend: ``path`` is below the backend's URL, or a whole URL of its origin.

    Every call may be sent again after a failure: reads, PUT and DELETE by their nature (RFC 9110 section 9.2.2), and
    every other write because it carries an ``Idempotency-Key``. ``again`` makes what is sent from the second time on,
    where that has to differ: the first time may have been done. ``stream``: the body of a good answer is left to
    whoever reads it, of whatever length. ``public``: it is asked for without a token, and may be on another origin.
    ``probe``: whether it may be asked again to see if the backend still answers; None: as a GET may.
    """

    method: str
    path: str
    params: Any = field(default=None, repr=False)
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    again: Callable[[], Call] | None = field(default=None, repr=False)
    stream: bool = False
    public: bool = False
    probe: bool | None = None

    @property
    def is_probe(self) -> bool:
        """Whether an answer to it, asked anew, says that the backend answers."""
        may_be = self.method == "GET" if self.probe is None else self.probe
        return may_be and "://" not in self.path  # a page or a status may be gone the next time

    def fingerprint(self) -> int:
        """A number that tells it from other requests, and nothing else of it."""
        return hash((self.method, self.path, repr(self.params), self.body))


class Caller(Protocol):
    """Sends calls to one backend on behalf of one delivery."""

    @property
    def backend(self) -> str:
        """The backend's name."""

    def __call__(self, call: Call, read: Callable[[str, requests.Response], Result]) -> Result:
        """What ``read(backend, response)`` makes of a good answer; raises ``BackendError`` for any other.

        ``read`` may raise ``Unavailable``: then the call is sent again like any other that failed.
        """

    def wait(self, seconds: float) -> None:
        """Wait so long, or only look; raises ``Interrupted`` when the delivery is to stop."""
