"""What changes a delivery, as statements that are built once: building one takes longer than executing it.

Each takes further columns as parameters when it is executed, and sets them, too.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from worker.ledger.database import Database
from worker.ledger.schema import attempt_table as attempts
from worker.ledger.schema import delivery_table as table
from worker.records import Entry

_this = table.c.id == sa.bindparam("this")
_same = _this & (table.c.version == sa.bindparam("held"))


def of(entry: Entry) -> dict[str, Any]:
    """The parameters that name a delivery as this worker took it."""
    return {"this": entry.id, "held": entry.version}


class Changes:
    """The statements of one worker, ``owner``, whose leases last for ``lease`` seconds."""

    def __init__(self, database: Database, owner: str, lease: float) -> None:
        now = database.now
        mine = _this & (table.c.owner == owner)
        held = {"owner": owner, "lease_until": now + lease}
        change = sa.update(table).where(_same).returning(*table.c)
        let_go = change.values(owner="", lease_until=0.0)

        insert = database.insert(table).values(state="waiting", version=1, created=now, **held)
        self.announce = insert.on_conflict_do_nothing().returning(*table.c)
        self.keep = change.values(held)
        self.take = self.keep.values(version=table.c.version + 1)
        self.begin = self.keep.values(started=sa.func.coalesce(table.c.started, now))
        self.finish = change.values(finished=now)
        self.let_go = let_go.values(not_before=now + sa.bindparam("hold_off", type_=sa.Double))
        self.guard = sa.select(table.c.lease_until - now > lease / 2).where(_same)
        self.renew = sa.update(table).where(mine).values(held)
        over = {"put_away": True, "owner": "", "lease_until": 0.0, "detail": sa.bindparam("ended_as")}
        self.put_away = sa.update(table).where(mine).values(over)

        this_run = (attempts.c.delivery == sa.bindparam("this")) & (attempts.c.number == sa.bindparam("run"))
        self.begin_attempt = database.insert(attempts).values(owner=owner, started=now)
        self.end_attempt = sa.update(attempts).where(this_run).values(ended=now)
