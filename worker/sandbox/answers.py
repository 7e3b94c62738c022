"""How the sandbox's servers say things: JSON with its numbers as written, and failures that carry their headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from worker import exact_json


class Failure(HTTPException):
    """An answer other than success; each server's error handler gives it the server's own form."""

    def __init__(self, status: int, description: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(description)
        self.code = status
        self.headers = dict(headers or {})


def json_answer(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = "application/json"
) -> flask.Response:
    """A response whose body is the value as JSON."""
    return flask.Response(exact_json.dumps(value), status, dict(headers or {}), content_type=media_type)


def failure_headers(error: HTTPException) -> dict[str, str]:
    """The headers that belong to an error whatever form its body gets."""
    own = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    return own | (error.headers if isinstance(error, Failure) else {})
