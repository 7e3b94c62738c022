"""Longshore: what a job author imports."""

from worker.context import Context
from worker.declare import job
from worker.errors import DeliveryError, Refused, Reject, Unavailable
from worker.records import Row

__all__ = ["Context", "DeliveryError", "Refused", "Reject", "Row", "Unavailable", "job"]
