"""The job of the tour: two backends asked for each client, one line of answer."""

from typing import Any

from worker import Context, Reject, Row, job


@job(files="clients*.csv", queue="clients.summary")
def client_summary(row: Row, ctx: Context) -> dict[str, Any]:
    """A client's billing plan beside the practitioner who looks after them."""
    plan = ctx.rest["billing"].get("/plans", params={"client_id": row["client_id"]})
    practitioner = ctx.fhir["ehr"].read("Practitioner", row["practitioner_id"])
    if not plan["active"]:
        raise Reject("plan is not active")
    return {
        "client_id": row["client_id"],
        "plan": plan["name"],
        "practitioner": full_name(practitioner["name"][0]),
    }


def full_name(name: dict[str, Any]) -> str:
    """A FHIR HumanName as one would say it: its text if it has one, else put together from its parts."""
    parts = [*name.get("prefix", []), *name.get("given", []), name.get("family", "")]
    return name.get("text") or " ".join(filter(None, parts))
