"""The broker: one thread that owns the connections, messages in, confirmed messages out.

messages, topology, address   what there is                     acks, backoff, properties   what can be worked out
wire, codec                   pika, and nobody else knows it     steps                       answers in order
link                          a connection, made again           declaring                   queues as they must be
consuming, publishing         a channel, opened again            broker, probe               all of it together
"""

from __future__ import annotations

from worker.amqp.broker import Broker
from worker.amqp.consuming import Consumption
from worker.amqp.link import State
from worker.amqp.messages import ATTEMPTS, Message, Outgoing, Sent
from worker.amqp.probe import Found, probe
from worker.amqp.topology import PassingQueue, QueueTopology, Topology

__all__ = [
    "ATTEMPTS",
    "Broker",
    "Consumption",
    "Found",
    "Message",
    "Outgoing",
    "PassingQueue",
    "QueueTopology",
    "Sent",
    "State",
    "Topology",
    "probe",
]
