"""Backends with real tokens, against the sandbox's OAuth server, REST and FHIR backends."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.auth import MemoryTokenStore, open_credential
from worker.backends import open_backend
from worker.config import load
from worker.errors import Refused
from worker.records import Meter, RowKey
from worker.sandbox import Sandbox
from worker.sandbox.fhir import practitioners

SOMEBODY = "00080548-2e91-3bfe-8d35-9efd0f531c4b"
IDS = [resource["id"] for resource in practitioners()]


class Project:
    """What the sandbox's own configuration opens, for one delivery."""

    def __init__(self, settings):
        self.meter = Meter()
        store = MemoryTokenStore()
        auths = {name: open_credential(name, auth, store, owner="test") for name, auth in settings.auth.items()}
        self.backends = {
            name: open_backend(name, backend, auths[backend.auth], threads=64)
            for name, backend in settings.backends.items()
        }
        self.sessions = {name: backend.open(self.meter, threading.Event()) for name, backend in self.backends.items()}

    def at(self, name, line=2):
        return self.sessions[name].at(RowKey("d" * 64, line))

    @property
    def calls(self):
        return self.meter.read()[0]


@pytest.fixture
def sandbox():
    with Sandbox(latency=0.005) as sandbox:
        yield sandbox


@pytest.fixture
def project(sandbox, tmp_path):
    (tmp_path / "longshore.toml").write_text(sandbox.settings_toml())
    project = Project(load(tmp_path / "longshore.toml", {}))
    yield project
    for backend in project.backends.values():
        backend.close()


def test_every_backend_answers_its_check(project):
    assert project.backends["ehr"].check().startswith("FHIR 4.0.1 at http://")
    assert " answers (" in project.backends["billing"].check()


def test_a_thousand_reads_of_many_rows_take_few_requests_and_one_token(project):
    with ThreadPoolExecutor(64) as pool:
        rows = range(1000)
        found = list(pool.map(lambda row: project.at("ehr", row).read("Practitioner", IDS[row % len(IDS)])["id"], rows))
    assert found == [IDS[row % len(IDS)] for row in rows]
    assert project.calls["ehr"] <= 40
    assert project.meter.read()[1] == 1


def test_a_revoked_token_goes_unnoticed(project, sandbox):
    project.at("ehr").read("Practitioner", SOMEBODY)
    sandbox.revoke_tokens()
    assert project.at("ehr").read("Practitioner", SOMEBODY, fresh=True)["id"] == SOMEBODY
    assert project.calls["ehr"] == 3


def test_an_outage_of_a_moment_goes_unnoticed(project, sandbox):
    sandbox.fail("fhir", times=2, status=503, headers={"Retry-After": "0"})
    assert project.at("ehr").read("Practitioner", SOMEBODY)["id"] == SOMEBODY
    assert project.calls["ehr"] == 3


def test_a_search_goes_through_all_its_pages(project):
    found = [one["id"] for one in project.at("ehr").resources("Practitioner").search(active=True, _count=50).iterate()]
    assert len(found) == len(set(found))
    assert len(found) > 100


def test_a_conditional_create_makes_one_resource_and_a_stale_update_is_refused(project):
    ehr = project.at("ehr")
    new = {"resourceType": "Practitioner", "identifier": [{"system": "urn:test", "value": "1"}]}
    first = ehr.create(new, if_none_exist={"identifier": ("urn:test", "1")})
    again = ehr.create(new, if_none_exist={"identifier": ("urn:test", "1")})
    assert again["id"] == first["id"]
    changed = ehr.update({**first, "active": False}, if_match=first["meta"]["versionId"])
    assert changed["active"] is False
    with pytest.raises(Refused, match="version conflict"):
        ehr.update(first, if_match=first["meta"]["versionId"])
    assert ehr.read("Practitioner", first["id"])["active"] is False


def test_a_batch_gives_each_entry_its_own_outcome(project):
    wanted = [f"Practitioner/{SOMEBODY}", "Practitioner/unknown"]
    entries = [{"request": {"method": "GET", "url": url}} for url in wanted]
    found, missing = project.at("ehr").batch(entries)
    assert found.resource["id"] == SOMEBODY
    assert missing.error.status == 404


def test_equal_posts_of_one_row_are_done_once(project):
    first, again = (project.at("billing", 7).post("/invoices", json={"client_id": "000001"}) for _ in range(2))
    assert first == again
