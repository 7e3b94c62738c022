"""Builds the parts from the settings, and knows in which order they start and stop."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from worker import auth, backends, config, jobs, log, second_look
from worker.amqp import Broker, probe
from worker.auth import Credential
from worker.config import Settings
from worker.crew import Crew
from worker.errors import ConfigError, Paused, Problem, Unavailable
from worker.files import durable_folder
from worker.fleet import Fleet
from worker.hands import Hands
from worker.jobs import Jobs
from worker.ledger import Ledger
from worker.outputs.outbox import Outbox
from worker.outputs.reply import Replies
from worker.owner import Owner
from worker.pool import Pool
from worker.runner import Runner, Watcher
from worker.sockets import Backend, Trigger
from worker.stopping import Grace, Stop, wait_until_stopped
from worker.triggers.adoption import adopt
from worker.triggers.claims import Claims
from worker.triggers.endings import FileEnding, Folders
from worker.triggers.inbox import Inbox
from worker.triggers.queue import Queue
from worker.triggers.requests import Consumed
from worker.triggers.schedule import Schedule
from worker.triggers.settlement import Settlement
from worker.triggers.ticks import TickEnding, Ticks

LOOK_SECONDS = 0.1
BROKER_SECONDS = 10.0  # that run_once waits for a broker
LOOK_AT_BROKER_SECONDS = 3.0  # before the start, whether its queues will do
GOODBYE_SECONDS = 5.0  # for the broker to take the last acks
LOOKS_IN_VAIN = 4  # how often run_once looks at a file that is still being written


@dataclass(frozen=True, slots=True)
class Project:
    """A folder of the user's: its settings and its jobs."""

    settings: Settings
    jobs: Jobs

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read both; raises ``ConfigError`` with the mistakes of both."""
        problems: list[Problem] = []
        try:
            settings = config.load(path)
        except ConfigError as error:
            problems += error.problems
            folder = (path or Path("longshore.toml")).resolve().parent / "jobs"
            overrides: Mapping[str, config.JobSettings] = {}
        else:
            folder, overrides = settings.jobs_folder, settings.jobs
        try:
            found = jobs.load(folder, overrides)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        return cls(settings, found)


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
        worker = self.settings.worker
        # Rows come and go by the thousand and never in cycles: looking for cycles at Python's pace takes a third of
        # the time of a row without calls. What the program itself consists of is looked at no more at all.
        gc.set_threshold(50_000, 20, 20)
        gc.freeze()
        # Rows that wait for Python's lock would take it from each other, in the middle of things, every 5 ms.
        sys.setswitchinterval(0.02)
        self._prepare_folders()
        owner = Owner(self.settings.home / "workers", machine=machine)
        self._closing.callback(owner.close)
        connections = self._closing.enter_context(connect(self.settings, owner.name))
        self.ledger, self.backends = connections.ledger, connections.backends
        self._credentials = connections.credentials
        owner.sweep(self.ledger.owners())
        fleet = Fleet(self.ledger.pauses, self.backends, owner.name)
        fleet.start()
        self._closing.callback(fleet.close)
        self._pool = self._closing.enter_context(Pool(worker.threads))
        grace = Grace(self.stop, worker.stop_seconds, cut_off=self._cut_off, give_up=self._pool.give_up)
        self._closing.callback(grace.close)
        outbox = Outbox(worker.outbox, chunk_rows=worker.chunk_rows)
        max_body = (self.settings.amqp.max_body if self.settings.amqp else 0) * 2**20
        replies = Replies(max_bytes=max_body, chunk_rows=worker.chunk_rows)
        self._runner = Runner(
            self.jobs,
            self.backends,
            {"inbox": outbox, "process": outbox, "schedule": outbox, "queue": replies},
            self._pool,
            self.ledger.state,
            chunk_rows=worker.chunk_rows,
            stop=self.stop,
            watcher=watcher,
        )
        of_files, of_ticks = (settlement(trigger, self.ledger, self.settings) for trigger in ("inbox", "schedule"))
        self.claims = Claims(self.ledger, folders(self.settings), self.jobs, of_files, gone=owner.gone)
        self._ticks = Ticks(self.ledger, self.settings.work, of_ticks, gone=owner.gone)
        self._gone = owner.gone
        self.crew = Crew(self._runner, self.ledger, size=worker.deliveries, stop=self.stop)
        self._closing.callback(self._release)
        self._closing.callback(self.crew.close)

    def _cut_off(self) -> None:
        for backend in self.backends.values():
            backend.cut_off()

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
        with self._queues():
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

        Raises ``Paused`` if the broker is not there.
        """
        with self._queues() as queues:
            schedule = self._schedule()
            handed_over = schedule.look()  # before the inbox, whose files may wait for a tick
            self._empty_inbox()
            while handed_over and not self.stop.is_set():  # the ticks of a job come one after the other
                self.crew.join()
                handed_over = schedule.look()
            self.crew.join()
            self._empty(queues)

    def _empty_inbox(self) -> None:
        inbox = self._inbox()
        looks_in_vain = 0
        while looks_in_vain < LOOKS_IN_VAIN and not self.stop.is_set():
            look = inbox.sweep()
            if not look.more and not look.settling:
                break
            looks_in_vain = 0 if look.handed_over else looks_in_vain + 1
            self.stop.wait(0 if look.more else self.settings.worker.settle_seconds)

    def _empty(self, queues: Queue | None) -> None:
        """Return when there are no more messages but those that wait to be tried again."""
        vain = 0
        while queues and not queues.quiet and not self.stop.wait(LOOK_SECONDS):
            vain = vain + 1 if queues.trouble else 0
            if vain * LOOK_SECONDS > BROKER_SECONDS:
                raise Paused(f"a queue cannot be emptied: {queues.trouble}")

    @contextmanager
    def _queues(self) -> Iterator[Queue | None]:
        """The jobs' queues, consumed meanwhile; None where no broker is configured, or no job has a queue.

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
        limits = {each.topology.queue: each.job.concurrency for each in consumed}
        hands = Hands(self._runner, self._pool, limits, large=worker.deliveries, stop=self.stop)
        with suppress(Unavailable):  # it is waited for, and so are its queues
            probe(amqp, [each.topology for each in consumed], patience=LOOK_AT_BROKER_SECONDS)
        broker = Broker.of(amqp)
        queue = Queue(
            broker,
            self.ledger.messages,
            consumed,
            hands,
            self._gone,
            work=self.settings.work,
            lease=worker.lease_seconds,
            over=self.stop.over,
        )
        broker.start()
        queue.start()
        try:
            yield queue
        finally:
            queue.stop()
            hands.close()
            broker.close(*((0, 0.5) if self.stop.over.is_set() else (GOODBYE_SECONDS,)))

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
        for credential in self._credentials.values():
            credential.reload()
        for backend in self.backends.values():
            backend.reload()
        self._log.info("secrets read anew")

    def close(self) -> None:
        """Stop; returns when the rows under way are finished."""
        self.stop.set()
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Connections:
    """What leads out of the process: the ledger, every ``[auth.NAME]``, and every ``[backends.NAME]`` with its auth."""

    ledger: Ledger
    credentials: Mapping[str, Credential]
    backends: Mapping[str, Backend]


@contextmanager
def connect(settings: Settings, owner: str) -> Iterator[Connections]:
    """Open all connections; nothing is sent yet. Raises ``ConfigError``."""
    with ExitStack() as closing:
        ledger = Ledger(settings.worker.state, owner=owner, lease=settings.worker.lease_seconds)
        closing.callback(ledger.close)
        credentials = {
            name: auth.open_credential(name, each, ledger.tokens, owner=owner) for name, each in settings.auth.items()
        }
        opened: dict[str, Backend] = {}
        for name, each in settings.backends.items():
            credential = credentials[each.auth] if each.auth else None
            opened[name] = backends.open_backend(name, each, credential, threads=settings.worker.threads)
            closing.callback(opened[name].close)
        yield Connections(ledger, credentials, opened)


def folders(settings: Settings) -> Folders:
    """Where the files of a project come from and go to."""
    worker = settings.worker
    return Folders(worker.inbox, worker.archive, worker.failed, settings.work)


def settlement(trigger: str, ledger: Ledger, settings: Settings) -> Settlement:
    """How the deliveries of a trigger end."""
    if trigger == "schedule":
        return Settlement(ledger, TickEnding(settings.worker.failed, settings.work))
    return Settlement(ledger, FileEnding(folders(settings)))
