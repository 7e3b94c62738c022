"""Answers requests from one queue on another, without work: run by messages.py, ended by a signal.

    message_clients.py raw|broker|worker|aio_pika|faststream|celery|dramatiq URL

``raw`` is pika's SelectConnection and as little as can be beside it: pipelined confirms, one multiple ack for what is
confirmed. ``broker`` is what the worker has, without the worker, and ``worker`` is the worker with a job that
gives back what it gets. The others are what one might take instead, and have to be installed first. They remember
nothing, so a message that comes again is run again, and three of them do less for a reply, too. ``faststream`` acks the
request of one that no queue takes. So does ``celery``, whose RPC results come nearest to replies; they are persistent
and confirmed here, and the request is acked late. ``dramatiq`` has no replies over AMQP: its actor sends a message to
another actor's queue, and waits for its confirm.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from message_forms import REPLIES, REQUESTS

PREFETCH, THREADS = 300, 8


def raw(url: str) -> None:
    import pika

    def opened(connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=ready)

    def ready(channel: pika.channel.Channel) -> None:
        # A reply's number is its request's delivery tag, as both count from 1

        def confirmed(frame: pika.frame.Method) -> None:
            channel.basic_ack(frame.method.delivery_tag, multiple=frame.method.multiple)

        def arrived(
            _channel: pika.channel.Channel, _method: pika.spec.Basic.Deliver, found: pika.BasicProperties, body: bytes
        ) -> None:
            properties = pika.BasicProperties(
                content_type="application/json",
                delivery_mode=2,
                correlation_id=found.message_id,
                message_id=f"{found.message_id}-reply",
                type="result",
            )
            channel.basic_publish("", REPLIES, body, properties, mandatory=True)

        channel.confirm_delivery(confirmed)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(REQUESTS, arrived)

    pika.SelectConnection(pika.URLParameters(url), on_open_callback=opened).ioloop.start()


def broker(url: str) -> None:
    from worker.amqp import Broker, Message, Outgoing, QueueTopology
    from worker.secret import Secret
    from worker.settings import AmqpSettings

    client = Broker.of(AmqpSettings(url=Secret(url)))

    def receive(messages: list[Message]) -> None:
        for message in messages:
            reply = Outgoing(
                REPLIES,
                message.body,
                f"{message.message_id}-reply",
                correlation_id=message.message_id,
                content_type="application/json",
                type="result",
            )
            client.publish(reply, lambda _, message=message: message.ack())

    client.start()
    client.consume(QueueTopology(REQUESTS, REPLIES), prefetch=PREFETCH, receive=receive)
    signal.pause()


ECHO = f"""
from worker import job

@job(queue="{REQUESTS}", prefetch={PREFETCH})
def echo(row, ctx):
    return dict(row)
"""


def worker(url: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="longshore-bench-"))  # which messages.py removes with all that is in it
    (folder / "jobs").mkdir()
    (folder / "jobs" / "echo.py").write_text(ECHO)
    (folder / "longshore.toml").write_text(f'[worker]\nlog_level = "warning"\n[amqp]\nurl = "{url}"\n')
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "worker", "run"])


def aio_pika(url: str) -> None:
    import asyncio

    import aio_pika

    async def main() -> None:
        channel = await (await aio_pika.connect(url)).channel()
        await channel.set_qos(prefetch_count=PREFETCH)

        async def answer(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                reply = aio_pika.Message(
                    message.body,
                    content_type="application/json",
                    delivery_mode=2,
                    correlation_id=message.message_id,
                    message_id=f"{message.message_id}-reply",
                    type="result",
                )
                await channel.default_exchange.publish(reply, REPLIES)

        await (await channel.get_queue(REQUESTS)).consume(answer)
        await asyncio.Future()

    asyncio.run(main())


def faststream(url: str) -> None:
    import asyncio

    from faststream import FastStream
    from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

    broker = RabbitBroker(url, default_channel=Channel(prefetch_count=PREFETCH), logger=None)
    requests, replies = (RabbitQueue(name, durable=True, queue_type=QueueType.QUORUM) for name in (REQUESTS, REPLIES))

    @broker.subscriber(requests)
    @broker.publisher(replies, persist=True, mandatory=True)
    async def echo(body: dict[str, str]) -> dict[str, str]:
        return body

    asyncio.run(FastStream(broker).run())


def celery(url: str) -> None:
    from celery import Celery
    from kombu import Queue

    app = Celery(broker=url, backend="rpc://")
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        result_persistent=True,
        task_acks_late=True,
        task_default_queue=REQUESTS,
        task_queues=[Queue(REQUESTS, durable=True, queue_arguments={"x-queue-type": "quorum"})],
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=PREFETCH // THREADS,
    )

    @app.task(name="echo")  # type: ignore[untyped-decorator]
    def echo(body: dict[str, str]) -> dict[str, str]:
        return body

    lean = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=error"]
    app.worker_main(["worker", "--pool=threads", f"--concurrency={THREADS}", *lean])


def dramatiq(url: str) -> None:
    os.environ["dramatiq_queue_prefetch"] = str(PREFETCH)  # noqa: SIM112 - it is spelled like this
    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    class Broker(RabbitmqBroker):  # type: ignore[misc]
        def _build_queue_arguments(self, _name: str) -> dict[str, str]:
            return {"x-queue-type": "quorum"}

    broker = Broker(url=url, confirm_delivery=True, middleware=[])

    @dramatiq.actor(broker=broker, queue_name=REPLIES)  # type: ignore[untyped-decorator]
    def reply(body: dict[str, str]) -> None:
        """Never run here."""

    @dramatiq.actor(broker=broker, queue_name=REQUESTS)  # type: ignore[untyped-decorator]
    def echo(body: dict[str, str]) -> None:
        reply.send(body)

    dramatiq.Worker(broker, queues={REQUESTS}, worker_threads=THREADS).start()
    signal.pause()


CLIENTS = {each.__name__: each for each in (raw, broker, worker, aio_pika, faststream, celery, dramatiq)}

if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2])
