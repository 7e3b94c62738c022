"""A broker in memory: queues by name, messages that are acked or given again, confirms and returns."""

from collections import defaultdict, deque
from itertools import count

from worker.amqp import Message, Sent


class Channel:
    """What a message is settled on; a closed one forgets."""

    def __init__(self, twin, queue, generation):
        self._twin, self._queue, self._generation = twin, queue, generation
        self.unsettled = {}

    @property
    def is_live(self):
        return self._twin._channels[self._queue] is self

    def settle(self, tag, *, requeue):
        message = self.unsettled.pop(tag, None)
        if message and requeue:
            self._twin.queues[self._queue].appendleft((message, True))


class Twin:
    """``declared`` are the queues that there are; what is sent elsewhere is returned, or ends as ``refusing`` says."""

    def __init__(self, *declared):
        self.queues = {name: deque() for name in declared}
        self.published = defaultdict(list)
        self.refusing = {}
        self._receive = {}
        self._channels = {}
        self._tags = count(1)
        self._generations = count(1)

    def start(self):
        pass

    def close(self, grace=0):
        pass

    def consume(self, topology, *, prefetch, receive):
        for queue in topology.queues():
            self.queues.setdefault(queue.name, deque())
        self._receive[topology.queue] = receive
        self._channels[topology.queue] = Channel(self, topology.queue, next(self._generations))
        return Consumption(topology)

    def publish(self, outgoing, done):
        to = outgoing.routing_key
        self.published[to].append(outgoing)
        if to in self.refusing:
            done(self.refusing[to])
        elif to not in self.queues:
            done(Sent.RETURNED)
        else:
            done(Sent.CONFIRMED)

    def cut(self, queue):
        """The connection is lost: what is not settled comes again, on a new channel."""
        channel = self._channels[queue]
        for message in reversed(channel.unsettled.values()):
            self.queues[queue].appendleft((message, True))
        channel.unsettled.clear()
        self._channels[queue] = Channel(self, queue, next(self._generations))

    def put(self, queue, *messages):
        self.queues[queue].extend((message, False) for message in messages)

    def deliver(self, queue):
        """Hand out all that lies in a queue."""
        channel, batch = self._channels[queue], []
        while self.queues[queue]:
            message, redelivered = self.queues[queue].popleft()
            tag = next(self._tags)
            channel.unsettled[tag] = message
            batch.append(message_of(queue, message, tag, channel, channel._generation, redelivered=redelivered))
        if batch:
            self._receive[queue](batch)

    def unsettled(self, queue):
        return len(self._channels[queue].unsettled)


class Consumption:
    def __init__(self, topology):
        self.topology = topology
        self.reason = ""

    def cancel(self, timeout=10):
        pass


def message_of(queue, properties, tag, channel, generation, *, redelivered):
    texts = ("message_id", "correlation_id", "reply_to", "content_type", "content_encoding", "type")
    values = {name: properties.get(name, "") for name in texts}
    return Message(
        queue=queue,
        body=properties.get("body", b"{}"),
        **values,
        headers=properties.get("headers", {}),
        redelivered=redelivered,
        unreadable=properties.get("unreadable", ""),
        generation=generation,
        tag=tag,
        settling=channel,
    )
