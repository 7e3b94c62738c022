"""The jobs that come along, tested the way their readers would test their own."""

from pathlib import Path

import pytest

from worker import jobs
from worker.testing import Answer, FakeFhir, FakeRest, run_job

PROJECT = Path(__file__).parents[2]

GREENE = {
    "resourceType": "Practitioner",
    "id": "dr-1",
    "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "9999"}],
    "name": [{"prefix": ["Dr."], "given": ["Graham"], "family": "Greene"}],
}


@pytest.fixture(scope="module")
def examples():
    return jobs.load(PROJECT / "jobs", {})


@pytest.fixture
def ehr():
    return {"ehr": FakeFhir([GREENE])}


def plan_of(request):
    plans = {"100001": {"name": "Basic", "active": True}, "100002": {"name": "Gold", "active": False}}
    return plans.get(request.params["client_id"]) or Answer(404, {"detail": "no such client"})


@pytest.fixture
def summarized(examples, ehr):
    def summary(*clients, practitioner="dr-1"):
        rows = [{"client_id": client, "practitioner_id": practitioner} for client in clients]
        billing = FakeRest({("GET", "/plans"): plan_of})
        return run_job(examples["client_summary"], rows, rest={"billing": billing}, fhir=ehr)

    return summary


def test_a_client_is_summarized_with_plan_and_practitioner(summarized):
    assert summarized("100001").results == [
        {"client_id": "100001", "plan": "Basic", "practitioner": "Dr. Graham Greene"}
    ]


def test_a_client_whose_plan_is_not_active_is_rejected(summarized):
    assert summarized("100002").rejected[0].detail == "plan is not active"


def test_a_client_that_billing_does_not_know_is_rejected_with_its_reason(summarized):
    assert "no such client" in summarized("200000").rejected[0].detail


def test_a_blank_practitioner_is_rejected_without_asking_for_it(summarized):
    run = summarized("100001", practitioner="")

    assert run.rejected[0].detail == "the Practitioner id is blank"
    assert "ehr" not in run.calls


def test_practitioners_are_read_once_for_all_of_their_clients(summarized):
    assert summarized("100001", "100001", "100001").calls == {"billing": 3, "ehr": 1}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ({"text": "Nora Greene, MD", "family": "Greene"}, "Nora Greene, MD"),
        ({"family": "Greene"}, "Greene"),
        ({"given": ["Nora", "Ann"]}, "Nora Ann"),
    ],
    ids=str,
)
def test_a_name_is_its_text_or_put_together_from_what_there_is(examples, name, said):
    ehr = {"ehr": FakeFhir([GREENE | {"name": [name]}])}
    billing = {"billing": FakeRest({("GET", "/plans"): plan_of})}
    rows = [{"client_id": "100001", "practitioner_id": "dr-1"}]

    assert run_job(examples["client_summary"], rows, rest=billing, fhir=ehr).results[0]["practitioner"] == said


ENTRY = {
    "ward": "ICU",
    "coordinator": "Dvořák",
    "practitioner_id": "dr-1",
    "first_day": "2026-02-27",
    "last_day": "2026-03-01",
    "shift": "day",
}


def test_a_roster_entry_gives_a_result_for_each_day_on_duty(examples, ehr):
    run = run_job(examples["practitioner_roster"], [ENTRY], fhir=ehr)

    assert [result["day"] for result in run.results] == ["2026-02-27", "2026-02-28", "2026-03-01"]
    assert run.results[0] == {
        "day": "2026-02-27",
        "ward": "ICU",
        "shift": "day",
        "npi": "9999",
        "family": "Greene",
        "coordinator": "Dvořák",
    }


def test_a_day_off_is_skipped_and_nobody_is_asked(examples, ehr):
    run = run_job(examples["practitioner_roster"], [ENTRY | {"shift": "off"}], fhir=ehr)

    assert (run.results, run.rejected, run.skipped, run.calls) == ([], [], 1, {})


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"last_day": "2026-02-26"}, "the last day is before the first"),
        ({"first_day": "2026-02-30"}, "first_day: "),
        ({"shift": "noon"}, "shift: "),
    ],
    ids=str,
)
def test_a_roster_entry_that_cannot_be_is_rejected_with_the_reason(examples, ehr, mistake, said):
    run = run_job(examples["practitioner_roster"], [ENTRY | mistake], fhir=ehr)

    assert run.rejected[0].detail.startswith(said)


def test_the_roster_is_read_as_the_old_system_writes_it(examples):
    everybody = FakeFhir(answers={("GET", "/Practitioner/*"): lambda asked: GREENE | {"id": Path(asked.path).name}})
    roster = PROJECT / "sample_inbox" / "roster-brno.csv"

    run = run_job(examples["practitioner_roster"], roster, fhir={"ehr": everybody})

    assert len(run.outcomes) == 40
    assert run.skipped == 4
    assert (run.results[0]["ward"], run.results[0]["coordinator"]) == ("Oddělení následné péče", "Małgorzata Wójcik")


def test_rejected_roster_entries_can_be_mended_and_dropped_again_as_they_are(examples, ehr, tmp_path):
    rejects = tmp_path / "roster-brno-3f9a1c2b.rejected.csv"
    mended = [*ENTRY.values(), "7", "Reject", "the last day is before the first"]
    rejects.write_text(",".join([*ENTRY, "_line", "_error", "_detail"]) + "\n" + ",".join(mended) + "\n")

    run = run_job(examples["practitioner_roster"], rejects, fhir=ehr)

    assert (len(run.results), run.results[0]["coordinator"]) == (3, "Dvořák")
