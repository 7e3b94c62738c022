"""``longshore publish``: a file as a message, and the reply to it."""

from __future__ import annotations

import gzip
import json
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.arguments import FAILED, Config, Json, load_settings, misused
from worker.errors import Unavailable, WorkerError

if TYPE_CHECKING:
    from worker.amqp import Broker, Message, Outgoing, Sent
    from worker.config import Settings
    from worker.records import Entry
    from worker.settings import AmqpSettings

STDIN = "-"
ON_THE_WAY = 1_000
LOOK_SECONDS = 0.05
_TYPES = {".json": "application/json", ".csv": "text/csv"}


def publish(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue, which must exist.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help=".json or .csv, also with .gz; - is JSON from stdin.")],
    config: Config = None,
    json: Json = False,
    wait: Annotated[bool, typer.Option("--wait", help="Print the reply.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds to wait, for the broker and for a reply.")
    ] = 60,
    count: Annotated[int, typer.Option(min=1, help="Send it so many times, each with an id of its own.")] = 1,
) -> None:
    """Send a message to a queue, as an asker would; done when the broker has it on disk."""
    from worker.commands import screens

    settings = load_settings(config)
    if not settings.amqp:
        misused(f'{settings.path}: there is no broker; write [amqp] with e.g. url = {{ env = "AMQP_URL" }}')
    request = _request(queue, file)
    if wait:
        request = replace(request, reply_to=f"longshore.replies.{secrets.token_hex(8)}")
    rejected = 0
    with _connected(settings.amqp) as broker, screens.counting(count, shown=_is_watched(json, count)) as counted:
        for reply in _Exchange(broker, request, timeout, partial(_known, settings)).send(count, counted):
            rejected += _has_rejected(reply)
            _show(reply, json=json)
    if not wait:
        _say_sent(queue, count, json=json)
    if rejected:
        raise typer.Exit(FAILED)


def ask(settings: AmqpSettings, queue: str, body: bytes, *, timeout: float = 60) -> str:
    """Send a JSON message to a queue, and return the reply; raises ``Unavailable`` if there is none in time."""
    from worker.amqp import Outgoing

    reply_to = f"longshore.replies.{secrets.token_hex(8)}"
    request = Outgoing(queue, body, message_id="", content_type="application/json", reply_to=reply_to)
    with _connected(settings) as broker:
        (reply,) = _Exchange(broker, request, timeout).send(1, lambda: None)
        return _unpacked(reply).decode(errors="replace")


def _request(queue: str, file: str) -> Outgoing:
    """The message for a file, without an id."""
    from worker.amqp import Outgoing

    name = PurePath("stdin.json" if file == STDIN else file.lower())
    packed = name.suffix == ".gz"
    suffix = PurePath(name.stem).suffix if packed else name.suffix
    if suffix not in _TYPES:
        misused(f"{file}: its name must end in {' or '.join(_TYPES)}, as that says what the message holds")
    body = sys.stdin.buffer.read() if file == STDIN else _content(Path(file))
    return Outgoing(queue, body, message_id="", content_type=_TYPES[suffix], content_encoding="gzip" if packed else "")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        misused(f"{file}: cannot be read: {error.strerror}")


@contextmanager
def _connected(settings: AmqpSettings) -> Iterator[Broker]:
    from worker.amqp import Broker, probe

    probe(settings)  # which says what is wrong, where a worker would go on trying
    broker = Broker.of(settings)
    broker.start()
    try:
        yield broker
    finally:
        broker.close()


class _Exchange:
    """Sends copies of a request, a limited number at a time, until the broker has them or the replies are there."""

    def __init__(
        self,
        broker: Broker,
        request: Outgoing,
        timeout: float,
        known: Callable[[str, list[str]], list[Entry]] = lambda *_: [],
    ) -> None:
        self._broker = broker
        self._known = known
        self._request = request
        self._timeout = timeout
        self._events: SimpleQueue[Sent | Message] = SimpleQueue()
        self._under_way = 0
        self._replies: set[str] = set()
        self._unanswered: dict[str, None] = {}

    def send(self, count: int, counted: Callable[[], None]) -> Iterator[Message]:
        """Yields the replies, if the request wants any, and calls ``counted`` for each that is done.

        Raises ``Unavailable`` for what nobody takes or answers.
        """
        if self._request.reply_to:
            self._listen(self._request.reply_to)
        for _ in range(count):
            while self._under_way >= ON_THE_WAY:
                yield from self._next(counted)
            self._under_way += 1
            message_id = secrets.token_hex(16)
            self._unanswered[message_id] = None
            self._broker.publish(replace(self._request, message_id=message_id), self._events.put)
        while self._under_way:
            yield from self._next(counted)

    def _listen(self, queue: str) -> None:
        from worker.amqp import PassingQueue

        consumption = self._broker.consume(PassingQueue(queue), prefetch=100, receive=self._receive)
        until = time.monotonic() + self._timeout
        while not consumption.begun.wait(LOOK_SECONDS):
            if consumption.refused or time.monotonic() > until:
                advice = "; let this user declare it and read it, or leave --wait out" if consumption.refused else ""
                raise Unavailable("amqp", f"there can be no queue for the replies: {consumption.reason}{advice}")

    def _receive(self, messages: list[Message]) -> None:
        for message in messages:
            message.ack()
            self._events.put(message)

    def _next(self, counted: Callable[[], None]) -> Iterator[Message]:
        from worker.amqp import Message, Sent

        try:
            event = self._events.get(timeout=self._timeout)
        except Empty:
            raise Unavailable("amqp", self._silence()) from None
        name = self._request.routing_key
        if isinstance(event, Message):
            if event.message_id and event.message_id in self._replies:
                return  # after a crash a worker sends a reply again that had arrived
            self._replies.add(event.message_id)
            self._unanswered.pop(event.correlation_id, None)
            self._under_way -= 1
            counted()
            yield event
        elif event is Sent.RETURNED:
            raise Unavailable("amqp", f"there is no queue named {name}; `longshore run` declares those of its jobs")
        elif event is Sent.TOO_LARGE:
            raise Unavailable("amqp", "the message is larger than the broker takes; raise its max_message_size")
        elif event is not Sent.CONFIRMED:
            raise Unavailable(
                "amqp", f"the queue {name} does not take the message: it may be full, or this user may not write"
            )
        elif not self._request.reply_to:
            self._under_way -= 1
            counted()

    def _silence(self) -> str:
        state = self._broker.state
        if state.blocked or not state.up:
            return f"the broker has taken nothing for {self._timeout:g} s: {state.blocked or state.reason}"
        queue = self._request.routing_key
        where = self._whereabouts(queue, self._known(queue, list(self._unanswered)))
        return f"nothing came back for {self._timeout:g} s; what was sent {where}"

    @staticmethod
    def _whereabouts(queue: str, known: list[Entry]) -> str:
        states = {entry.state: entry for entry in known}
        if failed := states.get("failed"):
            return f"failed, and is a dead letter in {queue}.dead: {failed.detail}"
        if waiting := states.get("waiting"):
            return f"waits to be tried again: {waiting.detail or 'its worker was stopped'}"
        if running := states.get("running"):
            return f"is being worked on: `longshore show {running.id}`"
        return f"waits in {queue} for a worker, or is a dead letter by now, in {queue}.dead, whose headers say why"


def _known(settings: Settings, queue: str, ids: list[str]) -> list[Entry]:
    """What the project's ledger knows, if there is one: messages are often sent from where no worker is."""
    from worker.ledger import Ledger

    if settings.lacks_ledger:
        return []
    try:
        with closing(Ledger(settings.worker.state)) as ledger:
            return ledger.messages.known(queue, ids)
    except WorkerError:  # a sentence about that would lead away from the one that is missing, the reply
        return []


def _say_sent(queue: str, count: int, *, json: bool) -> None:
    from worker.commands import screens

    if json:
        screens.say_json({"queue": queue, "sent": count})
    else:
        screens.say(f"{queue} has {'the message' if count == 1 else f'{count:,} messages more'}")


def _is_watched(json: bool, count: int) -> bool:
    return count > 1 and not json and sys.stderr.isatty()


def _show(reply: Message, *, json: bool) -> None:
    from worker.commands import screens

    text = _unpacked(reply).decode(errors="replace")
    if json:
        screens.say_json({"correlation_id": reply.correlation_id, "type": reply.type, "reply": text})
    else:
        typer.echo(text, nl=not text.endswith("\n"))


def _has_rejected(reply: Message) -> bool:
    """Whether any row was: the type says it of one row, the body of an array's, the headers of a table's."""
    if reply.type != "results" or reply.content_type != "application/json":
        return reply.type == "rejected" or bool(reply.headers.get("x-longshore-rejected"))
    try:
        return bool(json.loads(_unpacked(reply))["rejected"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # it is of another worker than ours


def _unpacked(reply: Message) -> bytes:
    if reply.content_encoding != "gzip":
        return reply.body
    try:
        return gzip.decompress(reply.body)
    except (OSError, EOFError, zlib.error):
        raise Unavailable("amqp", "the reply says that it is gzip, and is not") from None
