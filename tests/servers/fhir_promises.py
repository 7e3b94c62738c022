"""What a real FHIR server has to show, whatever its make; a test class names its ``server`` and adds its own."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import pytest
from servers.lossy import lossy

from worker import jobs
from worker.backends import open_backend
from worker.backends.by_id import ById, Learnt
from worker.config import FhirSettings
from worker.errors import Refused
from worker.records import Meter, RowKey

JOBS = Path(__file__).parents[2] / "jobs"
SYSTEM = "http://ids.example"
TOLD = {"url": "http://x.example/as-told", "valueBoolean": True}
# Long enough that a list of fifty is no matter for a URL.
WARD = [f"nurse-{number:036}" for number in range(120)]
SEEDED = set()


@dataclass
class Ehr:
    """A server's backend, opened for one delivery."""

    base: str
    settings: dict = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    @cached_property
    def backend(self):
        return open_backend("ehr", FhirSettings(url=self.base, timeout=60, **self.settings), None, threads=64)

    @cached_property
    def session(self):
        return self.backend.open(self.meter, threading.Event())

    def at(self, line=2):
        return self.session.at(RowKey(uuid.uuid4().hex, line))

    @property
    def calls(self):
        return self.meter.read()[0].get("ehr", 0)

    def close(self):
        self.backend.close()


def nurse(**more):
    return {"resourceType": "Practitioner", "name": [{"family": "Nightingale"}], **more}


def identified(value):
    return nurse(identifier=[{"system": SYSTEM, "value": value}])


def put(resource, **request):
    url = f"{resource['resourceType']}/{resource['id']}"
    return {"request": {"method": "PUT", "url": url, **request}, "resource": resource}


def new_id():
    return f"id-{uuid.uuid4()}"


class FhirServerPromises:
    @pytest.fixture
    def ehr(self, server):
        if server not in SEEDED:
            ward = [put(nurse(id=id_, active=True)) for id_ in WARD]
            with closing(Ehr(server)) as first:
                assert not any(outcome.error for outcome in first.at().batch(ward))
            SEEDED.add(server)
        with closing(Ehr(server)) as ehr:
            yield ehr

    def test_the_version_is_the_configured_one(self, ehr):
        assert ehr.backend.check().startswith("FHIR 4.0.1 at http://127.0.0.1")
        with closing(Ehr(ehr.base, {"version": "R5"})) as other, pytest.raises(Refused, match=r"FHIR 4.0.1, not R5"):
            other.backend.check()

    def test_a_thousand_reads_of_many_rows_ask_for_each_resource_once_at_most(self, ehr):
        with ThreadPoolExecutor(64) as rows:
            found = list(rows.map(lambda row: ehr.at(row).read("Practitioner", WARD[row % len(WARD)]), range(1000)))
        assert [each["id"] for each in found] == [WARD[row % len(WARD)] for row in range(1000)]
        assert ehr.calls <= len(WARD)

    def test_long_lists_of_ids_come_whole_in_the_order_asked(self, ehr):
        assert list(ehr.at().read_many("Practitioner", reversed(WARD))) == WARD[::-1]
        assert ehr.calls == 3
        everyone = ehr.at().resources("Practitioner").search(_id=set(WARD), _count=len(WARD))
        assert {each["id"] for each in everyone} == set(WARD)

    def test_missing_ids_are_named_and_cost_their_rows_only(self, ehr):
        with pytest.raises(Refused, match="2 of 3 Practitioner are missing: number 1, 3 of those"):
            ehr.at().read_many("Practitioner", ["nobody-1", WARD[0], "nobody-2"])
        with pytest.raises(Refused) as refused:
            ehr.at().read("Practitioner", "nobody-1")
        assert refused.value.status == 404
        assert ehr.at().read("Practitioner", WARD[0])["id"] == WARD[0]
        assert ehr.calls == 2  # the search, and a batch of what it left out

    def test_a_search_is_read_to_its_last_page(self, ehr):
        pages = list(ehr.at().resources("Practitioner").search(_id=set(WARD)).pages())
        assert [len(page.matches) for page in pages] == [20] * 6

    def test_what_a_search_includes_is_found_by_its_reference(self, ehr):
        doctor = f"Practitioner/{WARD[0]}"
        patient = {"resourceType": "Patient", "id": new_id(), "generalPractitioner": [{"reference": doctor}]}
        ehr.at().update(patient)
        patients, nurses = (ehr.at().resources(type_) for type_ in ("Patient", "Practitioner"))
        found = patients.search(_id=patient["id"], _include="Patient:general-practitioner").gather()
        assert [each["id"] for each in found.matches] == [patient["id"]]
        assert found.included[doctor]["id"] == WARD[0]
        found = nurses.search(_id=WARD[0], _revinclude="Patient:general-practitioner").gather()
        assert [each["id"] for each in found.matches] == [WARD[0]]
        assert f"Patient/{patient['id']}" in found.included

    def test_a_write_is_seen_by_the_next_search_and_read(self, ehr):
        id_ = new_id()
        ward = ehr.at().resources("Practitioner").search(_id=id_)
        ehr.at().update(nurse(id=id_, active=True))
        assert ward.get()["active"] is True
        assert ehr.at().read("Practitioner", id_)["active"] is True
        ehr.at().update(nurse(id=id_, active=False))
        assert ward.get()["active"] is False
        assert ehr.at().read("Practitioner", id_)["active"] is False

    def test_another_ones_write_is_seen_by_who_asks_afresh(self, ehr):
        id_ = new_id()
        ehr.at().update(nurse(id=id_, active=True))
        assert ehr.at().read("Practitioner", id_)["active"] is True
        with closing(Ehr(ehr.base)) as other:
            other.at().update(nurse(id=id_, active=False))
        assert ehr.at().read("Practitioner", id_)["active"] is True
        assert ehr.at().read("Practitioner", id_, fresh=True)["active"] is False

    def test_a_conditional_create_creates_once_and_is_refused_where_several_match(self, ehr):
        value = new_id()
        made = [ehr.at().create(identified(value), if_none_exist={"identifier": (SYSTEM, value)}) for _ in range(2)]
        assert made[0]["id"] == made[1]["id"]
        ehr.at().create(identified(value))
        with pytest.raises(Refused, match="several resources match if_none_exist") as refused:
            ehr.at().create(identified(value), if_none_exist={"identifier": (SYSTEM, value)})
        assert refused.value.status == 412

    def test_a_create_whose_answer_was_lost_is_there_once(self, ehr):
        value = new_id()
        with lossy(ehr.base) as base, closing(Ehr(base)) as other:
            assert other.at().resources("Practitioner").search(_id="nobody").first() is None  # keeps its connection
            made = other.at().create(identified(value))
        found = ehr.at().resources("Practitioner").search(identifier=(SYSTEM, value))
        assert found.get()["id"] == made["id"]

    def test_a_transaction_whose_answer_was_lost_is_done_once(self, ehr):
        value = new_id()
        entry = {"request": {"method": "POST", "url": "Practitioner"}, "resource": identified(value)}
        with lossy(ehr.base) as base, closing(Ehr(base)) as other:
            assert other.at().resources("Practitioner").search(_id="nobody").first() is None  # keeps its connection
            (done,) = other.at().transaction([entry])
        found = ehr.at().resources("Practitioner").search(identifier=(SYSTEM, value))
        assert found.get()["id"] in done.location

    def test_a_stale_version_is_a_conflict(self, ehr):
        id_ = new_id()
        first = ehr.at().update(nurse(id=id_))["meta"]["versionId"]
        second = ehr.at().update(nurse(id=id_, active=True), if_match=first)
        change = [{"op": "replace", "path": "/active", "value": False}]
        for write in (
            lambda: ehr.at().update(nurse(id=id_), if_match=first),
            lambda: ehr.at().patch("Practitioner", id_, change, if_match=first),
        ):
            with pytest.raises(Refused, match="version conflict") as refused:
                write()
            assert refused.value.status == self.conflict
        patched = ehr.at().patch("Practitioner", id_, change, if_match=second["meta"]["versionId"])
        assert patched["active"] is False

    def test_a_version_of_what_is_not_there_is_never_replaced_in_silence(self, ehr):
        with pytest.raises(Refused):
            ehr.at().update(nurse(id=new_id()), if_match="1")

    def test_what_was_deleted_is_gone_and_may_be_deleted_again(self, ehr):
        id_ = new_id()
        ehr.at().update(nurse(id=id_))
        assert ehr.at().read("Practitioner", id_)
        for _ in range(2):
            ehr.at().delete("Practitioner", id_)
        with pytest.raises(Refused) as refused:
            ehr.at().read("Practitioner", id_)
        assert refused.value.status == self.gone

    def test_a_batch_answers_each_entry(self, ehr):
        id_ = new_id()
        entries = [{"request": {"method": "GET", "url": "Practitioner/nobody"}}, put(nurse(id=id_))]
        missing, made = ehr.at().batch(entries)
        assert (missing.error.status, type(missing.error)) == (404, Refused)
        assert made.error is None
        assert ehr.at().read("Practitioner", id_)["id"] == id_

    def test_a_batch_serves_where_a_search_by_id_is_not_to_be_had(self, ehr):
        learnt = Learnt()
        learnt.not_searchable("Practitioner")
        found = ById(ehr.session.caller, learnt)("Practitioner", [*WARD, "nobody"])
        assert found.pop("nobody").status == 404
        assert [each["id"] for each in found.values()] == WARD
        assert ehr.calls == 1

    def test_a_transaction_does_all_and_follows_its_own_references(self, ehr):
        value = new_id()
        link = "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"
        patient = {"resourceType": "Patient", "generalPractitioner": [{"reference": link}]}
        doctor, client = ehr.at().transaction(
            [
                {
                    "fullUrl": link,
                    "request": {"method": "POST", "url": "Practitioner", "ifNoneExist": f"identifier={SYSTEM}|{value}"},
                    "resource": identified(value),
                },
                {"request": {"method": "POST", "url": "Patient"}, "resource": patient},
            ]
        )
        id_ = ehr.at().resources("Practitioner").search(identifier=(SYSTEM, value)).get()["id"]
        assert [outcome.status for outcome in (doctor, client)] == [201, 201]
        assert client.resource["generalPractitioner"] == [{"reference": f"Practitioner/{id_}"}]

    def test_a_transaction_of_which_one_entry_fails_does_nothing(self, ehr):
        id_ = new_id()
        with pytest.raises(Refused):
            ehr.at().transaction([put(nurse(id=id_)), put(nurse(id=WARD[0]), ifMatch='W/"99"')])
        with pytest.raises(Refused) as refused:
            ehr.at().read("Practitioner", id_)
        assert refused.value.status == 404

    def test_what_is_read_and_written_back_stays_what_it_was(self, ehr):
        id_ = new_id()
        written = {
            **nurse(id=id_, birthDate="1970-03"),
            "_birthDate": {"extension": [TOLD]},
            "name": [{"given": [None, "Ada"], "_given": [{"extension": [TOLD]}, None]}],
        }
        ehr.at().update(written)
        before = ehr.at().read("Practitioner", id_)
        ehr.at().update({**before, "active": True})
        after = ehr.at().read("Practitioner", id_)
        assert {key: value for key, value in before.items() if key != "meta"} == written
        assert {key: value for key, value in after.items() if key != "meta"} == {**written, "active": True}

    def test_what_changed_is_found_once_by_the_servers_own_clock(self, ehr):
        changed = jobs.load(JOBS, {})["changed_practitioners"].source
        state = {}

        def night():
            return [found["id"] for found in changed(SimpleNamespace(fhir={"ehr": ehr.at()}, state=state))]

        id_ = new_id()
        ehr.at().update(nurse(id=id_))
        assert night().count(id_) == 1
        assert night() == []
        ehr.at().update(nurse(id=id_, active=True))
        assert night() == [id_]
        assert night() == []
