"""Builds the parts from the settings, and knows in which order they start and stop."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from worker import log, second_look
from worker.connections import connect
from worker.crew import Crew
from worker.errors import ConfigError, Paused, Problem
from worker.files import durable_folder
from worker.fleet import Fleet
from worker.outputs.outbox import Outbox
from worker.outputs.reply import Replies
from worker.owner import Owner
from worker.pool import Pool
from worker.project import Project, folders, settlement
from worker.queues import Queues
from worker.runner import Runner, Watcher
from worker.sockets import Trigger
from worker.stopping import Grace, Stop, wait_until_stopped
from worker.triggers.adoption import adopt
from worker.triggers.claims import Claims
from worker.triggers.inbox import Inbox
from worker.triggers.schedule import Schedule
from worker.triggers.ticks import Ticks

LOOKS_IN_VAIN = 4  # how often run_once looks at a file that is still being written


class App:
    """A worker. Closing it lets rows under way finish, within ``stop_seconds``, and leaves the rest, resumable, in the
    ledger.

    ``stop`` may be set already: a worker can be told to stop while it starts. Raises ``ConfigError`` where a folder or
    the ledger cannot be used.
    """

    def __init__(
        self, project: Project, watcher: Watcher, *, stop: Stop | None = None, machine: str | None = None
    ) -> None:
        self.settings, self.jobs = project.settings, project.jobs
        self.stop = stop or Stop()
        self._log = log.get_logger()
        self._closing = ExitStack()
        try:
            self._build(watcher, machine)
        except BaseException:
            self._closing.close()
            raise

    def _build(self, watcher: Watcher, machine: str | None) -> None:
        _tune_python()
        self._prepare_folders()
        owner = Owner(self.settings.home / "workers", machine=machine)
        self._closing.callback(owner.close)
        self._connections = self._closing.enter_context(connect(self.settings, owner.name))
        self.ledger, self.backends = self._connections.ledger, self._connections.backends
        owner.sweep(self.ledger.owners())
        self._fleet = Fleet(self.ledger.pauses, self.backends, owner.name)
        self._fleet.start()
        self._closing.callback(self._fleet.close)
        self._pool = self._closing.enter_context(Pool(self.settings.worker.threads))
        self._runner = self._make_runner(watcher)
        self._make_triggers(owner)
        self.crew = Crew(self._runner, self.ledger, size=self.settings.worker.deliveries, stop=self.stop)
        self._bound_the_stop()
        self._closing.callback(self._release)
        self._closing.callback(self.crew.close)

    def _make_runner(self, watcher: Watcher) -> Runner:
        worker, amqp = self.settings.worker, self.settings.amqp
        outbox = Outbox(worker.outbox, chunk_rows=worker.chunk_rows)
        replies = Replies(max_bytes=(amqp.max_body if amqp else 0) * 2**20, chunk_rows=worker.chunk_rows)
        return Runner(
            self.jobs,
            self.backends,
            {"inbox": outbox, "process": outbox, "schedule": outbox, "queue": replies},
            self._pool,
            self.ledger.state,
            chunk_rows=worker.chunk_rows,
            stop=self.stop,
            watcher=watcher,
        )

    def _make_triggers(self, owner: Owner) -> None:
        """What they take deliveries with; they themselves are made when they are to take some."""
        settings, ledger = self.settings, self.ledger
        of_files, of_ticks = (settlement(trigger, ledger, settings) for trigger in ("inbox", "schedule"))
        self.claims = Claims(ledger, folders(settings), self.jobs, of_files, gone=owner.gone)
        self._ticks = Ticks(ledger, settings.work, of_ticks, gone=owner.gone)
        self._queues = Queues(
            settings, self.jobs, ledger.messages, self._runner, self._pool, owner.gone, self.stop, self._fleet
        )

    def _bound_the_stop(self) -> None:
        seconds = self.settings.worker.stop_seconds
        grace = Grace(self.stop, seconds, cut_off=self._connections.cut_off, give_up=self._pool.give_up)
        self._closing.callback(grace.close)

    def _release(self) -> None:
        try:
            self.ledger.release()
        except Paused as trouble:  # nothing is lost: the leases end by themselves
            self._log.warning("leases not given back", reason=trouble.detail)

    def _prepare_folders(self) -> None:
        worker = self.settings.worker
        try:
            durable_folder(self.settings.work)  # in the project's own folder, private, too
            for folder in (worker.inbox, worker.outbox, worker.archive, worker.failed):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot be made or used: {error.strerror}; check its parent and the permissions"
            raise ConfigError([Problem(str(error.filename), "", what)]) from error

    def run(self) -> None:
        """Work until ``stop`` is set."""
        triggers: list[Trigger] = [self._inbox(), self._schedule()]
        with self._queues.consumed():
            for trigger in triggers:
                trigger.start()
            self._log.info("worker started", inbox=str(self.settings.worker.inbox))
            second_look.begin(self.backends.values(), self.stop)
            wait_until_stopped(self.stop)
            self._log.info("worker stopping")
            for trigger in triggers:
                trigger.stop()

    def run_once(self) -> None:
        """Work off what is there: due ticks, what was left behind, what is, or soon gets, complete, and the queues.

        Raises ``Paused`` if the broker is not there, or a file cannot be taken.
        """
        with self._queues.consumed() as queue:
            schedule = self._schedule()
            handed_over = schedule.look()  # before the inbox, whose files may wait for a tick
            trouble = self._empty_inbox()
            while handed_over and not self.stop.is_set():  # the ticks of a job come one after the other
                self.crew.join()
                handed_over = schedule.look()
            self.crew.join()
            if queue:
                self._queues.empty(queue)
        if trouble:
            raise Paused(f"not all of the inbox could be worked off: {trouble}; mend that, and run it again")

    def _empty_inbox(self) -> str:
        """Returns what stood in the way of taking all that is there."""
        inbox, trouble, looks_in_vain = self._inbox(), "", 0
        while looks_in_vain < LOOKS_IN_VAIN and not self.stop.is_set():
            look = inbox.sweep()
            trouble = look.trouble or (trouble if look.settling else "")  # what was not taken has to settle again
            if not look.more and not look.settling:
                break
            looks_in_vain = 0 if look.handed_over else looks_in_vain + 1
            self.stop.wait(0 if look.more else self.settings.worker.settle_seconds)
        return trouble

    def process(self, files: Iterable[Path], *, job: str = "") -> None:
        """Run the job over copies of some files; raises ``OSError`` if one cannot be copied."""
        for file in files:
            self.crew.submit(self.claims.copy(file, job=job))
        self.crew.join()

    def _inbox(self) -> Inbox:
        worker = self.settings.worker
        adopt(self.ledger, folders(self.settings))
        return Inbox(
            worker.inbox,
            self.claims,
            self.jobs,
            self.crew.submit,
            self.crew.room,
            settle_seconds=worker.settle_seconds,
            released=lambda: {job: known.released for job, known in self.ledger.schedules.read().items()},
        )

    def _schedule(self) -> Schedule:
        scheduled = [job for job in self.jobs.enabled if job.schedule]
        return Schedule(scheduled, self.ledger, self._ticks, self.crew.submit, self.crew.room)

    def reload(self) -> None:
        """Read secrets, keys and certificates anew, as they were rotated; the settings stay as they are."""
        if self._connections.reload():
            self._log.info("secrets read anew")

    def close(self) -> None:
        """Stop; returns when the rows under way are finished."""
        self.stop.set()
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tune_python() -> None:
    # Rows come and go by the thousand and never in cycles: looking for cycles at Python's pace takes a third of
    # the time of a row without calls. What the program itself consists of is looked at no more at all.
    gc.set_threshold(50_000, 20, 20)
    gc.freeze()
    # Rows that wait for Python's lock would take it from each other, in the middle of things, every 5 ms.
    sys.setswitchinterval(0.02)
