"""A row that meets the end of the worker or of its delivery has no outcome, whatever its job makes of that."""

# ruff: noqa: E722 - jobs may catch whatever they like

import threading

import pytest
from deliveries import delivery
from fake_backend import answer, opened, opened_fhir

from worker.context import DeliveryContext
from worker.declare import job
from worker.errors import DeliveryError, Paused, Reject, Stopping
from worker.execution import Execution
from worker.records import Row

ROW = Row({"id": "1"}, index=0, line=2)
NEXT = Row({"id": "2"}, index=1, line=3)


def ask(ctx):
    return ctx.rest["billing"].get("/plans/1")


def goes_on(row, ctx):
    try:
        return ask(ctx)
    except:
        return {"plan": None}


def rejects(row, ctx):
    try:
        return ask(ctx)
    except BaseException as error:
        raise Reject("no plan") from error


def gives_up(row, ctx):
    try:
        return ask(ctx)
    except BaseException as error:
        raise DeliveryError("no plans") from error


def shares(row, ctx):
    try:
        return ctx.rest["billing"].get("/plans/1", shared=True)
    except:
        return {"plan": None}


def reads(row, ctx):
    try:
        return {"name": ctx.fhir["ehr"].read("Patient", "1")["id"]}
    except:
        return {"name": None}


def source(ctx):
    try:
        yield {"plan": ask(ctx)}
    except:
        return


class Setting:
    """A backend that is down, and a delivery that is ended while the first wait before another try goes on."""

    def __init__(self, function=goes_on, source=None, **settings):
        self.stop = threading.Event()
        backends = {}
        for open_one in (opened, opened_fhir):
            made = open_one(lambda _: answer(status=503), **settings)
            made.backend._http.limits._sleep = lambda *_: self.stop.set() or True
            backends[made.backend.name] = made.backend
        declared = job(schedule="0 2 * * *", source=source)(function) if source else job(files="*.csv")(function)
        made = delivery(job=declared.name)
        self.execution = Execution(declared, DeliveryContext(made, backends, lambda _: {}, lambda: self.stop))

    def work(self, row=ROW):
        return self.execution.work(row)


@pytest.mark.parametrize("function", [goes_on, rejects, gives_up, shares, reads])
def test_a_job_that_catches_everything_does_not_answer_for_a_call_that_was_interrupted(function):
    with pytest.raises(Stopping):
        Setting(function).work()


def test_a_source_that_catches_everything_has_not_come_to_its_end():
    with pytest.raises(Stopping):
        list(Setting(source=source).execution.source())


def test_a_row_that_has_all_its_answers_has_its_outcome_though_others_were_interrupted():
    setting = Setting(lambda row, ctx: goes_on(row, ctx) if row["id"] == "1" else {"plan": "own"})
    with pytest.raises(Stopping):
        setting.work()
    (outcome,) = setting.work(NEXT)
    assert outcome.results == b'[{"plan":"own"}]'


def test_a_job_does_not_answer_for_what_it_could_not_remember():
    def forgets(row, ctx):
        try:
            return {"since": ctx.state["since"]}
        except:
            return {"since": None}

    def away(_job):
        raise Paused("the ledger cannot be used")

    declared = job(files="*.csv")(forgets)
    context = DeliveryContext(delivery(job=declared.name), {}, away, threading.Event)
    with pytest.raises(Paused, match="ledger"):
        Execution(declared, context).work(ROW)


def test_a_job_that_catches_that_a_backend_is_down_answers_for_it():
    (outcome,) = Setting(retries=0).work()
    assert outcome.results == b'[{"plan":null}]'
