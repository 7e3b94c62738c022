"""The jobs' queues while a worker runs: what it takes to consume them, started and stopped in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from worker.amqp import Broker, probe
from worker.config import Settings
from worker.errors import Paused, Unavailable
from worker.fleet import Fleet
from worker.hands import Hands
from worker.jobs import Jobs
from worker.ledger import Messages
from worker.pool import Pool
from worker.runner import Runner
from worker.settings import AmqpSettings
from worker.stopping import Stop
from worker.triggers.queue import Queue
from worker.triggers.requests import Consumed

LOOK_SECONDS = 0.1
BROKER_SECONDS = 10.0  # that emptying a queue waits for a broker
LOOK_AT_BROKER_SECONDS = 3.0  # before the start, whether its queues will do
GOODBYE_SECONDS = 5.0  # for the broker to take the last acks
LATE_GOODBYE_SECONDS = 0.5  # for the same, once a stop is over


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues of the enabled jobs; ``gone`` says whether an owner lives no more, ``fleet`` hears of the broker."""

    settings: Settings
    jobs: Jobs
    messages: Messages
    runner: Runner
    pool: Pool
    gone: Callable[[str], bool]
    stop: Stop
    fleet: Fleet

    @contextmanager
    def consumed(self) -> Iterator[Queue | None]:
        """Consumes them meanwhile; None where no broker is configured, or no job has a queue.

        Raises ``ConfigError`` for a broker that is there with queues that will not do.
        """
        worker, amqp = self.settings.worker, self.settings.amqp
        with_queue = [job for job in self.jobs.enabled if job.queue]
        if not amqp or not with_queue:
            yield None
            return
        consumed = [
            Consumed.of(job, threads=worker.threads, max_body=amqp.max_body * 2**20, clock=time.time)
            for job in with_queue
        ]
        with suppress(Unavailable):  # it is waited for, and so are its queues
            probe(amqp, [each.topology for each in consumed], patience=LOOK_AT_BROKER_SECONDS)
        with self._run(amqp, consumed) as queue:
            yield queue

    @contextmanager
    def _run(self, amqp: AmqpSettings, consumed: Sequence[Consumed]) -> Iterator[Queue]:
        worker = self.settings.worker
        limits = {each.topology.queue: each.job.concurrency for each in consumed}
        hands = Hands(self.runner, self.pool, limits, large=worker.deliveries, stop=self.stop)
        broker = Broker.of(amqp)
        queue = Queue(
            broker,
            self.messages,
            consumed,
            hands,
            self.pool.cores,
            self.gone,
            work=self.settings.work,
            lease=worker.lease_seconds,
            stop=self.stop,
        )
        broker.start(self.pool.cores.join)
        self.fleet.listen(lambda: broker.news(queue.neglected))
        queue.start()
        try:
            yield queue
        finally:
            queue.stop()
            hands.close()
            late = self.stop.over.is_set()
            broker.close(*((0, LATE_GOODBYE_SECONDS) if late else (GOODBYE_SECONDS,)))

    def empty(self, queue: Queue) -> None:
        """Return when there are no more messages but those that wait to be tried again.

        Raises ``Paused`` where that does not come.
        """
        vain = 0
        while not queue.quiet and not self.stop.wait(LOOK_SECONDS):
            vain = vain + 1 if queue.trouble else 0
            if vain * LOOK_SECONDS > BROKER_SECONDS:
                raise Paused(f"a queue cannot be emptied: {queue.trouble}")
