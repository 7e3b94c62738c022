"""A job without files: each night, whoever changed in the health record since the last run."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from worker import Context, DeliveryError, Row, job

# Longer than anything takes to show up in a search after the server has stamped it: a long transaction, an index.
OVERLAP = timedelta(minutes=10)


def changed(ctx: Context) -> Iterator[dict[str, Any]]:
    """Every practitioner with a version that no run before has seen; at the first run, all of them.

    By the server's clock: what changed after the last question is asked for, and, as a change may show up late, what
    changed a while before it. Versions that were seen in that while are left out.
    """
    found = ctx.fhir["ehr"].resources("Practitioner")
    if since := ctx.state.get("since"):
        found = found.search(_lastUpdated__ge=since)
    seen = ctx.state.get("seen", {})
    until: datetime | None = None
    recent = {}
    for page in found.pages():
        until = until or asked_at(page.time) - OVERLAP
        for practitioner in page.matches:
            id_, meta = practitioner["id"], practitioner["meta"]
            if datetime.fromisoformat(meta["lastUpdated"]) >= until:
                recent[id_] = meta["versionId"]
            if seen.get(id_) != meta["versionId"]:
                yield practitioner
    ctx.state["since"] = until and until.isoformat(timespec="milliseconds")
    ctx.state["seen"] = recent


def asked_at(time: datetime | None) -> datetime:
    """When the server answered; without that, nobody could know what to ask for the next time."""
    if time is None:
        raise DeliveryError("the FHIR server does not tell its time; its changes cannot be followed")
    return time


@job(schedule="0 2 * * *", source=changed)
def changed_practitioners(row: Row, ctx: Context) -> dict[str, Any]:
    """Who it is, and since when."""
    name = row["name"][0]
    return {
        "practitioner_id": row["id"],
        "family": name["family"],
        "given": " ".join(name.get("given", [])),
        "active": row.get("active"),
        "version": row["meta"]["versionId"],
        "changed": row["meta"]["lastUpdated"],
    }
