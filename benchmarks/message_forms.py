"""How a request has to look for each of the clients of message_clients.py."""

from __future__ import annotations

import json
from typing import Any

REQUESTS, REPLIES = "requests", "replies"
PARAMETERS = {"client_id": "0000001", "note": "x" * 464}
BODY = json.dumps(PARAMETERS).encode()


def form(client: str, number: int) -> tuple[bytes, dict[str, Any]]:
    """The body of a request, by its number, and the properties that only this client needs.

    It is plain JSON, but for those that have a protocol of their own.
    """
    return {"celery": _celery, "dramatiq": _dramatiq}.get(client, _plain)(f"m{number}")


def _plain(_id: str) -> tuple[bytes, dict[str, Any]]:
    return BODY, {}


def _celery(id_: str) -> tuple[bytes, dict[str, Any]]:
    """https://docs.celeryq.dev/en/stable/internals/protocol.html#version-2"""
    body = json.dumps([[PARAMETERS], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers = {"lang": "py", "task": "echo", "id": id_, "root_id": id_, "parent_id": None, "group": None}
    return body.encode(), {"headers": headers, "correlation_id": id_, "content_encoding": "utf-8"}


def _dramatiq(id_: str) -> tuple[bytes, dict[str, Any]]:
    """https://dramatiq.io/reference.html#message"""
    known = {"queue_name": REQUESTS, "actor_name": "echo", "kwargs": {}, "message_id": id_, "message_timestamp": 0}
    return json.dumps({**known, "args": [PARAMETERS], "options": {}}).encode(), {}
