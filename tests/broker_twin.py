"""A broker in memory: queues by name, messages that are acked or given again, confirms and returns.

``tests/contract/test_broker.py`` holds it to what the real one does. Nothing moves by itself: ``deliver`` is what the
real one does all the time.
"""

from collections import defaultdict, deque
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import count
from threading import Event

from worker import log
from worker.amqp import Message, Sent
from worker.amqp.codec import encoded
from worker.amqp.link import State

TEXTS = ("message_id", "correlation_id", "reply_to", "content_type", "content_encoding", "type")


class Channel:
    """What messages come on and are settled on; a closed one forgets."""

    def __init__(self, queue, generation):
        self._queue, self.generation = queue, generation
        self._tags = count(1)
        self.unsettled = {}
        self.is_live = True

    def hand_out(self, most):
        found = []
        while self._queue and len(self.unsettled) < most:
            properties, redelivered = self._queue.popleft()
            tag = next(self._tags)
            self.unsettled[tag] = properties
            found.append((properties, redelivered, tag))
        return found

    def settle(self, tag, *, requeue):
        properties = self.unsettled.pop(tag, None)
        if properties and requeue:
            self._queue.appendleft((properties, True))

    def close(self):
        for tag in reversed(list(self.unsettled)):
            self.settle(tag, requeue=True)
        self.is_live = False


class Consumption:
    """A queue that is consumed; it begins anew, at the next ``deliver``, whenever its channel has gone."""

    def __init__(self, twin, topology, prefetch, receive):
        self.topology = topology
        self.receive = receive
        self._twin, self._prefetch = twin, prefetch
        self._generations = count(1)
        self._cancelled = False
        self.channel = None
        self.begun = Event()
        self.reason = "not connected yet"

    def begin(self):
        queues = self._twin.queues
        missing = [queue.name for queue in self.topology.queues() if queue.name not in queues]
        if missing and self.topology.passive:
            self.reason = f"{', '.join(missing)}: not there"
            return
        self.restore(lambda: None)
        self.channel = Channel(queues[self.topology.queue], next(self._generations))
        self.reason = ""
        self.begun.set()

    def restore(self, done):
        for queue in self.topology.queues():
            self._twin.queues.setdefault(queue.name, deque())
        done()

    def deliver(self):
        if self._cancelled:
            return
        if not self.channel:
            self.begin()
        found = self.channel.hand_out(self._prefetch) if self.channel else []
        if found:
            self._hand_over([self._message(*each) for each in found])

    def _hand_over(self, messages):
        try:
            self.receive(messages)
        except Exception:  # noqa: BLE001 - as the real one: a bug costs no connection
            log.get_logger().exception("messages could not be taken")
            self.lose("closed for a bug")

    def _message(self, properties, redelivered, tag):
        return Message(
            queue=self.topology.queue,
            body=properties.get("body", b"{}"),
            **{name: properties.get(name, "") for name in TEXTS},
            headers=properties.get("headers", {}),
            redelivered=redelivered,
            unreadable=properties.get("unreadable", ""),
            generation=self.channel.generation,
            tag=tag,
            settling=self.channel,
        )

    def lose(self, reason):
        if self.channel:
            self.channel.close()
        self.channel = None
        self.reason = reason
        self.begun.clear()

    def cancel(self, timeout=10):
        self._cancelled = True

    @property
    def is_idle(self):
        return self._cancelled


class Twin:
    """``declared`` are the queues that there are; what is sent elsewhere is returned, or ends as ``refusing`` says.

    A queue has one who consumes it: whoever came last.
    """

    def __init__(self, *declared):
        self.queues = {name: deque() for name in declared}
        self.published = defaultdict(list)
        self.refusing = {}
        self._consumptions = {}
        self._closed = False

    def start(self):
        pass

    @property
    def state(self):
        return State(up=not self._closed, since=datetime.now(UTC))

    def close(self, grace=0):
        self._closed = True
        for consumption in self._consumptions.values():
            consumption.cancel()
            consumption.lose("closed by this worker")

    def consume(self, topology, *, prefetch, receive):
        consumption = Consumption(self, topology, prefetch, receive)
        consumption.begin()
        self._consumptions[topology.queue] = consumption
        return consumption

    def publish(self, outgoing, done, *, tries=10):
        encoded(outgoing)  # raises what the real one raises
        self.published[outgoing.routing_key].append(outgoing)
        try:
            done(self._end(outgoing))
        except Exception:  # noqa: BLE001 - as the real one: a bug costs no connection
            log.get_logger().exception("the end of a message could not be taken")

    def gathered(self):
        return nullcontext()

    def _end(self, outgoing):
        to = outgoing.routing_key
        if self._closed:
            return Sent.UNKNOWN
        if to in self.refusing:
            return self.refusing[to]
        if outgoing.exchange or to not in self.queues:
            return Sent.RETURNED
        properties = {name: getattr(outgoing, name) for name in ("body", *TEXTS, "headers")}
        self.queues[to].append((properties, False))
        return Sent.CONFIRMED

    def cut(self, queue):
        """The connection is lost: what is not settled comes again, on a new channel."""
        self._consumptions[queue].lose("the connection was cut")
        self._consumptions[queue].begin()

    def delete(self, queue):
        """With all that is in it, as an operator does."""
        if queue in self._consumptions:
            self._consumptions[queue].lose("the broker closed it")
        del self.queues[queue]

    def put(self, queue, *messages):
        self.queues[queue].extend((message, False) for message in messages)

    def deliver(self, queue):
        """Hand out what lies in a queue."""
        self._consumptions[queue].deliver()

    def unsettled(self, queue):
        return len(self._consumptions[queue].channel.unsettled)
