"""The twins that job authors test with behave like what they stand for."""

import gc
import gzip
from decimal import Decimal

import pandas as pd
import pytest
from pydantic import BaseModel

from worker import Context, DeliveryError, Refused, Reject, Row, Unavailable, job
from worker.errors import Unauthorized
from worker.testing import Answer, FakeFhir, FakeRest, context, run_job

ADA = {
    "resourceType": "Patient",
    "id": "p1",
    "active": True,
    "identifier": [{"system": "http://ids.example", "value": "77"}],
    "name": [{"family": "Byron", "given": ["Ada"]}],
}


@job(files="*.csv")
def price(row: Row, ctx: Context):
    if row["kind"] == "free":
        return None
    if row["kind"] == "odd":
        raise Reject("an odd kind")
    return {"id": row["id"], "price": ctx.rest["billing"].get("/prices", params={"id": row["id"]})["price"]}


@job(files="*.csv")
def lookup(row: Row, ctx: Context):
    return {"family": ctx.fhir["ehr"].read("Patient", row["patient"])["name"][0]["family"]}


def priced(answer=None):
    return {"billing": FakeRest({("GET", "/prices"): {"price": 5} if answer is None else answer})}


def test_results_rejections_and_skipped_rows_come_back_in_input_order():
    rows = [{"id": "007", "kind": ""}, {"id": "2", "kind": "odd"}, {"id": "3", "kind": "free"}, {"id": "4", "kind": ""}]

    run = run_job(price, rows, rest=priced())

    assert run.results == [{"id": "007", "price": 5}, {"id": "4", "price": 5}]
    assert [(each.line, each.error, each.detail, each.row["id"]) for each in run.rejected] == [
        (3, "Reject", "an odd kind", "2")
    ]
    assert run.skipped == 1
    assert run.calls == {"billing": 2}
    assert [outcome.index for outcome in run.outcomes] == [0, 1, 2, 3]


def test_rows_may_be_the_text_of_a_file_whose_wrong_rows_are_rejected_with_their_line():
    run = run_job(price, 'id,kind\n1,"a\nb"\n2\n3,\n', rest=priced())

    assert [result["id"] for result in run.results] == ["1", "3"]
    assert [(wrong.line, wrong.detail) for wrong in run.rejected] == [(4, "the row has 1 field, the header 2")]


def test_a_file_is_read_as_the_job_wants_it_read(tmp_path):
    @job(files="*.csv", encoding="cp1250", delimiter=";")
    def names(row: Row, ctx: Context):
        return {"name": row["name"], "file": ctx.delivery.source}

    file = tmp_path / "names.csv.gz"
    file.write_bytes(gzip.compress("id;name\n1;Dvořák\n".encode("cp1250")))

    assert run_job(names, file).results == [{"name": "Dvořák", "file": "names.csv.gz"}]
    assert run_job(names, "id;name\n1;Dvořák\n").results[0]["name"] == "Dvořák"


def test_a_row_lacks_no_column_that_another_row_has_just_as_in_a_file():
    @job(files="*.csv")
    def both(row: Row, ctx: Context):
        return {"a": row["a"], "b": row["b"]}

    assert run_job(both, [{"a": "1"}, {"b": 2}]).results == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]


def test_a_frame_job_gets_a_frame_and_its_results_belong_to_lines():
    @job(files="*.csv", frame=True)
    def doubled(frame: pd.DataFrame, ctx: Context):
        return frame[frame["n"] != "2"].assign(n=lambda kept: kept["n"].astype(int) * 2)

    run = run_job(doubled, [{"n": "1"}, {"n": "2"}, {"n": "3"}])

    assert run.results == [{"n": 2}, {"n": 6}]
    assert run.skipped == 1


def test_a_row_that_does_not_fit_the_jobs_model_is_rejected_without_its_value():
    class Entry(BaseModel):
        amount: Decimal

    @job(files="*.csv")
    def amounts(row: Entry, ctx: Context):
        return {"amount": row.amount}

    run = run_job(amounts, [{"amount": "1.10"}, {"amount": "secret"}])

    assert run.results == [{"amount": Decimal("1.10")}]
    assert "amount" in run.rejected[0].detail
    assert "secret" not in run.rejected[0].detail


def test_a_result_with_a_column_that_the_job_does_not_list_is_rejected_as_in_the_outbox():
    @job(files="*.csv", columns=["id"])
    def listed(row: Row, ctx: Context):
        return {"id": row["id"]} if row["id"] == "1" else {"id": row["id"], "extra": 1}

    run = run_job(listed, [{"id": "1"}, {"id": "2"}])

    assert run.results == [{"id": "1"}]
    assert "'extra'" in run.rejected[0].detail


def test_a_bug_rejects_its_row_and_its_message_stays_out_of_sight(capture_log):
    @job(files="*.csv")
    def buggy(row: Row, ctx: Context):
        raise ZeroDivisionError(row["id"])

    run = run_job(buggy, [{"id": "secret"}])

    assert run.rejected[0].error == "ZeroDivisionError"
    assert "secret" not in run.rejected[0].detail
    assert "test_testing.py" in capture_log[0]["where"]


def test_what_a_job_remembers_is_given_and_comes_back():
    @job(files="*.csv")
    def counting(row: Row, ctx: Context):
        ctx.state["rows"] = ctx.state["rows"] + 1

    assert run_job(counting, [{"id": "1"}, {"id": "2"}], state={"rows": 5, "since": "x"}).state == {
        "rows": 7,
        "since": "x",
    }


def test_a_job_can_be_called_as_the_function_it_is():
    ctx = context(rest=priced(), state={"since": "monday"})

    assert price({"id": "1", "kind": ""}, ctx) == {"id": "1", "price": 5}
    assert ctx.state["since"] == "monday"


def test_a_fake_keeps_the_requests_with_their_parameters_json_and_headers():
    billing = FakeRest({("POST", "/plans/*"): lambda request: {"got": request.json["name"], "tags": request.params}})
    rest = context(rest={"billing": billing}).rest["billing"]

    said = rest.post("/plans/7", json={"name": "gold"}, params={"tag": ["a", "b"], "one": 1})

    assert said == {"got": "gold", "tags": {"tag": ["a", "b"], "one": "1"}}
    assert billing.requests[0].path == "/plans/7"
    assert billing.requests[0].headers["idempotency-key"]


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (404, Refused, "answered 404 the reason: not_there"),
        (503, Unavailable, "answered 503 not_there"),
        (401, Unauthorized, "answered 401 not_there; check"),
    ],
)
def test_a_status_becomes_the_error_that_the_real_backend_raises(status, error, said):
    answer = Answer(status, {"detail": "the reason", "error": "not_there"})
    rest = context(rest=priced(answer)).rest["billing"]

    with pytest.raises(error, match=said):
        rest.get("/prices")


def test_a_refusal_is_a_rejected_row_and_an_outage_is_raised_for_the_whole_delivery():
    rows = [{"id": "1", "kind": ""}]

    assert run_job(price, rows, rest=priced(Answer(404))).rejected[0].error == "Refused"
    with pytest.raises(Unavailable):
        run_job(price, rows, rest=priced(Answer(503, headers={"Retry-After": "100"})))


def test_a_backend_that_recovers_is_asked_again_and_nothing_waits():
    answers = iter([Answer(503, headers={"Retry-After": "20"}), {"price": 7}])

    run = run_job(price, [{"id": "1", "kind": ""}], rest=priced(lambda _: next(answers)))

    assert run.results == [{"id": "1", "price": 7}]
    assert run.calls == {"billing": 2}


def test_a_request_that_no_answer_is_for_names_those_that_there_are():
    with pytest.raises(DeliveryError, match="no answer for GET /prices; it has: GET /plans"):
        run_job(price, [{"id": "1", "kind": ""}], rest={"billing": FakeRest({("GET", "/plans"): {}})})


def test_a_backend_that_the_test_did_not_give_is_named():
    with pytest.raises(DeliveryError, match="'billing'"):
        run_job(price, [{"id": "1", "kind": ""}])


def test_fhir_resources_are_read_once_a_delivery_and_a_missing_one_rejects_its_row():
    run = run_job(lookup, [{"patient": "p1"}, {"patient": "p1"}, {"patient": "p2"}], fhir={"ehr": FakeFhir([ADA])})

    assert run.results == [{"family": "Byron"}, {"family": "Byron"}]
    assert run.rejected[0].error == "Refused"
    assert run.calls == {"ehr": 2}


@pytest.mark.parametrize(
    "criteria",
    [{"_id": "p1"}, {"active": True}, {"identifier": ("http://ids.example", "77")}, {"name": "ada"}],
    ids=str,
)
def test_fhir_resources_are_searched(criteria):
    other = {"resourceType": "Patient", "id": "p2", "active": False, "name": [{"text": "Charles"}]}
    ehr = context(fhir={"ehr": FakeFhir([ADA, other])}).fhir["ehr"]

    assert ehr.resources("Patient").search(**criteria).get()["id"] == "p1"


def test_a_search_that_the_fake_does_not_know_is_refused_and_can_be_answered_by_the_test():
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": ADA}]}
    ehr = context(fhir={"ehr": FakeFhir([ADA])}).fhir["ehr"]
    answering = context(fhir={"ehr": FakeFhir(answers={("GET", "/Patient"): bundle})}).fhir["ehr"]

    with pytest.raises(Refused, match="Unknown search parameter: language"):
        ehr.resources("Patient").search(language="cs").first()
    assert answering.resources("Patient").search(language="cs").first() == ADA


def test_many_fhir_resources_are_read_in_one_request():
    fake = FakeFhir([ADA, ADA | {"id": "p2"}])

    found = context(fhir={"ehr": fake}).fhir["ehr"].read_many("Patient", ["p1", "p2"])

    assert set(found) == {"p1", "p2"}
    assert len(fake.requests) == 1


def test_what_a_job_writes_is_in_the_fake_afterwards():
    fake = FakeFhir([ADA])
    ehr = context(fhir={"ehr": fake}).fhir["ehr"]

    claim = ehr.create({"resourceType": "Basic", "code": {"text": "note"}, "subject": {"reference": "Patient/p1"}})
    again = ehr.create({k: v for k, v in ADA.items() if k != "id"}, if_none_exist={"identifier": "77"})
    ehr.update(ADA | {"active": False})

    assert fake.resources("Basic") == [claim]
    assert again["id"] == "p1"
    assert [patient["active"] for patient in fake.resources("Patient")] == [False]
    ehr.delete("Patient", "p1")
    assert fake.resources("Patient") == []


def test_a_transaction_is_done_as_a_whole_or_not_at_all():
    fake = FakeFhir()
    ehr = context(fhir={"ehr": fake}).fhir["ehr"]
    add = {"request": {"method": "PUT", "url": "Patient/p1"}, "resource": ADA}

    with pytest.raises(Refused):
        ehr.transaction([add, {"request": {"method": "GET", "url": "Patient/nobody"}}])
    assert fake.resources("Patient") == []
    assert [outcome.status for outcome in ehr.transaction([add])] == [201]


def test_a_version_conflict_is_refused():
    ehr = context(fhir={"ehr": FakeFhir([ADA])}).fhir["ehr"]

    with pytest.raises(Refused, match="version conflict"):
        ehr.update(ADA, if_match="9")


def test_a_test_that_fails_within_a_job_fails():
    @job()
    def asks(row, ctx):
        pytest.fail("this call was not to be made")

    with pytest.raises(pytest.fail.Exception, match="not to be made"):
        run_job(asks, [{"id": "1"}])


def test_a_job_with_a_source_is_run_over_its_rows_without_any_given():
    def numbers(ctx):
        ctx.state["asked"] = ctx.state.get("asked", 0) + 1
        yield {"n": 1.5, "tags": ("a",)}
        yield {"n": 2}

    @job(schedule="0 2 * * *", source=numbers)
    def nightly(row, ctx):
        return {"n": row["n"], "line": row.line, "trigger": ctx.delivery.trigger, "tags": row.get("tags")}

    run = run_job(nightly, state={"asked": 6})
    assert run.results == [
        {"n": Decimal("1.5"), "line": 1, "trigger": "schedule", "tags": ["a"]},
        {"n": 2, "line": 2, "trigger": "schedule", "tags": None},
    ]
    assert run.state == {"asked": 7}


def test_a_job_that_takes_only_messages_sees_values_as_a_message_has_them():
    @job(queue="q", columns=["n"])
    def whole(row, ctx):
        if row["n"] is None:
            raise Reject("no number")
        return {"n": row["n"] + 1, "tags": row["tags"], "line": row.line, "trigger": ctx.delivery.trigger}

    run = run_job(whole, [{"n": 1, "tags": ["a", {"b": Decimal("1.10")}]}, {"n": None, "tags": None}])
    assert run.results == [{"n": 2, "tags": ["a", {"b": Decimal("1.10")}], "line": 1, "trigger": "queue"}]
    assert [(wrong.line, wrong.detail) for wrong in run.rejected] == [(2, "no number")]
    assert run_job(whole, []).outcomes == []
    assert run_job(whole, "n,tags\n7,\n").rejected[0].error == "TypeError"  # a table's values are text there, too


def test_a_source_that_cannot_work_fails_as_in_the_worker():
    @job(schedule="0 2 * * *", source=lambda ctx: [1])
    def nightly(row, ctx):
        """Never called."""

    with pytest.raises(DeliveryError, match="let it yield mappings"):
        run_job(nightly)


def test_a_fake_fhir_server_exports_what_it_has_and_what_changed_since():
    ehr = FakeFhir([{"resourceType": "Patient", "id": str(number)} for number in range(3)])
    mine = context(fhir={"ehr": ehr}).fhir["ehr"]
    everything = mine.export()
    assert [found["id"] for found in everything] == ["0", "1", "2"]
    assert list(everything.deleted()) == []
    mine.update({"resourceType": "Patient", "id": "1", "active": True})
    mine.delete("Patient", "2")
    mine.update({"resourceType": "Group", "id": "g", "type": "person", "actual": True})
    changed = mine.export("Patient", since=everything.time)
    assert [(found["id"], found["active"]) for found in changed] == [("1", True)]
    assert list(changed.deleted()) == ["Patient/2"]
    named = mine.export(mine.resources("Patient").search(_id={"0", "1"}), of="Patient")
    assert [found["id"] for found in named] == ["0", "1"]


def test_an_export_in_a_test_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ehr = context(fhir={"ehr": FakeFhir([{"resourceType": "Patient", "id": "1"}])}).fhir["ehr"]
    assert list(ehr.export("Patient"))
    assert list(tmp_path.rglob("*.ndjson"))
    del ehr
    gc.collect()
    assert list(tmp_path.iterdir()) == []
