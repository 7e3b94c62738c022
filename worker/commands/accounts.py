"""What is known of a delivery, for people and programs: its manifest, or what the ledger says of its failure."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker import exact_json
from worker.declare import Job
from worker.ledger import Ledger
from worker.outputs.outbox import stamp
from worker.records import BROKER, Attempt, Entry, Pause

_SILENT = "its worker has been silent for longer than its lease: it is dead, or stopped, or cannot reach the ledger"
_DIED = "its worker has died"
_MESSAGE_COMES_AGAIN = (
    "the message comes again as soon as the broker notices; if its queue was purged, it does not, nothing is to be "
    "done, and it is forgotten in a day"
)
_ANOTHER_GOES_ON = "another worker goes on with it at once, or the next `longshore run`"
_IS_TAKEN_OVER = "that one goes on with it when it can, or else another worker, or the next `longshore run`"

_DAMAGED = "its manifest in the outbox is damaged; what is known else stands here, and the results may be whole"


def account(entry: Entry, outbox: Path) -> dict[str, Any]:
    """The manifest of a done delivery; of any other, what became of it up to now and why."""
    return (manifest_of(entry, outbox) if entry.state == "done" else None) or line(entry)


@dataclass(frozen=True, slots=True)
class Absent:
    """Whose worker is away: ``silent`` are the ids of deliveries whose lease is over, ``died`` tells it of an owner."""

    silent: Container[str] = ()
    died: Callable[[str], bool] = lambda _: False

    def why(self, entry: Entry) -> str:
        """Why nobody is at a delivery that runs as far as the ledger knows, and what becomes of it; empty if not so."""
        if entry.state != "running":
            return ""
        is_message, died = entry.trigger == "queue", self.died(entry.owner)
        if died:
            return f"{_DIED}; {_MESSAGE_COMES_AGAIN if is_message else _ANOTHER_GOES_ON}"
        return f"{_SILENT}; {_MESSAGE_COMES_AGAIN if is_message else _IS_TAKEN_OVER}" if entry.id in self.silent else ""


_NOBODY = Absent()


def line(entry: Entry, absent: Absent = _NOBODY) -> dict[str, Any]:
    """A delivery's line in the status; ``error`` is a sentence, empty where all is well."""
    return {
        "delivery": entry.id,
        "job": entry.job,
        "trigger": entry.trigger,
        "source": entry.source,
        "state": entry.state,
        "rows_done": entry.rows_done,
        "attempts": entry.attempts,
        "error": entry.detail or entry.error or absent.why(entry),
    }


def waits(found: Iterable[Entry]) -> list[dict[str, Any]]:
    """The deliveries that wait, and before when none of them is tried again."""
    held = (entry for entry in found if entry.state == "waiting" and entry.not_before)
    return [{"delivery": entry.id, "not_before": moment(entry.not_before)} for entry in held]


def pauses(found: Iterable[Pause]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The backends that workers leave alone, and what is amiss with the broker: a line for each worker."""
    found = list(found)
    backends = [_pause(each) for each in found if each.backend != BROKER]
    return backends, [{"worker": each.owner, "reason": each.reason} for each in found if each.backend == BROKER]


def _pause(pause: Pause) -> dict[str, Any]:
    """A backend that a worker leaves alone: ``state`` is down (its circuit is open) or paused (it asked for that)."""
    return {
        "backend": pause.backend,
        "state": "down" if pause.is_down else "paused",
        "seconds": round(pause.seconds, 1),
        "reason": pause.reason,
        "worker": pause.owner,
    }


def full(entry: Entry, attempts: Iterable[Attempt], outbox: Path, absent: Absent) -> dict[str, Any]:
    """Everything that is known of a delivery: its line, times, input, attempts, and the manifest, if there is one."""
    manifest, known = manifest_of(entry, outbox), line(entry, absent)
    if manifest is None and any(outbox.glob(f"*-{entry.id}.manifest.json")):
        known["error"] = known["error"] or _DAMAGED
    return {
        **known,
        "sha256": entry.sha256,
        "bytes": entry.bytes,
        "created": moment(entry.created),
        "started": moment(entry.started),
        "finished": moment(entry.finished),
        "not_before": moment(entry.not_before),
        "history": [attempt(each) for each in attempts],
        "manifest": manifest,
    }


def attempt(attempt: Attempt) -> dict[str, Any]:
    """One run of a delivery; ``ended`` is None while it runs, and where its worker died."""
    return {
        "attempt": attempt.number,
        "worker": attempt.owner,
        "started": moment(attempt.started),
        "ended": moment(attempt.ended),
        "rows_done": attempt.rows_done,
        "error": attempt.detail or attempt.error,
    }


def matching(ledger: Ledger, beginning: str) -> list[Entry]:
    """The deliveries whose id begins so, among the newest ten thousand; the one with just this id alone."""
    try:
        return [ledger.get(beginning)]
    except KeyError:
        return [entry for entry in ledger.entries(limit=10_000) if entry.id.startswith(beginning)]


def manifest_of(entry: Entry, outbox: Path) -> dict[str, Any] | None:
    """The manifest, as long as it lies in the outbox, and is one: who takes results away may damage what is left."""
    for file in outbox.glob(f"*-{entry.id}.manifest.json"):
        with suppress(ValueError):
            found = exact_json.loads(file.read_bytes())
            return found if _is_manifest(found) else None
    return None


def _is_manifest(found: Any) -> bool:
    """Whether all is there that is told of one."""
    match found:
        case {"rows_in": int(), "results": int(), "rejected": int(), "skipped": int(), "token_requests": int()}:
            outputs, calls = found.get("outputs"), found.get("calls")
            return isinstance(calls, dict) and isinstance(outputs, list) and all(map(_is_output, outputs))
    return False


def _is_output(found: Any) -> bool:
    match found:
        case {"name": str(), "rows": int()}:
            return True
    return False


def moment(seconds: float | None) -> str | None:
    """A time of the ledger as the contracts write it; None if there was none."""
    return stamp(datetime.fromtimestamp(seconds, UTC)) if seconds else None


def takes(job: Job[..., Any]) -> str:
    """Where a job's deliveries come from, in words."""
    if not job.enabled:
        return "nothing, as it is not enabled"
    schedule = job.schedule and f"{job.schedule} ({job.timezone or 'UTC'})"
    triggers = {"files": ", ".join(job.files), "queue": job.queue, "schedule": schedule}
    return "; ".join(f"{name} {given}" for name, given in triggers.items() if given) or "only `process --job`"


def job(job: Job[..., Any], ledger: Ledger) -> dict[str, Any]:
    """A job, what it takes, and its ticks."""
    return {
        "job": job.name,
        "takes": takes(job),
        "files": job.files,
        "queue": job.queue,
        "schedule": job.schedule,
        **_ticks(job, ledger),
        "enabled": job.enabled,
        "doc": job.doc.partition("\n")[0],
        "place": job.place,
    }


def _ticks(job: Job[..., Any], ledger: Ledger) -> dict[str, Any]:
    """When the next tick comes and when the last one came; ``last_delivery`` is empty where that was left out.

    None where a tick makes no delivery of its own, but picks up files.
    """
    from worker.triggers.schedule import Calendar

    if not job.schedule or not job.enabled:
        return {"next_tick": None, "last_tick": None, "last_delivery": None}
    time, delivery = max(ledger.schedules.ticks(job.name, limit=1).items(), default=(None, None))
    made = None if job.files else delivery
    coming = Calendar(job.schedule, job.timezone).after(datetime.now(UTC))
    return {"next_tick": stamp(coming), "last_tick": moment(time), "last_delivery": made}
