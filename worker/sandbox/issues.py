"""What a FHIR server says when it does not do what was asked: an OperationOutcome."""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import HTTPException

from worker.sandbox.answers import Failure

# https://hl7.org/fhir/R4/valueset-issue-type.html
_CODES = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    409: "conflict",
    410: "deleted",
    412: "conflict",
    413: "too-costly",
    429: "throttled",
    500: "exception",
    503: "transient",
}


class Issue(Failure):
    """A failure with an issue code, where the status alone does not tell (R4 valueset issue-type)."""

    def __init__(self, status: int, diagnostics: str, code: str | None = None) -> None:
        super().__init__(status, diagnostics)
        self.issue_code = code


def outcome(error: HTTPException) -> dict[str, Any]:
    """The OperationOutcome of an error (https://hl7.org/fhir/R4/operationoutcome.html)."""
    code = getattr(error, "issue_code", None) or _CODES.get(error.code or 500, "processing")
    issue = {"severity": "error", "code": code, "diagnostics": error.description}
    return {"resourceType": "OperationOutcome", "issue": [issue]}
