import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from servers.fhir_promises import SYSTEM, WARD, FhirServerPromises, identified, new_id, nurse, put
from servers.hapi import hapi

from worker import exact_json
from worker.backends import open_backend
from worker.config import FhirSettings
from worker.errors import Refused
from worker.records import Meter, RowKey


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with hapi(tmp_path_factory.mktemp("hapi")) as base:
        yield base


def plain(url):
    """A GET as a script would send it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers={"Accept": "application/fhir+json"}), timeout=60)


class TestHapi(FhirServerPromises):
    conflict, gone = 409, 410

    def test_a_list_too_long_for_a_url_is_posted(self, ehr):
        ids = [*WARD, *(new_id() for _ in range(150))]
        with pytest.raises(HTTPError, match="414"):
            plain(f"{ehr.base}/Practitioner?{urlencode({'_id': ','.join(ids)})}")
        assert len(list(ehr.at().resources("Practitioner").search(_id=set(ids), _count=500))) == len(WARD)

    def test_a_search_is_not_answered_from_the_servers_cache(self, ehr):
        id_ = new_id()
        url = f"{ehr.base}/Practitioner?{urlencode({'_id': id_})}"
        with plain(url):
            ehr.at().update(nurse(id=id_))
        with plain(url) as stale:
            assert stale.headers["X-Cache"].startswith("HIT")
            assert "entry" not in exact_json.loads(stale.read())
        assert ehr.at().resources("Practitioner").search(_id=id_).get()["id"] == id_

    def test_rows_that_create_the_same_at_once_all_get_it(self, ehr):
        value = new_id()

        def create(line):
            return ehr.at(line).create(identified(value), if_none_exist={"identifier": (SYSTEM, value)})["id"]

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(create, range(16)))) == 1

    def test_an_unknown_search_parameter_is_refused_with_the_reason(self, ehr):
        with pytest.raises(Refused, match='Unknown search parameter "shoe"'):
            ehr.at().resources("Practitioner").search(shoe="42").first()

    def test_a_reason_that_stands_in_the_diagnostics_is_told(self, ehr):
        with pytest.raises(Refused, match="HAPI-0960: Can not create resource with ID"):
            ehr.at().update(nurse(id="77"))

    def test_decimals_keep_their_digits(self, ehr):
        observation = {
            "resourceType": "Observation",
            "id": new_id(),
            "status": "final",
            "code": {"text": "x"},
            "effectiveDateTime": "1970-03",
            "component": [
                {"code": {"text": "y"}, "valueQuantity": {"value": Decimal(digits)}}
                for digits in ("1.10", "0.000000010", "-0.50", "123456789.123456789")
            ],
        }
        ehr.at().update(observation)
        found = ehr.at().read("Observation", observation["id"])
        assert exact_json.dumps(found["component"]) == exact_json.dumps(observation["component"])

    def test_an_export_gives_what_is_there_and_then_what_has_changed(self, ehr, tmp_path):
        def sleep(stop, seconds):
            return stop.wait(min(seconds, 0.5))  # it asks for two minutes, and needs some seconds

        backend = open_backend("ehr", FhirSettings(url=ehr.base, timeout=60), None, threads=4, sleep=sleep)
        with closing(backend):
            at = backend.open(Meter(), threading.Event(), tmp_path / "tick").at(RowKey("d" * 64, 2))
            everybody = at.export("Practitioner")
            assert {found["id"] for found in everybody} >= set(WARD)
            id_ = new_id()
            ehr.at().update(nurse(id=id_, active=True))
            changed = at.export("Practitioner", since=everybody.time)
            assert [found["id"] for found in changed] == [id_]
            value = new_id()
            made = ehr.at().create(identified(value))
            known = at.resources("Practitioner").search(identifier=(SYSTEM, value))  # is posted
            some = at.export(known, since="2020-01-01T00:00:00Z")
            assert [found["id"] for found in some] == [made["id"]]
            patients = [{"resourceType": "Patient", "id": new_id()} for _ in range(2)]
            member = {"entity": {"reference": f"Patient/{patients[0]['id']}"}}
            group = {"resourceType": "Group", "id": new_id(), "type": "person", "actual": True, "member": [member]}
            assert not any(outcome.error for outcome in ehr.at().batch([put(each) for each in [*patients, group]]))
            assert list(at.export("Patient", of=f"Group/{group['id']}")) == [
                ehr.at().read("Patient", patients[0]["id"])
            ]
            with pytest.raises(Refused, match="begins no export"):
                list(at.export("Practitioner", of="Group/nobody"))
