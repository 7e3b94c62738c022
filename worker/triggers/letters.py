"""What is published for a message: its reply, a copy that comes again later, or a dead letter.

Headers of the worker's own begin with ``x-longshore-``; nothing in them quotes a message's content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from worker.amqp import ATTEMPTS, ERROR, Message, Outgoing
from worker.errors import DeliveryError, LeftAlone, ServerFault, Unavailable, storable
from worker.records import Reply

NOT_BEFORE = "x-longshore-not-before"  # seconds since 1970
FAULTS = "x-longshore-faults"  # how many tries in a row have ended in a ``ServerFault``
UNROUTABLE = "x-longshore-unroutable"  # how often its reply could not be sent
LONGEST_WAIT = 30  # seconds in a retry queue; a longer wait takes several turns
GROWTH = 4
MOST_WAITING = 86_400  # seconds that the headers may ask for
DETAIL_CHARACTERS = 500
TEXTS = ("message_id", "correlation_id", "reply_to", "content_type", "content_encoding", "type")
_all_texts = attrgetter(*TEXTS)
_OWN = "x-longshore-"
_COUNTED = (ATTEMPTS, NOT_BEFORE, FAULTS, UNROUTABLE)
_BROKERS_OWN = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
_MOST_SECONDS = 1 << 40


def delays(first: int) -> tuple[int, ...]:
    """The waits that a message goes through, in seconds: each four times as long as the one before, up to 30 s."""
    found = [first]
    while found[-1] < LONGEST_WAIT:
        found.append(min(found[-1] * GROWTH, LONGEST_WAIT))
    return tuple(found)


def header(message: Message, name: str) -> int:
    """A number that the worker has written into a message's headers; 0 if it is missing or makes no sense, and for a
    dead letter that was moved back.
    """
    if not message.headers or ERROR in message.headers:
        return 0
    value = message.headers.get(name, 0)
    return int(value) if isinstance(value, int) and 0 <= value < _MOST_SECONDS else 0


def reply(message: Message, found: Reply, to: str, message_id: str) -> Outgoing:
    """What the asker is told; doubles of it have the same ``message_id``."""
    correlation_id = message.correlation_id or message.message_id
    return Outgoing(to, found.body, message_id, correlation_id, found.content_type, found.type, found.headers)


class Again:
    """Sends messages through the retry queues of ``queue``, one for each delay; ``clock`` is seconds since 1970."""

    def __init__(self, queue: str, waits: tuple[int, ...], clock: Callable[[], float]) -> None:
        self._queue = queue
        self._waits = waits
        self._clock = clock

    def is_early(self, message: Message) -> bool:
        """Whether it came back before its wait is over, as that is longer than one turn."""
        if not message.headers:
            return False
        until = header(message, NOT_BEFORE)
        return until > 0 and self._clock() < until < self._clock() + MOST_WAITING

    def turn(self, message: Message, message_id: str) -> Outgoing:
        """One turn more, for what is early."""
        return self._send(message, message_id, header(message, NOT_BEFORE) - self._clock(), {})

    def after(self, message: Message, message_id: str, error: Exception) -> Outgoing:
        """The next try, after waits that grow, and that are never shorter than a backend has asked for."""
        asked = error.retry_after if isinstance(error, Unavailable) else None
        tried = not isinstance(error, LeftAlone)
        wait = self._waits[min(message.attempts, len(self._waits) - 1)] if tried or not asked else 0
        until = {NOT_BEFORE: int(self._clock() + asked + 1)} if asked and asked > wait else {}
        faults = (header(message, FAULTS) + 1) * isinstance(error, ServerFault) if tried else header(message, FAULTS)
        counted = {ATTEMPTS: message.attempts + tried, FAULTS: faults}
        return self._send(message, message_id, max(wait, asked or 0), counted | until)

    def unroutable(self, message: Message, message_id: str, times: int) -> Outgoing:
        """Once more, as nobody takes its reply."""
        return self._send(message, message_id, self._waits[min(times, len(self._waits)) - 1], {UNROUTABLE: times})

    def _send(self, message: Message, message_id: str, seconds: float, headers: Mapping[str, int]) -> Outgoing:
        wait = next((each for each in self._waits if each >= seconds), self._waits[-1])
        kept = {name: header(message, name) for name in _COUNTED if name in message.headers}
        if headers:
            kept.pop(NOT_BEFORE, None)
        return _copy(message, f"{self._queue}.retry.{wait}", message_id, {**_senders(message), **kept, **headers})


def dead(message: Message, message_id: str, error: Exception, detail: str, **facts: str) -> Outgoing:
    """A message for the dead letters, byte for byte, with why it is there."""
    failed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {"error": type(error).__name__, "detail": storable(detail[:DETAIL_CHARACTERS]), "queue": message.queue}
    changed = {name.replace("_", "-"): text.encode() for name, text in _texts(message) if text != storable(text)}
    headers = {f"{_OWN}{name}": value for name, value in {**changed, **told, "failed": failed, **facts}.items()}
    letter = _copy(message, f"{message.queue}.dead", message_id, {ATTEMPTS: message.attempts, **headers})
    return replace(letter, headers={**_senders(message), **letter.headers})


def without_senders_headers(outgoing: Outgoing) -> Outgoing:
    """For a sender whose headers cannot be sent on."""
    ours = {name: value for name, value in outgoing.headers.items() if str(name).startswith(_OWN)}
    return replace(outgoing, headers=ours)


def _senders(message: Message) -> dict[str, Any]:
    not_theirs = (*_BROKERS_OWN, _OWN)
    return {name: value for name, value in message.headers.items() if not str(name).startswith(not_theirs)}


def _copy(message: Message, to: str, message_id: str, headers: Mapping[str, Any]) -> Outgoing:
    texts: dict[str, Any] = {name: storable(text) for name, text in _texts(message)}
    texts["message_id"] = texts["message_id"] or message_id
    return Outgoing(to, message.body, headers=headers, **texts)


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    return ((name, getattr(message, name)) for name in TEXTS)


def zero(message: Message) -> str:
    """The name of a property that holds a zero character, with which nothing can be sent on; empty if none does."""
    if "\0" not in "".join(_all_texts(message)):
        return ""
    return next(name for name, text in _texts(message) if "\0" in text)


class Conflict(DeliveryError):
    """A message id that came before, with another body."""


class Unroutable(DeliveryError):
    """Nobody takes the reply."""
