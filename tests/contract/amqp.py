"""A broker's client as the tests of queues use it: what it consumes and what became of what it published."""

import contextlib
import itertools
import queue
from dataclasses import replace

from worker.amqp import Broker, Outgoing, QueueTopology
from worker.amqp.broker import TRIES
from worker.secret import Secret
from worker.settings import AmqpSettings

PATIENCE = 30


def settings(url, other_urls=(), **more):
    return AmqpSettings(url=Secret(url), other_urls=tuple(map(Secret, other_urls)), **more)


@contextlib.contextmanager
def connected(url, **more):
    """A started broker; it is closed at the end."""
    broker = Broker.of(settings(url, **more))
    broker.start()
    try:
        yield broker
    finally:
        broker.close()


class Post:
    """Publishes, and keeps what became of it."""

    def __init__(self, broker):
        self.broker = broker
        self._ends = queue.Queue()
        self._ids = itertools.count(1)

    def send(self, routing_key, body=b"{}", tries=TRIES, **properties):
        """Its message id."""
        outgoing = Outgoing(routing_key, body, properties.pop("message_id", f"m{next(self._ids)}"), **properties)
        self.broker.publish(outgoing, lambda sent: self._ends.put((outgoing.message_id, sent)), tries=tries)
        return outgoing.message_id

    def end(self):
        """Message id and end of the next one that has an end."""
        return self._ends.get(timeout=PATIENCE)

    def ends(self, count):
        return [self.end() for _ in range(count)]


class Inbox:
    """What is consumed from a queue."""

    def __init__(self, broker, topology, prefetch=100):
        self.topology = topology
        self._messages = queue.Queue()
        self.consumption = broker.consume(topology, prefetch=prefetch, receive=self._receive)

    def _receive(self, messages):
        for message in messages:
            self._messages.put(message)

    def ready(self):
        assert self.consumption.begun.wait(PATIENCE), self.consumption.reason
        return self

    def next(self):
        return self._messages.get(timeout=PATIENCE)

    def empty(self):
        return self._messages.empty()

    def take(self, count):
        return [self.next() for _ in range(count)]


def inbox(broker, name="q", prefetch=100, ready=True, **topology):
    made = Inbox(broker, replace(QueueTopology(name), **topology), prefetch)
    return made.ready() if ready else made
