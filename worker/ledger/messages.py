"""What became of each message: claimed, and at its end with its reply, which a message seen again gets once more.

A queue brings messages by the thousand, so they are claimed and noted in batches, many in one transaction, and each
statement is executed for all of them at once. A claim is seen by everybody before its message is run: one that is found
claimed by a worker that is gone may be what killed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, get_args

import sqlalchemy as sa

from worker.errors import storable
from worker.ledger.database import Database
from worker.ledger.memory import JobState
from worker.ledger.schema import message_table as table
from worker.records import STATES, Entry

RETENTION = 24 * 3600.0  # seconds that a finished message is remembered for
LOOKED_UP = 400  # messages that are looked up at once: a statement takes only so many values
PRUNED = 5_000  # forgotten at once at the most, so that no claim waits long

Verdict = Literal["ours", "done", "failed", "conflict", "busy", "suspect"]
End = Literal["done", "failed", "waiting"]


@dataclass(slots=True)
class Claim:
    """A message that wants to be run: ``key`` is its message id, ``sha256`` and ``bytes`` are of its body.

    ``delivery`` is its id if nobody has seen it yet. ``redelivered``: the broker says that it was handed out before.
    ``alone``: it may be taken over from a worker that is gone, as nothing else runs beside it.
    """

    queue: str
    key: str
    delivery: str
    job: str
    sha256: str
    bytes: int
    redelivered: bool = False
    alone: bool = False


@dataclass(slots=True)
class Standing:
    """What the ledger says to a claim.

    ours      it is to be run now, for the time ``attempts``
    done      it was, and ``reply`` is what its asker is told again
    failed    it was, in vain, for ``error`` and ``detail``
    conflict  its message id came before, with another body
    busy      another worker is at it
    suspect   a worker that is gone was at it, and so were ``deaths`` before that one
    """

    verdict: Verdict
    delivery: str
    attempts: int = 1
    deaths: int = 0
    reply: bytes = b""
    error: str = ""
    detail: str = ""


@dataclass(slots=True)
class Note:
    """The end of a run, ``attempts``, of a message that was claimed: done, failed, or waiting to be run again.

    ``state`` is what its job wants remembered.
    """

    claim: Claim
    attempts: int
    end: End
    reply: bytes = b""
    error: str = ""
    detail: str = ""
    rows: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)


_WRITE = """
    INSERT INTO messages (queue, key, delivery, job, sha256, bytes, state, attempts, reply, error, detail, rows_done,
        deaths, owner, lease_until, created, expires, finished)
    WITH said(queue, key, delivery, job, sha256, bytes, state, run, reply, error, detail, rows) AS ({rows}),
        common(owner, lease, kept, now) AS (SELECT {value}, {value}, {value}, {now})
    SELECT queue, key, delivery, job, sha256, bytes, state, run, reply, error, detail, rows,
        0, (SELECT owner FROM common), (SELECT now + lease FROM common), (SELECT now FROM common),
        (SELECT now + kept FROM common), CASE WHEN state <> 'running' THEN (SELECT now FROM common) END
        FROM said WHERE queue <> ''
    ON CONFLICT (queue, key) DO UPDATE SET state = excluded.state, reply = excluded.reply, error = excluded.error,
        detail = excluded.detail, rows_done = excluded.rows_done, finished = excluded.finished,
        expires = excluded.expires
        WHERE excluded.state <> 'running' AND messages.attempts = excluded.attempts
            AND messages.owner = excluded.owner"""
_RUNNING = "running", 1, bytearray(), "", "", 0
_this = (table.c.queue == sa.bindparam("this_queue")) & (table.c.key == sa.bindparam("this_key"))
_run = table.c.attempts == sa.bindparam("run")
_place = table.c.queue, table.c.key


def _unlocked(which: sa.ColumnElement[bool]) -> sa.Select[tuple[str, str]]:
    """Those that no other transaction has, locked: one that does is about to change them, and may be stopped in it."""
    return sa.select(*_place).where(which).with_for_update(skip_locked=True)


def _is_of(places: sa.Select[tuple[str, str]]) -> sa.ColumnElement[bool]:
    return sa.tuple_(*_place).in_(places)


class Messages:
    """The messages that workers have taken; ``owner`` signs what this one takes, for ``lease`` seconds at a time."""

    def __init__(self, database: Database, state: JobState, owner: str, lease: float) -> None:
        now = database.now
        self._database = database
        self._state = state
        self._owner = owner
        self._steady = lease
        held = {"owner": owner, "lease_until": now + lease}
        mine = table.c.owner == owner
        running = mine & (table.c.state == "running")

        seen = _this & _run & (table.c.owner == sa.bindparam("seen_owner"))
        self._take = sa.update(table).where(seen).values(state="running", attempts=table.c.attempts + 1, **held)
        in_order = [database.by_code_point(column) for column in _place]  # as record goes, see there
        ours = sa.select(*_place).where(running).order_by(*in_order).with_for_update()
        self._renew = sa.update(table).where(_is_of(_unlocked(running))).values(held)
        self._release = sa.update(table).where(_is_of(ours)).values(state="waiting")
        late = database.is_over(table.c.lease_until, lease).label("late")
        stale = (table.c.expires < now).label("stale")
        keys = table.c.key.in_(sa.bindparam("keys", expanding=True))
        self._find = sa.select(table, late, stale).where(table.c.queue == sa.bindparam("this_queue"), keys)
        nameless = (table.c.key == table.c.delivery) & (table.c.attempts == table.c.deaths + 1)  # not tried again
        others = nameless & (table.c.state == "running") & (table.c.owner != owner)
        alike = (table.c.queue == sa.bindparam("this_queue")) & (table.c.sha256 == sa.bindparam("body"))
        self._left = sa.select(table.c.key, table.c.owner, late).where(others & alike).order_by(table.c.created)
        left = (table.c.state == "running") & (table.c.lease_until < now - RETENTION)
        finished = table.c.state.in_(get_args(End)) & (table.c.expires < now)  # as the index has it: != would read all
        self._forget = sa.delete(table).where(_is_of(_unlocked(finished | left).limit(PRUNED)))

    def record(
        self, claims: Sequence[Claim], notes: Sequence[Note], gone: Callable[[str], bool]
    ) -> tuple[list[Standing], list[Note]]:
        """Write down notes and claims; returns what is said to each claim, and the notes that came too late, as
        another worker had taken the message over. ``gone`` says whether an owner lives no more.

        What has failed can be told again: part of it may be known by now. The rest lasts beyond a power cut once it
        is synced: ``written`` is the number to do that with.
        """
        rows = [*map(_noted, notes), *map(_claimed, reversed(claims))]  # of two for a message, the first is the one
        if not any(note.state for note in notes):
            with self._database.single() as connection:
                if self._write(connection, rows) == len(rows):
                    return [Standing("ours", claim.delivery) for claim in claims], []
        with self._database.write() as connection:  # look into each
            self._write(connection, rows)  # all at first: notes before claims, two workers would block each other
            late = self._write_notes(connection, notes)
            known = dict(self._look_up(connection, claims))
            return [self._judge(connection, claim, known[claim.queue, claim.key], gone) for claim in claims], late

    @property
    def written(self) -> int:
        """The number of what was recorded last."""
        return self._database.written

    def sync(self, number: int) -> None:
        """Make what was recorded up to then last beyond a power cut; from any thread. Raises ``Paused``."""
        self._database.sync(number)

    def _write(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Claims that nobody has made yet, and notes in time; returns how many of these there were."""
        each = {row[:2]: row for row in rows}  # one statement cannot write a message twice
        in_order = sorted(each.values())  # in two orders, two workers would block each other
        return self._database.change_all(connection, _WRITE, in_order, (self._owner, self._steady, RETENTION))

    def _write_notes(self, connection: sa.Connection, notes: Sequence[Note]) -> list[Note]:
        late: list[Note] = []
        rows = [_noted(note) for note in notes]
        if self._write(connection, rows) != len(rows):
            late = [note for note, row in zip(notes, rows, strict=True) if not self._write(connection, [row])]
        for note in notes:
            if note.end == "done" and note.state and note not in late:
                self._state.save(connection, note.claim.job, note.state)
        return late

    def _look_up(self, connection: sa.Connection, claims: Sequence[Claim]) -> Iterator[tuple[tuple[str, str], Any]]:
        for queue, those in groupby(sorted(claims, key=attrgetter("queue")), attrgetter("queue")):
            keys = [claim.key for claim in those]
            for at in range(0, len(keys), LOOKED_UP):
                batch = {"this_queue": queue, "keys": keys[at : at + LOOKED_UP]}
                yield from (((row.queue, row.key), row) for row in connection.execute(self._find, batch))

    def _judge(self, connection: sa.Connection, claim: Claim, row: Any, gone: Callable[[str], bool]) -> Standing:
        if (row.delivery, row.owner, row.attempts, row.state) == (claim.delivery, self._owner, 1, "running"):
            return Standing("ours", row.delivery)
        old = row.stale and row.state != "running"
        if row.sha256 != claim.sha256 and not old:
            return Standing("conflict", row.delivery)
        if row.state == "running" and row.owner != self._owner:
            if not self._is_left(row, gone):
                return Standing("busy", row.delivery)
            if not claim.alone:
                return _standing("suspect", row)
            return self._take_over(connection, claim, row, deaths=row.deaths + 1)
        if not old and (row.state == "done" or (row.state == "failed" and claim.redelivered)):
            return _standing(row.state, row)
        return self._take_over(connection, claim, row, deaths=0 if row.state in ("done", "failed") else row.deaths)

    def _is_left(self, row: Any, gone: Callable[[str], bool]) -> bool:
        return gone(row.owner) or (row.late and self._database.steady_for >= self._steady)

    def _take_over(self, connection: sa.Connection, claim: Claim, row: Any, *, deaths: int) -> Standing:
        """Run a message again that waited, was left behind, or failed and was sent anew."""
        values = {"sha256": claim.sha256, "bytes": claim.bytes, "deaths": deaths, "reply": None}
        seen = {"this_queue": row.queue, "this_key": row.key, "run": row.attempts, "seen_owner": row.owner}
        if not connection.execute(self._take, {**values, **seen}).rowcount:
            return Standing("busy", row.delivery)
        return Standing("ours", row.delivery, row.attempts + 1, deaths)

    def left_behind(self, queue: str, sha256: str, gone: Callable[[str], bool]) -> list[str]:
        """The keys of messages with that body which were claimed under their delivery's id, as they came without one,
        and which workers that are gone were at; the oldest first.
        """
        with self._database.read() as connection:
            rows = connection.execute(self._left, {"this_queue": queue, "body": sha256}).all()
        return [row.key for row in rows if self._is_left(row, gone)]

    def known(self, queue: str, keys: Sequence[str]) -> list[Entry]:
        """What is known of the messages of a queue with these ids, up to ``LOOKED_UP`` of them, as deliveries."""
        with self._database.read() as connection:
            found = connection.execute(self._find, {"this_queue": queue, "keys": list(keys[:LOOKED_UP])}).all()
        return [_entry(row) for row in found]

    def heartbeat(self) -> None:
        """Renew the leases of all that this worker is at; what another one looks at just now has the next heartbeat."""
        self._database.change(self._renew)

    def release(self) -> None:
        """Let go of all that this worker is at: whoever gets the message goes on with it."""
        self._database.change(self._release)

    def prune(self) -> int:
        """Forget what has long been finished or left behind; returns how many: at ``PRUNED``, there may be more."""
        return self._database.change(self._forget)

    def owners(self) -> set[str]:
        """Everybody who is at a message."""
        statement = sa.select(table.c.owner).where(table.c.state == "running").distinct()
        with self._database.read() as connection:
            return set(connection.scalars(statement))

    def silent(self) -> set[str]:
        """Those that a worker is at, as far as known, whose lease is over."""
        over = self._database.is_over(table.c.lease_until, self._steady)
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(table.c.delivery).where(table.c.state == "running", over)))

    def counts(self) -> dict[str, int]:
        """How many are waiting, running, done (within the last day) and failed."""
        statement = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
        with self._database.read() as connection:
            return {str(state): int(count) for state, count in connection.execute(statement)}

    def get(self, delivery: str) -> Entry:
        """One message, as a delivery; raises ``KeyError``."""
        found = self._entries(sa.select(table).where(table.c.delivery == delivery))
        if not found:
            raise KeyError(delivery)
        return found[0]

    def entries(self, *, limit: int) -> list[Entry]:
        """The newest of each state, as deliveries; of millions, only those are read."""
        newest = sa.select(table).order_by(table.c.expires.desc()).limit(limit)
        return [entry for state in STATES for entry in self._entries(newest.where(table.c.state == state))]

    def _entries(self, statement: sa.Select[Any]) -> list[Entry]:
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(statement)]


def _claimed(claim: Claim) -> tuple[Any, ...]:
    return _who(claim) + _RUNNING


def _noted(note: Note) -> tuple[Any, ...]:
    error, detail = note.error and storable(note.error), note.detail and storable(note.detail)
    # Of bytes, sqlite3 asks each time whether somebody would have them written as something else.
    end = note.end, note.attempts, bytearray(note.reply), error, detail, note.rows
    return _who(note.claim) + end


def _who(claim: Claim) -> tuple[str, str, str, str, str, int]:
    return claim.queue, storable(claim.key), claim.delivery, claim.job, claim.sha256, claim.bytes


def _standing(verdict: Verdict, row: Any) -> Standing:
    return Standing(verdict, row.delivery, row.attempts, row.deaths, row.reply or b"", row.error, row.detail)


def _entry(row: Any) -> Entry:
    return Entry(
        id=row.delivery,
        trigger="queue",
        job=row.job,
        source=row.queue,
        sha256=row.sha256,
        bytes=row.bytes,
        state=row.state,
        owner=row.owner if row.state == "running" else "",
        lease_until=row.lease_until,
        version=row.attempts,
        attempts=row.attempts,
        not_before=0.0,
        rows_done=row.rows_done,
        error=row.error,
        detail=row.detail,
        created=row.created,
        started=row.created,
        finished=row.finished,
        put_away=row.state in ("done", "failed"),
    )
