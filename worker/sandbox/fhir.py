"""The FHIR server (R4): Synthea's practitioners over HTTP, behind tokens that it has introspected."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from worker import exact_json
from worker.sandbox import addresses, bundles
from worker.sandbox.answers import failure_headers, json_answer
from worker.sandbox.bearer import bearer_token, demand_scope
from worker.sandbox.gate import Gate
from worker.sandbox.interactions import Asked, Interactions, Reply, headers
from worker.sandbox.introspection import REALM, TokenCheck
from worker.sandbox.issues import Issue, outcome
from worker.sandbox.resources import TYPES, Resource, Resources
from worker.sandbox.search import PARAMETER_TYPES

MEDIA_TYPE = "application/fhir+json"
MAX_URL = 8192
MAX_BODY = 16 * 1024 * 1024

_DATA = Path(__file__).parent / "data" / "practitioners.ndjson.gz"
_OPEN = ("capabilities", "smart")


def practitioners() -> Iterator[Resource]:
    """The resources that the server starts with, as Synthea wrote them."""
    with gzip.open(_DATA) as lines:
        yield from map(exact_json.loads, lines)


def now() -> datetime:
    """The time with milliseconds, all that a FHIR instant is written with here."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def create_app(at: addresses.Addresses, check: TokenCheck, gate: Gate) -> flask.Flask:
    """The FHIR server as a WSGI application."""
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY
    gate.guard(app)
    app.before_request(lambda: _authorize(check))
    app.register_error_handler(HTTPException, _error)
    _route(app, Interactions(at.fhir_url, Resources(practitioners(), now)), at)
    return app


def _route(app: flask.Flask, fhir: Interactions, at: addresses.Addresses) -> None:
    def answer(reply: Reply) -> flask.Response:
        if reply.resource is None:
            return flask.Response(status=reply.status)
        return json_answer(reply.resource, reply.status, headers(reply, fhir.base_url), MEDIA_TYPE)

    def bundle() -> flask.Response:
        entries = bundles.entries_of(body := _body())
        _demand("write" if bundles.writes(entries) else "read")
        do = bundles.batch if body["type"] == "batch" else bundles.transaction
        return json_answer(do(fhir, entries, strict=_strict()), media_type=MEDIA_TYPE)

    def route(method: str, path: str, name: str, view: Any) -> None:
        app.add_url_rule(f"/fhir{path}", name, view, methods=[method])

    route("GET", "/metadata", "capabilities", lambda: json_answer(_capabilities(fhir), media_type=MEDIA_TYPE))
    route("GET", "/.well-known/smart-configuration", "smart", lambda: json_answer(_smart(at)))
    route("POST", "", "bundle", bundle)
    route("POST", "/", "bundle", bundle)
    route("GET", "/<kind>", "search", lambda kind: answer(fhir.search(kind, _asked())))
    route("POST", "/<kind>/_search", "search_by_post", lambda kind: answer(fhir.search(kind, _asked())))
    route("POST", "/<kind>", "create", lambda kind: answer(fhir.create(kind, _asked())))
    route("GET", "/<kind>/<id>", "read", lambda kind, id: answer(fhir.read(kind, id)))
    route("PUT", "/<kind>/<id>", "update", lambda kind, id: answer(fhir.update(kind, id, _asked())))
    route("DELETE", "/<kind>/<id>", "delete", lambda kind, id: answer(fhir.delete(kind, id, _asked())))
    route(
        "GET", "/<kind>/<id>/_history/<number>", "vread", lambda kind, id, number: answer(fhir.vread(kind, id, number))
    )


def _authorize(check: TokenCheck) -> None:
    if len(flask.request.url) > MAX_URL:
        raise Issue(414, "The URL is too long; use POST and _search.", "too-long")
    if flask.request.endpoint in _OPEN:
        return
    flask.g.scopes = check.scopes(bearer_token(REALM))
    if flask.request.endpoint != "bundle":
        reading = flask.request.method in ("GET", "HEAD") or flask.request.endpoint == "search_by_post"
        _demand("read" if reading else "write")


def _demand(access: str) -> None:
    demand_scope(REALM, f"system/*.{access}", flask.g.scopes)


def _asked() -> Asked:
    request = flask.request
    return Asked(
        query=tuple(request.args.items(multi=True)) + tuple(request.form.items(multi=True)),
        resource=_body() if request.method in ("POST", "PUT") and not request.form else None,
        if_match=request.headers.get("If-Match"),
        if_none_exist=request.headers.get("If-None-Exist"),
        strict=_strict(),
    )


def _body() -> Any:
    try:
        return exact_json.loads(flask.request.get_data())
    except ValueError as error:
        raise Issue(400, "The body is not JSON.", "structure") from error


def _strict() -> bool:
    return "handling=strict" in flask.request.headers.get("Prefer", "")


def _error(error: HTTPException) -> flask.Response:
    return json_answer(outcome(error), error.code or 500, failure_headers(error), MEDIA_TYPE)


def _capabilities(fhir: Interactions) -> Resource:
    """What the server can do (https://hl7.org/fhir/R4/capabilitystatement.html)."""
    can = [{"code": code} for code in ("read", "vread", "update", "delete", "create", "search-type")]
    parameters = [{"name": name, "type": type_} for name, type_ in PARAMETER_TYPES.items()]
    resource = {"interaction": can, "versioning": "versioned-update", "updateCreate": True, "conditionalCreate": True}
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2025-01-01",
        "kind": "instance",
        "implementation": {"description": "Longshore sandbox", "url": fhir.base_url},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "resource": [{"type": name, **resource, "searchParam": parameters} for name in TYPES],
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
            }
        ],
    }


def _smart(at: addresses.Addresses) -> dict[str, Any]:
    """Where tokens come from (SMART App Launch 2, ``.well-known/smart-configuration``)."""
    return {
        "issuer": at.oauth_url,
        "jwks_uri": f"{at.oauth_url}/jwks",
        "token_endpoint": at.token_url,
        "introspection_endpoint": f"{at.oauth_url}/introspect",
        "grant_types_supported": ["client_credentials"],
        "scopes_supported": [scope for scope in addresses.SCOPES if scope.startswith("system/")],
        "capabilities": ["permission-v1"],
    }
