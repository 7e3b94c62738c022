"""What a backend answered, turned into JSON or into the error that says what to do about it."""

from __future__ import annotations

import re
from codecs import BOM_UTF8  # may be passed over (RFC 8259 section 8.1)
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson
import requests
from requests.structures import CaseInsensitiveDict

from worker import exact_json
from worker.errors import BackendError, Refused, ServerFault, TooCostly, Unauthorized, Unavailable
from worker.http_terms import retry_after

LONGEST_HOLD = 3600.0
"""Seconds; after an hour at the latest, a backend is asked again, whatever it said."""

_REASON_LENGTH = 300
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_CHARSET = re.compile(r"charset=\"?(iso-8859-\d+|windows-125\d)\b", re.IGNORECASE)
_OVERLOADED = frozenset({408, 425, 429})
_BUSY = _OVERLOADED | {502, 503, 504}  # said by or of a backend that does not get to the call at all
_NOT_FOR_US = frozenset({501, 505})
# One of them ends an empty answer that is meant to be empty (RFC 9112 section 6.3).
_FRAMES = frozenset({"content-length", "transfer-encoding"})
_PROXY_AUTHENTICATION = 407
REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Those that say where else to ask (RFC 9110 section 15.4); a 304 with a Location says nothing of the kind."""

_TOO_MUCH = frozenset({413, 414, 431})
# https://hl7.org/fhir/R4/codesystem-issue-type.html: what stands below "transient"
_TRANSIENT_ISSUES = frozenset({"transient", "lock-error", "no-store", "timeout", "incomplete", "throttled"})


def check(backend: str, response: requests.Response) -> None:
    """Raise the ``BackendError`` that a status other than 2xx stands for."""
    status = response.status_code
    if 200 <= status < 300:
        return
    wait = asked_wait(response)
    issues = outcome_issues(_json_or_none(response))
    if _is_outage(status):
        passes = status in _BUSY or codes(issues) & _TRANSIENT_ISSUES
        raise (Unavailable if passes else ServerFault)(
            backend, f"answered {_named(response)}", status, retry_after=wait
        )
    if status == _PROXY_AUTHENTICATION:  # no row's fault, and as it is where the proxy refuses a tunnel
        raise Unavailable(backend, f"answered {_named(response)}: the proxy wants another user or password", status)
    if status in _TOO_MUCH or "too-costly" in codes(issues):
        raise TooCostly(backend, f"answered {_said(response)}", status, named=f"answered {_named(response)}")
    if status in (401, 403):
        raise Unauthorized(backend, f"answered {_named(response)}; check this backend's auth and its scopes", status)
    if codes(issues) & _TRANSIENT_ISSUES:
        raise Unavailable(backend, f"answered {_named(response)}", status, retry_after=wait)
    if status in REDIRECTS:
        raise Refused(backend, f"answered {status}, a redirect that is not followed; correct the backend's url", status)
    raise Refused(backend, f"answered {_said(response)}", status, named=f"answered {_named(response)}")


def plain_json(backend: str, response: requests.Response) -> Any:
    """The answer's JSON, fractions as floats; None for an empty one. Raises ``BackendError`` for what is not JSON."""
    return _parsed(backend, response, exact_json.loads_as_python)


def resource(backend: str, response: requests.Response) -> Any:
    """The answer's FHIR resource, numbers exact; None for an empty one.

    An OperationOutcome of severity error or fatal is an error whatever the status says.
    """
    parsed = _parsed(backend, response, exact_json.loads)
    issues = [issue for issue in outcome_issues(parsed) if issue.get("severity") in ("error", "fatal")]
    if issues:
        raise outcome_error(backend, issues, response.status_code)
    return parsed


def whole(_backend: str, response: requests.Response) -> requests.Response:
    """The response as it is, with headers of its own, but without the request's, where the token stands."""
    response.request.headers = CaseInsensitiveDict()
    response.headers = response.headers.copy()
    return response


def outcome_error(backend: str, issues: list[dict[str, Any]], status: int) -> BackendError:
    """The error that an OperationOutcome's issues stand for."""
    text = f"answered {status} {_tidy(_issue_texts(issues))}".rstrip()
    named = f"answered {status} {' '.join(names(codes(issues)))}".rstrip()
    if codes(issues) & _TRANSIENT_ISSUES or status in _BUSY:
        return Unavailable(backend, named, status)
    if _is_outage(status):
        return ServerFault(backend, named, status)
    if status in (401, 403):
        return Unauthorized(backend, named, status)
    return (TooCostly if "too-costly" in codes(issues) else Refused)(backend, text, status, named=named)


def outcome_issues(parsed: Any) -> list[dict[str, Any]]:
    """The issues of an OperationOutcome; none where it is something else."""
    if not isinstance(parsed, dict) or parsed.get("resourceType") != "OperationOutcome":
        return []
    return [issue for issue in _list(parsed.get("issue")) if isinstance(issue, dict)]


def codes(issues: Iterable[dict[str, Any]]) -> set[str]:
    """The issues' codes."""
    return {str(issue.get("code")) for issue in issues}


def json_bytes(response: requests.Response) -> bytes:
    """The body as JSON has to be, in UTF-8 (RFC 8259 section 8.1), also where a server declares another one.

    Some of those do send UTF-8: what can be read as such is.
    """
    content = response.content.removeprefix(BOM_UTF8)
    declared = _CHARSET.search(response.headers.get("Content-Type", ""))
    if not declared:
        return content
    with suppress(UnicodeDecodeError):
        content.decode()
        return content
    with suppress(UnicodeDecodeError, LookupError):
        return content.decode(declared[1]).encode()
    return content


def asked_wait(response: requests.Response) -> float | None:
    """What ``Retry-After`` says, but no more than an hour: a slip of the other side must not park a file for years."""
    asked = retry_after(response.headers)
    return None if asked is None else min(asked, LONGEST_HOLD)


def tells_its_end(headers: Mapping[str, str]) -> bool:
    """Whether a body of these headers is known to be whole: else it ends where the connection does."""
    return not _FRAMES.isdisjoint(map(str.lower, headers))


def _is_outage(status: int) -> bool:
    return status in _OVERLOADED or (status >= 500 and status not in _NOT_FOR_US)


def _parsed(backend: str, response: requests.Response, loads: Any) -> Any:
    if response.status_code == 204:
        return None
    content = response.content
    if not content:
        if not tells_its_end(response.headers):
            raise Unavailable(backend, "broke off before its answer", response.status_code)
        return None
    kind = _kind(response.headers.get("Content-Type", ""))
    status = response.status_code
    if kind in ("text/html", "application/xhtml+xml"):
        raise Unavailable(backend, "answered a web page instead of JSON (a log-in page?)", status)
    if kind and not kind.endswith(("/json", "+json")):
        raise Refused(backend, f"answered {_tidy(kind)}, not JSON: use request()", status)
    try:
        return loads(json_bytes(response))
    except ValueError as error:
        raise ServerFault(backend, "answered broken JSON", status) from error


@lru_cache(maxsize=256)
def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _json_or_none(response: requests.Response) -> Any:
    try:
        return orjson.loads(json_bytes(response))
    except ValueError:
        return None


def _said(response: requests.Response) -> str:
    return f"{response.status_code} {_tidy(_reason(_json_or_none(response)) or response.reason or '')}".rstrip()


def _named(response: requests.Response) -> str:
    """The status and the errors' names, for what is logged and kept: a whole sentence may quote a record."""
    parsed = _json_or_none(response)
    code = parsed.get("error") if isinstance(parsed, dict) else None
    told = codes(outcome_issues(parsed)) or ({code} if isinstance(code, str) else set())
    return " ".join([str(response.status_code), *names(told)])


def names(given: set[str]) -> list[str]:
    """Those codes that are names, and so quote nobody's record."""
    return sorted(name for name in given if _NAME.fullmatch(name))


def _reason(parsed: Any) -> str:
    """What the backend says went wrong: an OperationOutcome, an RFC 9457 problem, or the usual members."""
    if not isinstance(parsed, dict):
        return ""
    if issues := outcome_issues(parsed):
        return _issue_texts(issues)
    if isinstance(parsed.get("error"), dict):
        return _reason(parsed["error"])
    told = (parsed.get(member) for member in ("title", "detail", "message", "error", "error_description"))
    return ": ".join(text for text in told if isinstance(text, str) and text)


def _issue_texts(issues: list[dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(filter(None, map(_issue_text, issues))))


def _issue_text(issue: dict[str, Any]) -> str:
    details = issue.get("details")
    told = issue.get("diagnostics") or (details.get("text") if isinstance(details, dict) else None) or issue.get("code")
    return told if isinstance(told, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _tidy(text: str) -> str:
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", text).strip()
    return clean if len(clean) <= _REASON_LENGTH else clean[: _REASON_LENGTH - 1] + "…"
