"""How many requests a second become replies, without work, beside pika alone on the same broker.

    .venv/bin/python benchmarks/messages.py --rounds 3 --messages 20000

Each reply is confirmed by the broker before its request is acknowledged, and both queues are quorum queues. The
clients take turns; a round is from the first reply in its queue to the last. Needs RabbitMQ's server. Clients of others
(see message_clients.py) that are not installed are left out, unless they are asked for.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
from message_forms import REPLIES, REQUESTS, form
from pika.adapters.blocking_connection import BlockingChannel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from servers.rabbitmq import RabbitMQ, rabbitmq  # noqa: E402 - found only now

CLIENTS = Path(__file__).with_name("message_clients.py")
OURS, OTHERS = ("raw", "broker", "worker"), ("aio_pika", "faststream", "celery", "dramatiq")
QUORUM = {"x-queue-type": "quorum"}
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 60


def fill(channel: BlockingChannel, name: str, count: int) -> None:
    """Put so many requests for a client into the queue."""
    for number in range(count):
        body, more = form(name, number)
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=f"m{number}", reply_to=REPLIES, **more
        )
        channel.basic_publish("", REQUESTS, body, properties)
    while depth(channel, REQUESTS) < count:
        time.sleep(LOOK_SECONDS)


def depth(channel: BlockingChannel, queue: str) -> int:
    """How many messages are ready in a queue."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


@contextmanager
def client(name: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that answers, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="longshore-bench-") as folder:
        command = [sys.executable, str(CLIENTS), name, url]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": folder}
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def megabytes(process: subprocess.Popen[bytes]) -> float:
    """What a process holds in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def rate(broker: RabbitMQ, name: str, count: int) -> tuple[float, float, float]:
    """Replies a second, and the client's memory after the first tenth and at the end."""
    with broker.connect() as connection:
        channel = connection.channel()
        for queue in (REQUESTS, REPLIES):
            channel.queue_purge(queue)
        fill(channel, name, count)
        with client(name, broker.url()) as process:
            begun, first = wait_for(channel, 1, process)
            wait_for(channel, count // 10, process)
            early = megabytes(process)
            ended, last = wait_for(channel, count, process)
            late = megabytes(process)
    return (last - first) / (ended - begun), early, late


def wait_for(channel: BlockingChannel, count: int, process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """When there were at least so many replies, and how many there were."""
    deadline = time.perf_counter() + PATIENCE_SECONDS + count / 200
    while (found := depth(channel, REPLIES)) < count:
        if process.poll() is not None or time.perf_counter() > deadline:
            raise SystemExit(f"only {found} replies: {process.stderr.read().decode() if process.stderr else ''}")
        time.sleep(LOOK_SECONDS)
    return time.perf_counter(), found


def chosen(asked_for: list[str] | None) -> list[str]:
    """The clients to measure; ends the program if one that was asked for is not installed."""
    missing = [name for name in asked_for or OTHERS if name in OTHERS and not importlib.util.find_spec(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}")
    if missing and asked_for:
        raise SystemExit("install what you ask for, into a virtual environment of its own")
    return asked_for or [name for name in (*OURS, *OTHERS) if name not in missing]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--messages", type=int, default=20_000)
    arguments.add_argument("--clients", nargs="+", choices=[*OURS, *OTHERS])
    options = arguments.parse_args()
    clients = chosen(options.clients)
    rates: dict[str, list[tuple[float, float, float]]] = {name: [] for name in clients}
    with rabbitmq() as broker:
        with broker.connect() as connection:
            for queue in (REQUESTS, REPLIES):
                connection.channel().queue_declare(queue, durable=True, arguments=QUORUM)
        for _ in range(options.rounds):
            for name, found in rates.items():
                found.append(rate(broker, name, options.messages))
    usual = {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in rates.items()}
    print(f"{'client':>10} {'messages/s':>12} {'ratio':>8} {'MB early':>10} {'MB late':>10}")
    for name, (each, early, late) in usual.items():
        print(f"{name:>10} {each:>12,.0f} {each / usual[clients[0]][0]:>8.2f} {early:>10.0f} {late:>10.0f}")


if __name__ == "__main__":
    main()
