"""The broker: one thread that owns the connections, messages in, confirmed messages out.

broker, probe                          all of it together
consuming, publishing                  a channel, opened again and again; declaring: the queues as they must be
link                                   a connection, made again and again
wire                                   connections and channels, asked in steps
loop, connection, losses               pika's; nobody above knows it
codec, incoming                        messages to bytes, and deliveries from bytes
messages, topology, properties, ...    what there is, and what can be worked out without a broker
"""

from __future__ import annotations

from worker.amqp.broker import Broker
from worker.amqp.consuming import Consumption
from worker.amqp.link import State
from worker.amqp.messages import ATTEMPTS, ERROR, Message, Outgoing, Sent
from worker.amqp.probe import Found, probe
from worker.amqp.topology import PassingQueue, QueueTopology, Topology

__all__ = [
    "ATTEMPTS",
    "ERROR",
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
