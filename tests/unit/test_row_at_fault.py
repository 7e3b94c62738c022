"""A row that a backend breaks over, and an outage, look alike at first: how they are told apart."""

import json
import threading

import pytest
from deliveries import delivery
from fake_backend import answer, opened, opened_fhir, query

from worker.context import MOST_FAULTS, DeliveryContext
from worker.declare import job
from worker.errors import DeliveryError, LeftAlone, Refused, ServerFault, Unavailable
from worker.execution import Execution
from worker.records import Row

BAD = Row({"id": "bad"}, index=1, line=17)
GOOD = Row({"id": "good"}, index=0, line=2)


@job(files="*.csv")
def ask(row, ctx):
    """Asks for each row."""
    return ctx.rest["billing"].get(f"/plans/{row['id']}")


class Setting:
    """One attempt at a delivery, some earlier ones of which have ended in a server's fault."""

    def __init__(self, faults, **retries):
        self.is_down = False
        self.fault = answer(status=500)
        self.billing = opened(self.answer, retries=0, **retries)
        made = delivery(job="ask", faults=faults)
        backends = {"billing": self.billing.backend}
        self.execution = Execution(ask, DeliveryContext(made, backends, lambda _: {}, threading.Event))

    def answer(self, request):
        return self.fault if self.is_down or request.url.endswith("bad") else answer({})


def test_a_row_that_a_backend_broke_over_in_ten_attempts_is_rejected_if_it_still_answers_others():
    setting = Setting(MOST_FAULTS - 1)
    setting.execution.row(GOOD)
    outcome = setting.execution.row(BAD)
    assert (outcome.error, outcome.line) == ("ServerFault", 17)
    assert outcome.detail == "billing: answered 500, and that in 10 attempts, while it answers other calls"
    assert setting.billing.transport.urls == ["/plans/good", "/plans/bad", "/plans/good"]


def test_a_row_whose_answer_is_always_broken_json_is_named_and_rejected_in_the_end():
    setting = Setting(MOST_FAULTS - 2)
    setting.fault = answer(b'{"name": "\\ud800"}', Content_Type="application/json")
    setting.execution.row(GOOD)
    with pytest.raises(ServerFault) as caught:
        setting.execution.row(BAD)
    assert caught.value.detail == "billing: answered broken JSON (line 17)"
    setting.execution._context.delivery.faults += 1
    assert setting.execution.row(BAD).error == "ServerFault"


def test_a_row_waits_for_a_backend_that_answers_everybody_with_broken_json():
    setting = Setting(MOST_FAULTS + 100)
    setting.execution.row(GOOD)
    setting.is_down, setting.fault = True, answer(b"<html>", Content_Type="application/json")
    with pytest.raises(ServerFault):
        setting.execution.row(BAD)


def test_a_row_waits_for_a_backend_that_answers_nobody_any_more():
    setting = Setting(MOST_FAULTS + 100)
    setting.execution.row(GOOD)
    setting.is_down = True
    with pytest.raises(ServerFault):
        setting.execution.row(BAD)


def test_a_row_waits_where_nothing_was_answered_yet():
    with pytest.raises(ServerFault):
        Setting(MOST_FAULTS + 100).execution.row(BAD)


def test_a_row_waits_before_its_tenth_attempt_and_its_line_is_told():
    setting = Setting(MOST_FAULTS - 2)
    setting.execution.row(GOOD)
    with pytest.raises(ServerFault) as caught:
        setting.execution.row(BAD)
    assert caught.value.detail == "billing: answered 500 (line 17)"
    assert setting.billing.transport.urls == ["/plans/good", "/plans/bad"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_gateway_or_a_busy_backend_is_never_the_rows_fault(status):
    setting = Setting(MOST_FAULTS + 100)
    setting.execution.row(GOOD)
    setting.answer = None
    setting.billing.transport._script = lambda _: answer(status=status)
    with pytest.raises(Unavailable) as caught:
        setting.execution.row(BAD)
    assert not isinstance(caught.value, ServerFault)


def test_an_open_circuit_does_not_keep_a_row_waiting_that_is_at_fault():
    setting = Setting(MOST_FAULTS - 2)
    setting.execution.row(GOOD)
    setting.is_down = True
    for number in range(9):
        with pytest.raises(ServerFault):
            setting.execution.row(Row({"id": f"other-{number}"}, index=2, line=3))
        setting.billing.time.now += 1
    setting.is_down = False
    with pytest.raises(ServerFault):
        setting.execution.row(BAD)
    with pytest.raises(LeftAlone):
        setting.execution.row(GOOD)
    setting.execution._context.delivery.faults += 1
    setting.billing.time.now += 60
    assert setting.execution.row(BAD).error == "ServerFault"
    assert not setting.execution.row(GOOD).error


def test_a_fhir_server_that_breaks_over_several_reads_at_once_is_asked_for_each():
    def respond(request):
        ids = [value for name, value in query(request) if name == "_id"] or [request.url.rpartition("/")[2]]
        if "bad" in ids[0]:
            return answer(status=500)
        return answer({"resourceType": "Practitioner", "id": ids[0]})

    ehr = opened_fhir(respond, retries=0).at()
    with pytest.raises(ServerFault):
        ehr.read_many("Practitioner", ["good", "bad"])
    assert ehr.read("Practitioner", "good")["id"] == "good"
    with pytest.raises(Refused):
        ehr.resources("Practitioner").search(_id="good").get()


@job(files="*.csv")
def look_up(row, ctx):
    """Looks for two at once."""
    return ctx.fhir["ehr"].read_many("Practitioner", [row["id"], f"of-{row['id']}-1"])[row["id"]]


def broken_over_bad(request):
    """A server that does not search, and breaks over one resource, alone or in a batch."""
    if request.method == "POST":
        urls = [entry["request"]["url"] for entry in json.loads(request.body)["entry"]]
        return answer({"resourceType": "Bundle", "type": "batch-response", "entry": list(map(entry_for, urls))})
    is_bad = request.url.endswith("bad")
    return answer(status=500) if is_bad else answer(status=404)


def entry_for(url):
    type_, id_ = url.split("/")
    if id_ == "bad":
        return {"response": {"status": "500 Internal Server Error"}}
    return {"response": {"status": "200"}, "resource": {"resourceType": type_, "id": id_}}


def test_one_entry_of_a_batch_that_a_server_breaks_over_is_the_fault_of_its_row_and_of_no_other():
    for faults, rejected in ((MOST_FAULTS - 2, False), (MOST_FAULTS - 1, True)):
        ehr = opened_fhir(broken_over_bad, retries=0)
        made = delivery(job="look_up", faults=faults)
        execution = Execution(look_up, DeliveryContext(made, {"ehr": ehr.backend}, lambda _: {}, threading.Event))
        assert not execution.row(GOOD).error
        if rejected:
            outcome = execution.row(BAD)
            assert (outcome.error, outcome.line) == ("ServerFault", 17)
        else:
            with pytest.raises(ServerFault) as caught:
                execution.row(BAD)
            assert caught.value.line == 17
        assert [request.method for request in ehr.transport.requests].count("POST") == 2 + rejected


@pytest.mark.parametrize(("faults", "kind"), [(MOST_FAULTS - 2, ServerFault), (MOST_FAULTS - 1, DeliveryError)])
def test_a_source_that_a_backend_broke_over_in_ten_attempts_fails_its_tick_if_others_are_answered(faults, kind):
    setting = Setting(faults)
    setting.execution.row(GOOD)
    asking = job(schedule="0 2 * * *", source=lambda ctx: ctx.rest["billing"].get("/plans/bad"))(lambda row, ctx: {})
    setting.execution._job = asking
    with pytest.raises(kind, match="answered 500"):
        list(setting.execution.source())


@pytest.mark.parametrize("status", [200, 400, 404, 413])
@pytest.mark.parametrize(
    "ask_for",
    [
        lambda ehr: ehr.resources("Patient").search(name="Novak"),
        lambda ehr: [ehr.read("Patient", "1")],
        lambda ehr: ehr.export("Patient"),
    ],
    ids=["search", "read", "export"],
)
def test_what_a_backend_says_in_its_own_words_to_a_source_is_not_kept_in_the_ledger_nor_logged(
    tmp_path, status, ask_for
):
    issue = {"severity": "error", "code": "processing", "diagnostics": "Novak is odd"}
    said = answer({"resourceType": "OperationOutcome", "issue": [issue]}, status=status)
    made = delivery(job="look_up", folder=tmp_path / "3f9a1c2b")
    context = DeliveryContext(made, {"ehr": opened_fhir(lambda _: said).backend}, lambda _: {}, threading.Event)
    asking = job(schedule="0 2 * * *", source=lambda ctx: ask_for(ctx.fhir["ehr"]))(lambda row, ctx: {})
    with pytest.raises(DeliveryError, match=f"was refused: ehr: .*answered {status} processing") as failed:
        list(Execution(asking, context).source())
    assert "Novak" not in str(failed.value)
