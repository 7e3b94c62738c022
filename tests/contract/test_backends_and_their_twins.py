"""What a job sees of a backend is the same whether the network is there or a twin from ``worker.testing``."""

import threading

import pytest

from worker import exact_json
from worker.config import load
from worker.connections import connect
from worker.errors import Refused
from worker.records import Meter, RowKey
from worker.sandbox import Sandbox
from worker.sandbox.billing import plan
from worker.sandbox.fhir import practitioners
from worker.testing import Answer, FakeFhir, FakeRest, context

SOMEBODY = next(practitioners())
NURSE = {
    "resourceType": "Practitioner",
    "identifier": [{"system": "http://ids.example", "value": "n-1"}],
    "name": [{"family": "Nightingale", "given": ["Florence"]}],
}
NURSE_1 = NURSE | {"id": "nurse-1"}


def plan_of(request):
    found = plan(request.params["client_id"])
    return found or Answer(404, {"detail": "There is no such client."})


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """The sandbox's backends by name."""
    with Sandbox() as servers:
        folder = tmp_path_factory.mktemp("project")
        (folder / "longshore.toml").write_text(servers.settings_toml())
        with connect(load(folder / "longshore.toml", {}), "test") as connections:
            yield connections.backends


def session(backends, name):
    return backends[name].open(Meter(), threading.Event()).at(RowKey("d" * 64, 2))


@pytest.fixture(params=["sandbox", "twin"])
def ehr(request):
    if request.param == "twin":
        return context(fhir={"ehr": FakeFhir(practitioners())}).fhir["ehr"]
    return session(request.getfixturevalue("sandbox"), "ehr")


@pytest.fixture(params=["sandbox", "twin"])
def billing(request):
    if request.param == "twin":
        return context(rest={"billing": FakeRest({("GET", "/plans"): plan_of})}).rest["billing"]
    return session(request.getfixturevalue("sandbox"), "billing")


def test_a_rest_backend_gives_json_or_the_reason_why_not(billing):
    assert billing.get("/plans", params={"client_id": "000001"})["name"] == plan("000001")["name"]
    with pytest.raises(Refused, match=r"404 .*no such client"):
        billing.get("/plans", params={"client_id": "x"})


def test_a_shared_answer_is_the_same_and_ones_own(billing):
    first, again = (billing.get("/plans", params={"client_id": "000001"}, shared=True) for _ in range(2))
    assert first == again == billing.get("/plans", params={"client_id": "000001"})
    assert first is not again


def test_a_fhir_resource_is_read_as_it_is(ehr):
    found = ehr.read("Practitioner", SOMEBODY["id"])

    assert exact_json.dumps(found["name"]) == exact_json.dumps(SOMEBODY["name"])
    assert ehr.read_many("Practitioner", [SOMEBODY["id"]])[SOMEBODY["id"]] == found


def test_what_is_missing_is_refused(ehr):
    with pytest.raises(Refused) as refused:
        ehr.read("Practitioner", "nobody")
    assert refused.value.status == 404
    with pytest.raises(Refused, match="1 of 2 Practitioner"):
        ehr.read_many("Practitioner", [SOMEBODY["id"], "nobody"])


def test_searches_find_the_same(ehr):
    found = ehr.resources("Practitioner")

    assert found.search(active=True, _id=SOMEBODY["id"]).get()["id"] == SOMEBODY["id"]
    assert found.search(name=SOMEBODY["name"][0]["family"]).first()["id"] == SOMEBODY["id"]
    assert found.count() >= len([*practitioners()])
    with pytest.raises(Refused, match="shoe"):
        found.search(shoe="42").first()


def test_a_conditional_create_creates_once(ehr):
    made = ehr.create(NURSE, if_none_exist={"identifier": ("http://ids.example", "n-1")})
    again = ehr.create(NURSE, if_none_exist={"identifier": ("http://ids.example", "n-1")})

    assert made["id"] == again["id"]


def test_a_stale_version_is_a_conflict_and_what_is_deleted_is_gone(ehr):
    first = ehr.update(NURSE_1)
    ehr.update(NURSE_1 | {"active": True}, if_match=first["meta"]["versionId"])

    with pytest.raises(Refused, match="version conflict"):
        ehr.update(NURSE_1, if_match=first["meta"]["versionId"])
    ehr.delete("Practitioner", "nurse-1")
    with pytest.raises(Refused):
        ehr.read("Practitioner", "nurse-1")


def test_a_batch_answers_each_entry_and_a_transaction_does_all_or_nothing(ehr):
    add = {"request": {"method": "PUT", "url": "Practitioner/nurse-2"}, "resource": NURSE | {"id": "nurse-2"}}
    fail = {"request": {"method": "GET", "url": "Practitioner/nobody"}}

    with pytest.raises(Refused):
        ehr.transaction([add, fail])
    with pytest.raises(Refused):
        ehr.read("Practitioner", "nurse-2")
    assert [bool(outcome.error) for outcome in ehr.batch([add, fail])] == [False, True]
