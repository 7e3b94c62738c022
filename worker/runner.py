"""A delivery's whole story: from its job to its rows, through the threads, to the output, and settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from worker import log
from worker.context import DeliveryContext
from worker.declare import Job
from worker.errors import LostLease, Stopping
from worker.execution import Execution, Unit
from worker.jobs import Jobs
from worker.pool import Pool
from worker.records import Delivery, Outcome, Reading, nothing
from worker.sockets import Backend, Output, Part
from worker.stopping import Stop

_NEXT_START = "the worker is stopping; the next start goes on from here"


class Memory(Protocol):
    """Where jobs remember."""

    def load(self, job: str) -> Mapping[str, Any]:
        """Everything that a job remembers."""


class Watcher(Protocol):
    """Sees deliveries come and go; called from their own threads."""

    def began(self, delivery: Delivery) -> None:
        """It was taken."""

    def progressed(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """These rows have an outcome on disk now."""

    def ended(self, delivery: Delivery, error: Exception | None) -> None:
        """It was settled: None is done, ``DeliveryError`` failed, anything else put back."""


class Runner:
    """Runs deliveries, several at once, on one pool of threads; ``stop`` lets each finish the rows under way only.

    ``outputs`` says, by the name of its trigger, where a delivery's outcomes go.
    """

    def __init__(
        self,
        jobs: Jobs,
        backends: Mapping[str, Backend],
        outputs: Mapping[str, Output],
        pool: Pool,
        memory: Memory,
        *,
        chunk_rows: int,
        stop: Stop,
        watcher: Watcher,
    ) -> None:
        self._jobs = jobs
        self._backends = backends
        self._outputs = outputs
        self._pool = pool
        self._memory = memory
        self._chunk_rows = chunk_rows
        self._stop = stop
        self._watcher = watcher

    def run(self, delivery: Delivery) -> None:
        """Take a delivery to its end, whatever that is: the delivery is told, nothing is raised."""
        known: dict[str, object] = {"delivery": delivery.id}
        before = log.bind(known)
        try:
            self._watcher.began(delivery)
            error = self._work(delivery, known)
            delivery.settle(error)
            self._watcher.ended(delivery, error)
        finally:
            log.unbind(before)

    def _work(self, delivery: Delivery, known: dict[str, object]) -> Exception | None:
        try:
            job = self._jobs.find(delivery.job, delivery.source, delivery.trigger)
            known["job"] = delivery.job = job.name
            with self._outputs[delivery.trigger].open(delivery, job) as part:
                self._fill(part, delivery, job)
        except Exception as error:  # noqa: BLE001 - settle decides: failed, or put back
            return error
        except BaseException as raised:  # noqa: BLE001 - a job raised what is no error at all
            return RuntimeError(f"a job raised {type(raised).__name__}")
        return None

    def _fill(self, part: Part, delivery: Delivery, job: Job[..., Any]) -> None:
        if part.committed:
            return
        try:
            self._run_rows(delivery, job, part)
        finally:
            delivery.hurry = nothing  # else the two would wait for the garbage collector
        part.commit()

    def _run_rows(self, delivery: Delivery, job: Job[..., Any], part: Part) -> None:
        context = DeliveryContext(delivery, self._backends, self._memory.load, self._stop.part)
        delivery.hurry = context.hurry
        execution = Execution(job, context, part.is_done)
        if self._pool.is_here:
            self._run_here(delivery, job, execution, part)
        else:
            self._run_on_pool(delivery, job, execution, part, context.hurry)

    def _run_here(self, delivery: Delivery, job: Job[..., Any], execution: Execution, part: Part) -> None:
        """On this thread of the pool's, which would wait for its own kind: mostly there is but one row."""
        for chunk in delivery.read(Reading(job.encoding, job.delimiter, self._chunk_rows)):
            for unit in execution.units(chunk):
                self._keep(delivery, part, self._run_unit(delivery, execution, unit))

    def _run_on_pool(
        self, delivery: Delivery, job: Job[..., Any], execution: Execution, part: Part, hurry: Callable[[], None]
    ) -> None:
        work = partial(self._run_unit_for, log.context(), delivery, execution)
        reading = Reading(job.encoding, job.delimiter, self._chunk_rows, lambda: self._ask(delivery, execution))
        units, held_up = map(execution.units, delivery.read(reading)), delivery.meter.held_up
        for done in self._pool.run(work, units, limit=job.concurrency, held_up=held_up, hurry=hurry):
            self._keep(delivery, part, [outcome for some in done for outcome in some])

    def _run_unit_for(
        self, known: Mapping[str, object], delivery: Delivery, execution: Execution, unit: Unit
    ) -> list[Outcome]:
        before = log.lend(known)
        try:
            return self._run_unit(delivery, execution, unit)
        finally:
            log.unbind(before)

    def _run_unit(self, delivery: Delivery, execution: Execution, unit: Unit) -> list[Outcome]:
        self._go_on(delivery)
        outcomes = execution.work(unit)
        self._be_in_time()
        return outcomes

    def _keep(self, delivery: Delivery, part: Part, outcomes: Sequence[Outcome]) -> None:
        part.append(outcomes)
        self._watcher.progressed(delivery, outcomes)

    def _ask(self, delivery: Delivery, execution: Execution) -> Iterator[Mapping[str, Any]]:
        for row in execution.source():
            self._go_on(delivery)
            yield row
        self._be_in_time()

    def _go_on(self, delivery: Delivery) -> None:
        if delivery.lost:
            raise LostLease(f"delivery {delivery.id} was taken over by another worker")
        if self._stop.is_set():
            raise Stopping(_NEXT_START)

    def _be_in_time(self) -> None:
        """A job may have taken a call that was cut off for one that failed, or for a whole answer."""
        if self._stop.late.is_set():
            raise Stopping(_NEXT_START)
