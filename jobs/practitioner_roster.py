"""A job for an old system's file (semicolons, Windows-1250) whose rows are checked by a pydantic model."""

from datetime import date, timedelta
from typing import Any, Literal

from pydantic import BaseModel

from worker import Context, Reject, job


class RosterEntry(BaseModel):
    """One line of the roster: who is on a ward from the first day to the last."""

    ward: str
    coordinator: str
    practitioner_id: str
    first_day: date
    last_day: date
    shift: Literal["day", "night", "off"]


@job(files="roster*.csv", encoding="cp1250", delimiter=";")
def practitioner_roster(row: RosterEntry, ctx: Context) -> list[dict[str, Any]] | None:
    """One result a day on duty; nothing to say about days off."""
    if row.last_day < row.first_day:
        raise Reject("the last day is before the first")
    if row.shift == "off":
        return None
    practitioner = ctx.fhir["ehr"].read("Practitioner", row.practitioner_id)
    days = (row.last_day - row.first_day).days + 1
    return [
        {
            "day": row.first_day + timedelta(days=after),
            "ward": row.ward,
            "shift": row.shift,
            "npi": practitioner["identifier"][0]["value"],
            "family": practitioner["name"][0]["family"],
            "coordinator": row.coordinator,
        }
        for after in range(days)
    ]
