"""A broker's client beside those who operate the broker: in memory, or with RabbitMQ."""

import contextlib
import time
from collections import deque
from dataclasses import replace

import pika
from broker_twin import Twin
from contract.amqp import PATIENCE, settings

from worker.amqp import Broker, Outgoing, QueueTopology, Sent


class InMemory:
    """The twin, and what others do at it."""

    def __init__(self):
        self.broker = Twin()
        self._consumed = set()

    def pause(self):
        for queue in self._consumed:
            self.broker.deliver(queue)

    def consuming(self, queue):
        self._consumed.add(queue)

    def declare(self, queue):
        self.broker.queues.setdefault(queue, deque())

    def declare_full(self, queue):
        self.declare(queue)
        self.broker.refusing[queue] = Sent.REFUSED

    def delete(self, queue):
        self.broker.delete(queue)

    def put(self, queue, body, **properties):
        self.broker.put(queue, {"body": body, **properties})

    def depth(self, queue):
        return len(self.broker.queues[queue]) if queue in self.broker.queues else None

    def cut(self):
        for queue in self._consumed:
            self.broker.cut(queue)

    def close(self):
        self.broker.close()


class WithRabbitMQ:
    """The real one; ``url`` is of an empty virtual host."""

    def __init__(self, server, url):
        self.broker = Broker.of(settings(url))
        self._server, self._url = server, url

    def pause(self):
        time.sleep(0.01)

    def consuming(self, queue):
        pass

    @contextlib.contextmanager
    def _channel(self):
        with self._server.connect(self._url) as connection:
            yield connection.channel()

    def declare(self, queue, **arguments):
        with self._channel() as channel:
            channel.queue_declare(queue, durable=True, arguments=arguments)

    def declare_full(self, queue):
        self.declare(queue, **{"x-max-length": 0, "x-overflow": "reject-publish"})

    def delete(self, queue):
        with self._channel() as channel:
            channel.queue_delete(queue)

    def put(self, queue, body, **properties):
        with self._channel() as channel:
            channel.basic_publish("", queue, body, pika.BasicProperties(**properties))

    def depth(self, queue):
        with self._channel() as channel:
            try:
                return channel.queue_declare(queue, passive=True).method.message_count
            except pika.exceptions.ChannelClosedByBroker:
                return None

    def cut(self):
        self._server.close_connections()

    def close(self):
        self.broker.close()


class Side:
    """What a test of either uses."""

    def __init__(self, kind):
        self.operator = kind
        self.broker = kind.broker

    def until(self, check):
        """Wait for it; returns what it gives."""
        deadline = time.monotonic() + PATIENCE
        while not (found := check()):
            assert time.monotonic() < deadline
            self.operator.pause()
        return found

    def inbox(self, name="q", prefetch=100, *, ready=True, receive=None, **topology):
        inbox = Inbox(self, replace(QueueTopology(name), **topology), prefetch, receive)
        if ready:
            self.until(inbox.consumption.begun.is_set)
        return inbox

    def post(self):
        return Post(self)


class Inbox:
    """What is consumed from a queue; ``receive`` may fail before it is kept."""

    def __init__(self, side, topology, prefetch, receive):
        self._side = side
        self._arrived = []
        self._before = receive or len
        side.operator.consuming(topology.queue)
        self.consumption = side.broker.consume(topology, prefetch=prefetch, receive=self._receive)

    def _receive(self, messages):
        self._before(messages)
        self._arrived += messages

    @property
    def empty(self):
        return not self._arrived

    def take(self, count):
        self._side.until(lambda: len(self._arrived) >= count)
        taken, self._arrived[:count] = self._arrived[:count], []
        return taken

    def next(self):
        return self.take(1)[0]


class Post:
    """Publishes, and keeps what became of it."""

    def __init__(self, side):
        self._side = side
        self.ends = []
        self._sent = 0

    def send(self, routing_key="q", body=b"{}", *, tries=10, **properties):
        """Its message id."""
        self._sent += 1
        outgoing = Outgoing(routing_key, body, properties.pop("message_id", f"m{self._sent}"), **properties)
        self._side.broker.publish(outgoing, lambda sent: self.ends.append((outgoing.message_id, sent)), tries=tries)
        return outgoing.message_id

    def all_ended(self):
        """Message id and end of each, once there are as many as were sent."""
        self._side.until(lambda: len(self.ends) >= self._sent)
        return self.ends

    def sent(self, routing_key="q", body=b"{}", **properties):
        """Send one and wait; its end."""
        self.send(routing_key, body, **properties)
        return self.all_ended()[-1][1]
