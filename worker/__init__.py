"""Longshore: what a job author imports."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.context import Context
    from worker.declare import job
    from worker.errors import DeliveryError, Refused, Reject, Unavailable
    from worker.records import Row

__all__ = ["Context", "DeliveryError", "Refused", "Reject", "Row", "Unavailable", "job"]

_HOMES = {
    "Context": "worker.context",
    "DeliveryError": "worker.errors",
    "Refused": "worker.errors",
    "Reject": "worker.errors",
    "Row": "worker.records",
    "Unavailable": "worker.errors",
    "job": "worker.declare",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that `longshore --help` does not wait for requests and pydantic.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
