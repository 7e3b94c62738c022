"""A message under way in this worker: who it is, what its job may do with it, and the delivery made of it."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import files
from worker.amqp import Message, QueueTopology
from worker.declare import Job
from worker.errors import DeliveryError
from worker.ledger import Claim, End, Note
from worker.records import Delivery, Input
from worker.triggers.bodies import Body
from worker.triggers.letters import FAULTS, Again, delays, header, zero

DEATHS = 5  # of workers while they ran a message, after which it is not run again
SMALL_BYTES = 128 * 1024  # an object of up to this size is read by the thread that runs it
PREFETCH = 64  # at least; with fewer, the broker's round trip is felt
PREFETCH_BYTES = 2**30  # that messages may take in memory before they are run, at worst


@dataclass(frozen=True, slots=True)
class Consumed:
    """A job's queue and its limits: ``at_once`` are run, sizes are in bytes, times in seconds."""

    job: Job[..., Any]
    topology: QueueTopology
    again: Again
    at_once: int
    prefetch: int
    max_bytes: int
    max_unfolded: int

    @classmethod
    def of(cls, job: Job[..., Any], *, threads: int, max_body: int, clock: Callable[[], float]) -> Consumed:
        """What the job's settings come to."""
        assert job.queue  # noqa: S101 - only jobs with one are asked
        waits = delays(job.retry_delay)
        max_bytes = min(job.max_message_bytes or max_body, max_body)
        at_once = min(job.concurrency or threads, threads)
        wanted = max(2 * at_once, PREFETCH)
        prefetch = job.prefetch or max(1, min(wanted, PREFETCH_BYTES // max_bytes))
        topology = QueueTopology(job.queue, job.reply_queue, waits, passive=job.declare == "passive")
        return cls(job, topology, Again(job.queue, waits, clock), at_once, prefetch, max_bytes, max_body)


def new_id() -> str:
    """An id for a message, so long that a day's worth of them does not hold the same one twice."""
    return random.getrandbits(64).to_bytes(8).hex()


@dataclass(slots=True, eq=False)
class Request:
    """A message, ``message``, the first of the ``messages`` that ask for the same; all get the same answer.

    ``key`` is its message id, or one that the worker has made up. ``sha256`` is of its body. ``opened`` is the delivery
    made of it, until that is settled. ``written`` is where the ledger has its claim.
    """

    consumed: Consumed
    message: Message
    messages: list[Message]
    body: Body
    sha256: str
    key: str
    delivery: str
    attempts: int = 1
    deaths: int = 0
    written: int = 0
    running: bool = False
    has_folder: bool = False
    opened: Delivery | None = None
    _calls_key: str = ""
    _claim: Claim | None = None

    @classmethod
    def of(cls, consumed: Consumed, message: Message) -> Request:
        """Of a message that has just come."""
        made = new_id()
        key = message.message_id.replace("\0", "?") or made
        body = Body(message.body, message.content_type, message.content_encoding)
        return cls(consumed, message, [message], body, hashlib.sha256(body.data).hexdigest(), key, made)

    @property
    def place(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.message.queue, self.key

    def join(self, message: Message) -> None:
        """One more that asks for the same. Those of an older channel are forgotten: the broker gives them again."""
        self.messages = [*(each for each in self.messages if each.generation >= message.generation), message]
        self.message = self.messages[0]
        self.body = Body(self.message.body, self.message.content_type, self.message.content_encoding)

    @property
    def calls_key(self) -> str:
        """Names what is done for it, in hex: the same for a message that comes again, another for a new one."""
        if not self._calls_key:
            whose = f"{self.message.queue}\0{self.key}\0{self.sha256}"
            self._calls_key = hashlib.sha256(whose.encode()).hexdigest()
        return self._calls_key

    @property
    def reply_id(self) -> str:
        """The message id of its reply."""
        return self.calls_key[32:]

    @property
    def is_small(self) -> bool:
        """Whether it is one row, and soon read."""
        return len(self.message.body) <= SMALL_BYTES and self.body.is_small

    def claim(self, *, alone: bool = False) -> Claim:
        """For the ledger."""
        message = self.message
        self._claim = Claim(
            message.queue,
            self.key,
            self.delivery,
            self.consumed.job.name,
            self.sha256,
            len(message.body),
            message.redelivered,
            alone,
        )
        return self._claim

    def note(
        self, delivery: Delivery | None, end: End, reply: bytes = b"", *, error: str = "", detail: str = ""
    ) -> Note:
        """For the ledger."""
        rows, state = (delivery.counts.rows, delivery.state) if delivery else (0, {})
        return Note(self._claim or self.claim(), self.attempts, end, reply, error, detail, rows, state)

    def open(self, work: Path, settle: Callable[[Exception | None], None], secure: Callable[[], None]) -> Delivery:
        """The delivery; raises ``DeliveryError`` for a body that cannot be read, and ``OSError``."""
        message = self.message
        body = self.body.unfolded(self.consumed.max_unfolded)
        form = body.form
        folder = work
        if form != "object":
            self.has_folder = True
            folder = work / self.delivery
            files.private_folder(folder)

        self.opened = Delivery(  # by position, which takes half the time
            self.delivery,
            "queue",
            message.queue,
            Input("", self.sha256, len(message.body), form),
            folder,
            self.attempts,
            time.time(),
            body.read,
            _nothing,
            settle,
            self.consumed.job.name,
            self.calls_key,
            header(message, FAULTS),
            secure,
        )
        return self.opened

    def clear(self, work: Path) -> None:
        """Remove what it left in the work folder, also in an earlier attempt."""
        shutil.rmtree(work / self.delivery, ignore_errors=True)

    def fault(self) -> DeliveryError | None:
        """Why it cannot even be looked at; None if it can."""
        if self.message.unreadable:
            return DeliveryError(f"{self.message.unreadable}; send it without what the worker cannot read")
        if name := zero(self.message):
            return DeliveryError(f"its {name} holds a zero character, with which no reply can be sent; send it without")
        if len(self.message.body) > self.consumed.max_bytes:
            what = f"its body has {len(self.message.body)} bytes, and this queue takes {self.consumed.max_bytes}"
            return DeliveryError(f"{what}; send fewer rows at once, or raise max_message_bytes and [amqp] max_body")
        return None


def _nothing() -> None:
    """The ledger is asked when the end is noted."""
