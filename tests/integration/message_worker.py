"""A project that takes messages, its workers as processes, and an asker who counts the replies."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress

import pika

from worker.ledger import Ledger

SECONDS = 60  # after which a test that hangs fails
LEASE_SECONDS = 3

JOBS = """
import os, time
from pathlib import Path
from worker import Context, DeliveryError, Reject, Row, job

STUCK = Path(__file__).parents[1] / "stuck"

@job(queue="orders", {options})
def order(row: Row, ctx: Context) -> dict | None:
    client = row["client"]
    if client.endswith("7"):
        raise Reject("this client orders nothing")
    if client.endswith("8"):
        return None
    if client == "poison":
        os.kill(os.getpid(), 9)
    if client == "useless":
        raise DeliveryError("nothing can be done about it")
    while client == "stuck" and STUCK.exists():
        STUCK.with_name("begun").touch()
        time.sleep(0.05)
    answer = ctx.rest["orders"].post("/orders", json={{"client": client}})
    return {{"client": client, "order": answer["order"]}}
"""


class MessageWorker:
    """``options`` are what ``@job`` gets beside the queue; ``settings`` are lines of TOML."""

    def __init__(self, folder, amqp_url, orders_url, *, options="", settings="", state="", stop_seconds=25):
        self.folder = folder
        self.url = amqp_url
        self.state = state or f"sqlite:///{folder / '.longshore' / 'state.db'}"
        (folder / "jobs").mkdir(parents=True)
        (folder / "jobs" / "order.py").write_text(JOBS.format(options=options))
        worker = f"[worker]\nthreads = 16\nlease_seconds = {LEASE_SECONDS}\nstop_seconds = {stop_seconds}\n" + (
            f'state = "{state}"\n' if state else ""
        )
        (folder / "longshore.toml").write_text(
            f'{worker}[amqp]\nurl = "{amqp_url}"\nheartbeat = 5\n{settings}\n'
            f'[backends.orders]\ntype = "rest"\nurl = "{orders_url}"\nretries = 1\n'
        )

    @contextmanager
    def running(self, name="worker", *arguments, program=("-m", "worker"), ready="queue consumed"):
        """``longshore run``; what it says is in ``log(name)``."""
        command = [sys.executable, *program, "--config", self.folder / "longshore.toml", "run", *arguments]
        before = len(self.log(name))
        with self._log(name).open("ab") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                if ready:
                    wait_for(lambda: ready in self.log(name)[before:], process)
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def run_once(self):
        """``longshore run --once``; its exit code and what it said."""
        done = self.longshore("run", "--once")
        return done.returncode, done.stderr

    def longshore(self, *arguments):
        command = [sys.executable, "-m", "worker", "--config", self.folder / "longshore.toml", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)

    def _log(self, name):
        return self.folder / f"{name}.log"

    def log(self, name="worker"):
        return self._log(name).read_text() if self._log(name).exists() else ""

    def entries(self):
        with closing(Ledger(self.state)) as ledger:
            return ledger.entries(limit=10_000)


def stopped(process):
    """SIGTERM, and the worker's exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(SECONDS)


def wait_for(condition, process=None, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None, "the worker ended"
        time.sleep(0.05)


class Asker:
    """Publishes requests and collects what comes back; connects anew each time, so that a broker may be restarted."""

    def __init__(self, url, replies="replies"):
        self.url = url
        self.replies = replies
        self.asked = set()
        self.answers = {}  # correlation id -> list of (message id, type, body, properties)

    @contextmanager
    def channel(self):
        with closing(pika.BlockingConnection(pika.URLParameters(self.url))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel

    def declare(self, *queues, **arguments):
        """Durable queues, quorum ones."""
        with self.channel() as channel:
            for queue in queues or (self.replies,):
                channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", **arguments})

    def ask(self, *bodies, queue="orders", named_by="message_id", **changes):
        """Requests, each with an id of its own unless one is given; their ids."""
        ids = []
        with self.channel() as channel:
            for body in bodies:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                mine = {named_by: f"request-{len(self.asked)}", "reply_to": self.replies, "delivery_mode": 2}
                properties = pika.BasicProperties(**{**mine, **changes})
                channel.basic_publish("", queue, data, properties, mandatory=True)
                ids.append(getattr(properties, named_by))
                self.asked.add(ids[-1])
        return ids

    def collect(self):
        """Take what lies in the queue of replies; returns self."""
        for method, properties, body in self.drain(self.replies):
            assert method
            found = self.answers.setdefault(properties.correlation_id, [])
            found.append((properties.message_id, properties.type, body, properties))
        return self

    def drain(self, queue):
        """Take all that lies in a queue: method, properties and body of each."""
        found = []
        with self.channel() as channel:
            while (got := channel.basic_get(queue, auto_ack=True))[0]:
                found.append(got)
        return found

    def length(self, queue):
        """How many messages lie in a queue; None where there is none."""
        with suppress(pika.exceptions.ChannelClosedByBroker), self.channel() as channel:
            return channel.queue_declare(queue, passive=True).method.message_count

    def all_answered(self):
        self.collect()
        return self.answers.keys() >= self.asked

    def check(self):
        """Every message has an answer, and all its answers have one id."""
        self.collect()
        assert self.answers.keys() == self.asked
        assert {len({each[0] for each in found}) for found in self.answers.values()} <= {1}
        ids = [found[0][0] for found in self.answers.values()]
        assert len(set(ids)) == len(ids)

    def types(self):
        return Counter(found[0][1] for found in self.answers.values())

    def body(self, request):
        return json.loads(self.answers[request][0][2])
