"""The billing service: a REST backend that validates its bearer tokens itself (JWT, RFC 9068)."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import flask
import requests
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from werkzeug.exceptions import HTTPException

from worker import exact_json
from worker.sandbox.addresses import Addresses, session
from worker.sandbox.answers import Failure, failure_headers, json_answer
from worker.sandbox.bearer import bearer_token, demand_scope, invalid_token
from worker.sandbox.gate import Gate

REALM = "billing"
PLANS = (("basic", Decimal("9.90")), ("plus", Decimal("19.90")), ("premium", Decimal("49.50")))

_CLIENT_ID = re.compile(r"\d{6}", re.ASCII)


def plan(client_id: str) -> dict[str, Any] | None:
    """A client's billing plan, always the same for the same id; one in twelve is not active; None: no such client."""
    if not _CLIENT_ID.fullmatch(client_id):
        return None
    number = int.from_bytes(hashlib.sha256(client_id.encode()).digest()[:4])
    name, price = PLANS[number % 3]
    return {"client_id": client_id, "name": name, "active": number // 3 % 12 != 0, "price": price}


@dataclass(slots=True)
class TokenCheck:
    """Validates tokens by the OAuth server's published keys, which it fetches when it meets an unknown one."""

    at: Addresses
    keys: KeySet | None = None
    _claims: jwt.JWTClaimsRegistry = field(init=False)

    def __post_init__(self) -> None:
        self._claims = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self.at.oauth_url},
            aud={"essential": True, "value": "billing"},
            exp={"essential": True},
        )

    def scopes(self, token: str) -> list[str]:
        """What a token grants; raises the challenge ``invalid_token`` if it is not good for the billing service."""
        try:
            decoded = self._decode(token)
            self._claims.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise invalid_token(REALM, f"The token is not valid ({type(error).__name__}).") from error
        return str(decoded.claims.get("scope", "")).split()

    def forget(self) -> None:
        """Fetch the keys anew before the next validation."""
        self.keys = None

    def _decode(self, token: str) -> jwt.Token:
        if self.keys is not None:
            try:
                return jwt.decode(token, self.keys, algorithms=["RS256"])
            except InvalidKeyIdError:
                pass  # signed by a newer key, perhaps: look again
        self.keys = self._fetch_keys()
        return jwt.decode(token, self.keys, algorithms=["RS256"])

    def _fetch_keys(self) -> KeySet:
        try:
            with session() as connections:
                answer = connections.get(f"{self.at.oauth_url}/jwks", timeout=10)
            answer.raise_for_status()
        except requests.RequestException as error:
            raise Failure(503, "The OAuth server does not publish its keys.", {"Retry-After": "1"}) from error
        return KeySet.import_key_set(answer.json())


@dataclass(slots=True)
class Invoices:
    """The invoices that were made, and every ``Idempotency-Key`` in the order of arrival. Thread-safe."""

    made: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    _by_key: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self, order: dict[str, Any], key: str | None) -> tuple[dict[str, Any], bool]:
        """The invoice for an order, and whether it is a new one; raises 422 if the key came with another order."""
        with self._lock:
            if key is None:
                return self._new(order), True
            self.keys.append(key)
            if (known := self._by_key.get(key)) is None:
                self._by_key[key] = invoice = self._new(order)
                return invoice, True
            if known != {"invoice_id": known["invoice_id"], **order}:
                raise Failure(422, "This Idempotency-Key was used for another invoice.")
            return known, False

    def _new(self, order: dict[str, Any]) -> dict[str, Any]:
        invoice = {"invoice_id": f"inv-{len(self.made) + 1:06}", **order}
        self.made.append(invoice)
        return invoice

    def log(self) -> dict[str, Any]:
        """What was made, and which keys came."""
        with self._lock:
            return {"invoices": list(self.made), "keys": list(self.keys)}


def create_app(check: TokenCheck, gate: Gate) -> flask.Flask:
    """The billing service as a WSGI application."""
    app = flask.Flask(__name__)
    gate.guard(app)
    invoices = Invoices()

    def demand(scope: str) -> None:
        demand_scope(REALM, scope, check.scopes(bearer_token(REALM)))

    def find_plan(client_id: str | None = None) -> flask.Response:
        demand("billing.read")
        return json_answer(_known_plan(client_id or flask.request.args.get("client_id")))

    def make_invoice() -> flask.Response:
        demand("billing.write")
        invoice, new = invoices.make(_order(), flask.request.headers.get("Idempotency-Key"))
        return json_answer(invoice, 201 if new else 200)

    app.add_url_rule("/api/plans", "plans", find_plan)
    app.add_url_rule("/api/plans/<client_id>", "plan", find_plan)
    app.add_url_rule("/api/invoices", "invoices", make_invoice, methods=["POST"])
    app.add_url_rule("/sandbox/invoices", "invoice_log", lambda: json_answer(invoices.log()))
    app.register_error_handler(HTTPException, _problem)
    return app


def _known_plan(client_id: str | None) -> dict[str, Any]:
    if not client_id:
        raise Failure(400, "The parameter client_id is missing.")
    if (found := plan(client_id)) is None:
        raise Failure(404, "There is no such client.")
    return found


def _order() -> dict[str, Any]:
    try:
        order = exact_json.loads(flask.request.get_data())
    except ValueError as error:
        raise Failure(400, "The body is not JSON.") from error
    if not isinstance(order, dict) or plan(str(order.get("client_id"))) is None:
        raise Failure(422, "An invoice needs the client_id of a known client.")
    return order


def _problem(error: HTTPException) -> flask.Response:
    """Any failure as problem details (RFC 9457)."""
    body = {"type": "about:blank", "title": error.name, "status": error.code, "detail": error.description}
    return json_answer(body, error.code or 500, failure_headers(error), "application/problem+json")
