"""The sandbox over real HTTP: an OAuth server and two backends as strict as the ones they stand for."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from servers.programs import free_ports

from worker import exact_json, sandbox
from worker.commands import checks, scaffold
from worker.sandbox import Addresses, Sandbox

NPI = "http://hl7.org/fhir/sid/us-npi"
SOMEBODY = "00080548-2e91-3bfe-8d35-9efd0f531c4b"
SOMEBODY_ELSE = "003b2ee4-90f8-3e92-88cd-f680885e5f18"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def own() -> Iterator[Sandbox]:
    """A sandbox for a test that changes it for good."""
    with Sandbox() as sandbox:
        yield sandbox


def ask_token(sandbox: Sandbox, **form: Any) -> requests.Response:
    form = {"grant_type": "client_credentials", **form}
    return requests.post(sandbox.token_url, data=form, auth=("batch-worker", "sandbox-secret"))


def token(sandbox: Sandbox, scope: str = "") -> str:
    return str(ask_token(sandbox, scope=scope).json()["access_token"])


def introspect(sandbox: Sandbox, token: str) -> Any:
    url = f"{sandbox.oauth_url}/introspect"
    return requests.post(url, data={"token": token}, auth=("fhir-api", "sandbox-fhir-secret")).json()


class Caller:
    """Asks one backend with a bearer token."""

    def __init__(self, base: str, token: str) -> None:
        self.base = base
        self.headers = {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = self.headers | more.pop("headers", {})
        return requests.request(method, f"{self.base}{path}", headers=headers, **more)


@pytest.fixture
def billing(running: Sandbox) -> Caller:
    return Caller(running.billing_url, token(running))


@pytest.fixture
def fhir(running: Sandbox) -> Caller:
    return Caller(running.fhir_url, token(running))


def ids(bundle: Any) -> list[str]:
    return [entry["resource"]["id"] for entry in bundle.get("entry", ())]


def link(bundle: Any, relation: str) -> str:
    return next((link["url"] for link in bundle["link"] if link["relation"] == relation), "")


# --- the OAuth server


def test_a_billing_token_is_a_jwt_for_the_billing_service(running: Sandbox) -> None:
    answer = ask_token(running, scope="billing.read").json()
    payload = answer["access_token"].split(".")[1]
    claims = exact_json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert (claims["iss"], claims["aud"], claims["scope"]) == (running.issuer, ["billing"], "billing.read")
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 300


def test_a_fhir_token_is_opaque(running: Sandbox) -> None:
    assert "." not in token(running, "system/*.read")


def test_one_token_for_both_backends_is_a_jwt_that_introspection_knows(running: Sandbox) -> None:
    both = token(running, "billing.read system/*.read")
    assert both.count(".") == 2
    assert introspect(running, both)["scope"] == "billing.read system/*.read"
    assert Caller(running.billing_url, both)("GET", "/plans/000001").status_code == 200
    assert Caller(running.fhir_url, both)("GET", f"/Practitioner/{SOMEBODY}").status_code == 200


def test_an_audience_narrows_what_the_token_is_for(running: Sandbox) -> None:
    narrow = ask_token(running, scope="billing.read system/*.read", audience="ehr").json()["access_token"]
    assert "." not in narrow
    assert ask_token(running, resource="https://elsewhere.example").json()["error"] == "invalid_target"


def test_a_scope_that_is_not_the_clients_is_refused(running: Sandbox) -> None:
    answer = ask_token(running, scope="billing.read everything")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


def test_credentials_are_taken_from_the_body_too(running: Sandbox) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": "batch-worker",
        "client_secret": "sandbox-secret",
        "scope": "billing.read",
    }
    assert requests.post(running.token_url, data=form).status_code == 200


@pytest.mark.parametrize(("encoded", "status"), [("batch%2Dworker:sandbox%2dsecret", 200), ("batch-worker:wrong", 401)])
def test_basic_credentials_are_form_decoded(running: Sandbox, encoded: str, status: int) -> None:
    headers = {"Authorization": f"Basic {base64.b64encode(encoded.encode()).decode()}"}
    answer = requests.post(running.token_url, data={"grant_type": "client_credentials"}, headers=headers)
    assert answer.status_code == status
    assert answer.headers["Cache-Control"] == "no-store"


def test_only_a_resource_server_may_introspect_and_only_a_client_may_get_tokens(running: Sandbox) -> None:
    url, form = f"{running.oauth_url}/introspect", {"token": token(running)}
    assert requests.post(url, data=form, auth=("batch-worker", "sandbox-secret")).json() == {"active": False}
    form = {"grant_type": "client_credentials"}
    answer = requests.post(running.token_url, data=form, auth=("fhir-api", "sandbox-fhir-secret"))
    assert answer.json()["error"] == "unauthorized_client"


def test_a_token_that_was_never_issued_is_not_active(running: Sandbox) -> None:
    assert introspect(running, "made-up") == {"active": False}


def test_the_metadata_leads_to_the_token_endpoint_and_to_public_keys_only(running: Sandbox) -> None:
    metadata = requests.get(f"{running.oauth_url}/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == running.issuer
    assert metadata["token_endpoint"] == running.token_url
    (key,) = requests.get(metadata["jwks_uri"]).json()["keys"]
    assert key["kty"] == "RSA"
    assert "d" not in key


def test_an_expired_token_is_turned_down_by_both_backends() -> None:
    with Sandbox(token_seconds=-1) as sandbox:
        late = token(sandbox)
        assert Caller(sandbox.billing_url, late)("GET", "/plans/000001").status_code == 401
        assert Caller(sandbox.fhir_url, late)("GET", "/Practitioner").status_code == 401


# --- the billing service


def test_a_plan_is_the_same_at_every_asking(billing: Caller) -> None:
    answer = billing("GET", "/plans", params={"client_id": "000123"})
    plan = exact_json.loads(answer.content)
    assert plan.keys() == {"client_id", "name", "active", "price"}
    assert plan["client_id"] == "000123"
    assert isinstance(plan["price"], Decimal)
    assert billing("GET", "/plans/000123").content == answer.content


def test_about_one_plan_in_twelve_is_not_active(billing: Caller) -> None:
    with requests.Session() as session:
        session.headers.update(billing.headers)
        plans = [session.get(f"{billing.base}/plans/{number:06}").json() for number in range(1, 241)]
    assert 10 <= sum(not plan["active"] for plan in plans) <= 30
    assert {plan["name"] for plan in plans} == {"basic", "plus", "premium"}


@pytest.mark.parametrize(("path", "status"), [("/plans/7", 404), ("/plans", 400), ("/nowhere", 404)])
def test_a_wrong_question_is_answered_with_problem_details(billing: Caller, path: str, status: int) -> None:
    answer = billing("GET", path)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.status_code == answer.json()["status"] == status


def test_without_a_token_the_challenge_has_no_error_code(running: Sandbox) -> None:
    answer = requests.get(f"{running.billing_url}/plans/000001")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="billing"')


def test_the_billing_service_turns_down_a_token_that_is_not_for_it(running: Sandbox) -> None:
    for wrong in (token(running, "system/*.read"), token(running, "billing.read")[:-4] + "AAAA", "x.y.z"):
        answer = Caller(running.billing_url, wrong)("GET", "/plans/000001")
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_scope_that_does_not_reach_is_403(running: Sandbox) -> None:
    reader = Caller(running.billing_url, token(running, "billing.read"))
    answer = reader("POST", "/invoices", json={"client_id": "000001"})
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert 'scope="billing.write"' in answer.headers["WWW-Authenticate"]


def test_an_invoice_is_made_once_a_key_however_often_and_wherever_it_is_asked_for(own: Sandbox) -> None:
    call = Caller(own.billing_url, token(own))

    def post(amount: str, key: str) -> requests.Response:
        body = f'{{"client_id": "000001", "amount": {amount}}}'
        return call("POST", "/invoices", data=body, headers={"Idempotency-Key": key})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post("1.10", "first"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert {answer.content for answer in answers} == {b'{"invoice_id":"inv-000001","client_id":"000001","amount":1.10}'}
    assert post("2", "first").status_code == 422
    assert post("2", "second").status_code == 201
    log = requests.get(own.billing_url.replace("/api", "/sandbox/invoices")).json()
    assert len(log["invoices"]) == 2
    assert log["keys"] == ["first"] * 9 + ["second"]


@pytest.mark.parametrize(("body", "status"), [("{", 400), ("[]", 422), ('{"client_id": "7"}', 422)])
def test_an_invoice_for_nobody_is_refused(billing: Caller, body: str, status: int) -> None:
    assert billing("POST", "/invoices", data=body).status_code == status


# --- the FHIR server


def test_a_practitioner_is_read_with_version_and_time(fhir: Caller) -> None:
    answer = fhir("GET", f"/Practitioner/{SOMEBODY}")
    assert answer.headers["Content-Type"] == "application/fhir+json"
    assert answer.headers["ETag"] == 'W/"1"'
    assert answer.headers["Last-Modified"].endswith("GMT")
    assert answer.json()["name"][0]["family"] == "Bergstrom287"
    assert answer.json()["meta"]["versionId"] == "1"
    assert answer.json()["meta"]["lastUpdated"].endswith("Z")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/Practitioner/nobody", 404, "not-found"),
        ("GET", "/Nothing", 404, "not-supported"),
        ("GET", "/Practitioner?_count=many", 400, "invalid"),
        ("GET", "/Practitioner?_lastUpdated=ge2025", 400, "invalid"),
        ("GET", "/Practitioner?name:sounds-like=x", 400, "not-supported"),
        ("GET", "/Practitioner?_page=none.20", 410, "expired"),
        ("GET", "/Practitioner?_id=" + "a," * 4500, 414, "too-long"),
        ("PATCH", f"/Practitioner/{SOMEBODY}", 405, "not-supported"),
        ("POST", "/Practitioner", 400, "structure"),
        ("POST", "", 400, "structure"),
        ("GET", "/a/b/c/d/e", 404, "not-found"),
    ],
)
def test_every_error_is_an_operation_outcome(fhir: Caller, method: str, path: str, status: int, code: str) -> None:
    answer = fhir(method, path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/fhir+json"
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert answer.json()["issue"][0]["code"] == code


def test_the_fhir_server_turns_down_unknown_tokens_and_short_scopes(running: Sandbox) -> None:
    unknown = Caller(running.fhir_url, "unknown")("GET", "/Practitioner")
    assert (unknown.status_code, unknown.json()["issue"][0]["code"]) == (401, "login")
    assert 'error="invalid_token"' in unknown.headers["WWW-Authenticate"]
    reader = Caller(running.fhir_url, token(running, "system/*.read"))
    assert reader("POST", "/Practitioner", json={"resourceType": "Practitioner"}).status_code == 403
    entry = {"resource": {"resourceType": "Practitioner"}, "request": {"method": "POST", "url": "Practitioner"}}
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [entry]}
    assert reader("POST", "", json=bundle).status_code == 403


def test_a_token_is_introspected_once_for_a_burst_of_requests(own: Sandbox) -> None:
    call = Caller(own.fhir_url, token(own))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: call("GET", f"/Practitioner/{SOMEBODY}"), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert own.counts()["oauth"] == {"token": 1, "introspect": 1}
    assert own.counts()["fhir"] == {"read": 100}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_several_are_found_by_their_ids_and_a_missing_one_is_left_out_silently(fhir: Caller, method: str) -> None:
    query = {"_id": f"{SOMEBODY},nobody,{SOMEBODY_ELSE}"}
    if method == "GET":
        bundle = fhir("GET", "/Practitioner", params=query).json()
    else:
        bundle = fhir("POST", "/Practitioner/_search", data=query).json()
    assert ids(bundle) == [SOMEBODY, SOMEBODY_ELSE]
    assert bundle["total"] == 2
    assert bundle["entry"][0]["search"] == {"mode": "match"}
    assert bundle["entry"][0]["fullUrl"] == f"{fhir.base}/Practitioner/{SOMEBODY}"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"name": "bergstrom2"}, True),
        ({"name": "rgstrom"}, False),
        ({"name:exact": "Bergstrom287"}, True),
        ({"name:exact": "bergstrom287"}, False),
        ({"family": "Randy"}, False),
        ({"identifier": f"{NPI}|9999992198"}, True),
        ({"identifier": "9999992198"}, True),
        ({"identifier": "|9999992198"}, False),
        ({"identifier": "urn:other|9999992198"}, False),
        ({"active": "true"}, True),
        ({"active": "false"}, False),
        ({"gender": "male,female"}, True),
        ({"gender": r"male\,female"}, False),
        ({"_lastUpdated": "gt2025-01-01"}, True),
        ({"_lastUpdated": ["gt2025-01-01", "lt2025-01-02T00:00:00Z"]}, False),
    ],
)
def test_a_search_finds_what_it_means(fhir: Caller, query: dict[str, Any], found: bool) -> None:
    bundle = fhir("GET", "/Practitioner", params={"_id": SOMEBODY, **query}).json()
    assert ids(bundle) == ([SOMEBODY] if found else [])


def test_paging_gives_each_resource_once_and_a_page_can_be_asked_for_again(fhir: Caller) -> None:
    bundle = fhir("GET", "/Practitioner", params={"gender": "male", "_count": 50}).json()
    seen = ids(bundle)
    while following := link(bundle, "next"):
        assert requests.get(following, headers=fhir.headers).json()["entry"]
        bundle = requests.get(following, headers=fhir.headers).json()
        seen += ids(bundle)
    assert len(seen) == len(set(seen)) == bundle["total"] == 138


def test_the_default_page_is_twenty_and_a_count_alone_has_no_entries(fhir: Caller) -> None:
    assert len(ids(fhir("GET", "/Practitioner").json())) == 20
    counted = fhir("GET", "/Practitioner", params={"_summary": "count", "gender": "female"}).json()
    assert counted["total"] == 133
    assert "entry" not in counted


def test_an_unknown_parameter_is_left_out_of_the_self_link_or_refused_if_read_strictly(fhir: Caller) -> None:
    query = {"active": "true", "colour": "red"}
    here = link(fhir("GET", "/Practitioner", params=query).json(), "self")
    assert "active=true" in here
    assert "colour" not in here
    strict = fhir("GET", "/Practitioner", params=query, headers={"Prefer": "handling=strict"})
    assert strict.status_code == 400
    assert "colour" in strict.json()["issue"][0]["diagnostics"]


def test_a_resource_lives_through_create_update_delete(fhir: Caller) -> None:
    created = fhir("POST", "/Observation", data=b'{"resourceType":"Observation","valueQuantity":{"value":1.10}}')
    assert created.status_code == 201
    assert b'"value":1.10' in created.content
    assert requests.get(created.headers["Location"], headers=fhir.headers).content == created.content
    path = f"/Observation/{created.json()['id']}"
    changed = {**created.json(), "status": "final"}
    assert fhir("PUT", path, json=changed, headers={"If-Match": 'W/"7"'}).json()["issue"][0]["code"] == "conflict"
    assert fhir("PUT", path, json=changed, headers={"If-Match": 'W/"1"'}).headers["ETag"] == 'W/"2"'
    assert fhir("PUT", f"{path}0", json=changed).status_code == 400
    assert fhir("DELETE", path, headers={"If-Match": 'W/"1"'}).status_code == 412
    assert fhir("DELETE", path).status_code == 204
    assert fhir("DELETE", path).status_code == 204
    assert fhir("GET", path).status_code == 410
    assert fhir("PUT", path, json=changed).headers["ETag"] == 'W/"4"'


def test_a_put_under_a_new_id_creates(fhir: Caller) -> None:
    answer = fhir("PUT", "/Organization/ours", json={"resourceType": "Organization", "id": "ours", "name": "Ours"})
    assert answer.status_code == 201
    assert ids(fhir("GET", "/Organization", params={"name": "our"}).json()) == ["ours"]


def test_a_conditional_create_makes_one_finds_one_and_refuses_many(fhir: Caller) -> None:
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "1|2"}]}
    condition = {"If-None-Exist": r"identifier=urn:mrn%7C1%5C%7C2"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: fhir("POST", "/Patient", json=patient, headers=condition), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    fhir("POST", "/Patient", json=patient)
    many = fhir("POST", "/Patient", json=patient, headers=condition)
    assert (many.status_code, many.json()["issue"][0]["code"]) == (412, "multiple-matches")


def test_a_batch_answers_each_entry_in_its_place(fhir: Caller) -> None:
    urls = [f"Practitioner/{SOMEBODY}", "Practitioner/nobody", f"Practitioner?_id={SOMEBODY_ELSE}"]
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    bundle = fhir("POST", "", json={"resourceType": "Bundle", "type": "batch", "entry": entries}).json()
    assert bundle["type"] == "batch-response"
    first, missing, searched = bundle["entry"]
    assert first["resource"]["id"] == SOMEBODY
    assert first["response"]["etag"] == 'W/"1"'
    assert (missing["response"]["status"], missing["response"]["outcome"]["issue"][0]["code"]) == (
        "404 Not Found",
        "not-found",
    )
    assert ids(searched["resource"]) == [SOMEBODY_ELSE]


def transaction(*more: dict[str, Any]) -> dict[str, Any]:
    organization = {"resourceType": "Organization", "identifier": [{"system": "urn:org", "value": "1"}]}
    role = {"resourceType": "PractitionerRole", "organization": {"reference": "urn:uuid:1"}}
    entries = [
        {"fullUrl": "urn:uuid:2", "resource": role, "request": {"method": "POST", "url": "PractitionerRole"}},
        {
            "fullUrl": "urn:uuid:1",
            "resource": organization,
            "request": {"method": "POST", "url": "Organization", "ifNoneExist": "identifier=urn:org|1"},
        },
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": [*entries, *more]}


def test_a_transaction_resolves_the_references_among_its_new_resources(own: Sandbox) -> None:
    call = Caller(own.fhir_url, token(own))
    role, organization = call("POST", "", json=transaction()).json()["entry"]
    assert role["response"]["status"] == organization["response"]["status"] == "201 Created"
    stored = call("GET", f"/PractitionerRole/{role['resource']['id']}").json()
    assert stored["organization"]["reference"] == f"Organization/{organization['resource']['id']}"
    _, found = call("POST", "", json=transaction()).json()["entry"]
    assert found["response"]["status"] == "200 OK"
    assert found["resource"]["id"] == organization["resource"]["id"]


def test_a_transaction_that_fails_leaves_nothing_behind(own: Sandbox) -> None:
    call = Caller(own.fhir_url, token(own))
    wrong = {"request": {"method": "GET", "url": "Practitioner/nobody"}}
    answer = call("POST", "", json=transaction(wrong))
    assert (answer.status_code, answer.json()["resourceType"]) == (404, "OperationOutcome")
    assert call("GET", "/Organization", params={"_summary": "count"}).json()["total"] == 0


def test_the_capabilities_and_the_way_to_tokens_are_public(running: Sandbox) -> None:
    capabilities = requests.get(f"{running.fhir_url}/metadata").json()
    assert (capabilities["resourceType"], capabilities["fhirVersion"]) == ("CapabilityStatement", "4.0.1")
    smart = requests.get(f"{running.fhir_url}/.well-known/smart-configuration").json()
    assert smart["token_endpoint"] == running.token_url


# --- the sandbox as a whole


def test_a_scripted_fault_comes_as_often_as_asked_for(own: Sandbox) -> None:
    call = Caller(own.billing_url, token(own))
    own.fail(app="billing", times=2, status=503, headers={"Retry-After": "1"}, route="plan")
    assert call("GET", "/plans").status_code == 400
    answers = [call("GET", "/plans/000001") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert own.counts()["billing"] == {"plans": 1, "plan": 3}


def test_a_fault_speaks_the_language_of_its_server(own: Sandbox) -> None:
    own.fail("oauth", status=429)
    own.fail("fhir", status=500)
    assert ask_token(own).json()["error"] == "temporarily_unavailable"
    assert requests.get(f"{own.fhir_url}/metadata").json()["issue"][0]["code"] == "exception"


def test_the_fhir_server_is_unavailable_while_it_cannot_introspect(own: Sandbox) -> None:
    call = Caller(own.fhir_url, token(own))
    own.fail("oauth", route="introspect")
    assert [call("GET", "/Practitioner").status_code for _ in range(2)] == [503, 200]


def test_no_proxy_of_the_environment_stands_between_the_servers(own: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    billing, fhir = (Caller(url, token(own)) for url in (own.billing_url, own.fhir_url))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    direct = {"http": ""}
    assert billing("GET", "/plans/000001", proxies=direct).status_code == 200
    assert fhir("GET", "/Practitioner", proxies=direct).status_code == 200


def test_revoked_tokens_are_turned_down_at_once_and_everywhere_and_new_ones_are_not(own: Sandbox) -> None:
    billing, fhir = (Caller(url, token(own)) for url in (own.billing_url, own.fhir_url))
    assert (billing("GET", "/plans/000001").status_code, fhir("GET", "/Practitioner").status_code) == (200, 200)
    own.revoke_tokens()
    assert (billing("GET", "/plans/000001").status_code, fhir("GET", "/Practitioner").status_code) == (401, 401)
    assert Caller(own.billing_url, token(own))("GET", "/plans/000001").status_code == 200


def test_the_settings_lead_to_the_running_servers(running: Sandbox) -> None:
    settings = tomllib.loads(running.settings_toml())
    hospital = settings["auth"]["hospital"]
    form = {"grant_type": hospital["type"], "scope": " ".join(hospital["scopes"])}
    answer = requests.post(hospital["token_url"], data=form, auth=(hospital["client_id"], hospital["client_secret"]))
    assert answer.json()["scope"] == form["scope"]
    assert settings["backends"]["billing"]["url"] == running.billing_url
    assert settings["backends"]["ehr"]["url"] == running.fhir_url


def test_the_settings_for_given_ports_need_no_running_sandbox() -> None:
    assert 'token_url = "http://127.0.0.1:8801/token"' in Addresses(8801, 8802, 8803).settings_toml()


def test_a_port_that_is_taken_is_named(running: Sandbox) -> None:
    with pytest.raises(OSError, match=f"port {running.addresses.fhir_port} "):
        Sandbox(ports=(0, 0, running.addresses.fhir_port)).start()


def test_after_stop_nobody_answers_and_waiting_ends() -> None:
    sandbox = Sandbox().start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sandbox.wait)
        sandbox.stop()
        waiting.result(timeout=5)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{sandbox.fhir_url}/metadata")


def test_a_hundred_connections_are_served_at_once(running: Sandbox) -> None:
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: requests.get(f"{running.fhir_url}/metadata").status_code, range(300)))
    assert set(answers) == {200}


# A new project without it


@pytest.mark.parametrize("moved", [False, True])
def test_a_check_tells_a_newcomer_to_start_it_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    usual, others = free_ports(3), free_ports(3)
    monkeypatch.setattr(sandbox, "DEFAULT_PORTS", usual)
    scaffold.init(tmp_path / "p", Addresses(*(others if moved else usual)).settings_toml())
    found = {(each.what, each.name): each for each in checks.check(tmp_path / "p" / "longshore.toml")}
    said = found["auth", "hospital"].detail
    assert said.startswith("the token endpoint cannot be reached, or broke off (Connection refused)")
    assert ("`longshore sandbox`" in said) is not moved
    assert found["backend", "ehr"].detail == "cannot be asked without its auth, hospital"
