"""The jobs that come along, tested the way their readers would test their own."""

from pathlib import Path

import pytest

from worker import DeliveryError, jobs
from worker.testing import Answer, FakeFhir, FakeRest, context, run_job

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


class Night:
    """The server's clock, and the nights on which the job is run, each with what the one before remembered."""

    def __init__(self, job, server):
        self.job, self.server, self.state = job, server, {}

    def run(self):
        """The practitioners that a night finds, with their versions."""
        run = run_job(self.job, fhir={"ehr": self.server}, state=self.state)
        assert not run.rejected
        self.state = run.state
        return [(result["practitioner_id"], result["version"]) for result in run.results]

    def change(self, id_, family="Greene"):
        ehr = context(fhir={"ehr": self.server}).fhir["ehr"]
        ehr.update({"resourceType": "Practitioner", "id": id_, "name": [{"family": family}]})


@pytest.fixture
def nights(examples):
    return Night(examples["changed_practitioners"], FakeFhir([GREENE, GREENE | {"id": "dr-2"}]))


def test_the_first_night_finds_everybody(nights):
    assert nights.run() == [("dr-1", "1"), ("dr-2", "1")]


def test_a_night_without_changes_finds_nobody_though_it_looks_back(nights):
    nights.run()
    assert nights.run() == []
    assert nights.run() == []


def test_what_changed_since_is_found_once(nights):
    nights.run()
    nights.change("dr-2")
    nights.change("dr-3")
    assert nights.run() == [("dr-2", "2"), ("dr-3", "1")]
    assert nights.run() == []


def test_a_change_within_the_time_that_is_looked_back_on_is_found_though_an_earlier_version_was_seen(nights):
    nights.run()
    for version in range(2, 5):
        nights.change("dr-1")
        assert nights.run() == [("dr-1", str(version))]


def test_the_question_is_asked_by_the_servers_clock(nights):
    date = {"Date": "Mon, 23 Nov 2026 02:00:00 GMT"}
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": 0}
    server = FakeFhir(answers={("GET", "/Practitioner"): Answer(200, bundle, date)})
    night = Night(nights.job, server)
    night.run()
    night.run()
    assert night.state["since"] == "2026-11-23T01:50:00.000+00:00"
    assert [request.params.get("_lastUpdated") for request in server.requests] == [
        None,
        "ge2026-11-23T01:50:00.000+00:00",
    ]


def test_changes_are_not_looked_back_on_for_ever(nights):
    nights.run()
    assert nights.state["seen"] == {"dr-1": "1", "dr-2": "1"}
    old = {"versionId": "1", "lastUpdated": "2020-01-01T00:00:00Z"}
    entry = {"resource": GREENE | {"meta": old}, "search": {"mode": "match"}}
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": 1, "entry": [entry]}
    night = Night(nights.job, FakeFhir(answers={("GET", "/Practitioner"): Answer(200, bundle)}))
    night.run()
    assert night.state["seen"] == {}


def test_a_server_without_a_clock_is_told_from_one_without_changes(nights):
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": 0}
    server = FakeFhir(answers={("GET", "/Practitioner"): Answer(200, bundle, {"Date": ""})})
    with pytest.raises(DeliveryError, match="does not tell its time"):
        Night(nights.job, server).run()
