from dataclasses import replace
from decimal import Decimal

import pytest
from fhir.resources.R4B.patient import Patient

from worker.config import JobSettings
from worker.declare import job
from worker.errors import ConfigError
from worker.fhirpath import PathError
from worker.jobs import load
from worker.testing import FakeFhir, run_job

PATIENT = {"resourceType": "Patient", "id": "p1", "name": [{"family": "Novak", "given": ["Jan", "Karel"]}]}
TWO = "from worker.declare import job\n@job(files='*', columns={'a': 'x', 'b': 'y.z'})\ndef two(row, ctx): ...\n"


@job(columns={"client": "client", "family": "patient.name.family", "price": "plan.price"})
def joined(row, ctx):
    patient = ctx.fhir["ehr"].read("Patient", row["patient"])
    return {"client": row["client"], "patient": patient, "plan": {"price": Decimal("1.50")}, "unused": object}


@job(columns={"family": "Patient.name.family", "given": "name.given"})
def resource(row, ctx):
    return ctx.fhir["ehr"].read("Patient" if row["as"] == "dict" else Patient, "p1")


@job(columns={"n": "n"})
def several(row, ctx):
    return [{"n": number} for number in range(int(row["n"]))] or None


def run(job_, rows):
    return run_job(job_, rows, fhir={"ehr": FakeFhir([PATIENT])})


def test_columns_are_picked_out_of_what_a_job_returns():
    assert run(joined, "client,patient\n007,p1\n").results == [
        {"client": "007", "family": "Novak", "price": Decimal("1.50")}
    ]


@pytest.mark.parametrize("kind", ["dict", "model"])
def test_a_resource_is_looked_into_itself_and_several_values_reject_the_row(kind):
    found = run(resource, f"as\n{kind}\n")
    (rejected,) = found.rejected
    assert (rejected.error, rejected.line) == ("Reject", 2)
    assert rejected.detail.startswith("2 values for the column 'given'")


def test_each_of_several_results_has_its_columns_and_none_is_skipped():
    found = run(several, "n\n2\n0\n")
    assert found.results == [{"n": 0}, {"n": 1}]
    assert found.skipped == 1


def test_a_wrong_path_is_told_when_the_job_is_declared(tmp_path):
    with pytest.raises(PathError, match="the path of 'a'"):
        job(columns={"a": "x.resolve()"})
    (tmp_path / "wrong.py").write_text(TWO.replace("y.z", "y..z"))
    with pytest.raises(ConfigError) as wrong:
        load(tmp_path, {})
    assert "wrong.py: line 2: PathError: the path of 'b': '.' is not a name at position 3" in str(wrong.value)


def test_an_environment_may_choose_among_the_columns_and_their_order(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    (two,) = load(tmp_path, {"two": JobSettings(columns=["b", "a"])}).enabled
    assert two.columns == ("b", "a")
    with pytest.raises(ConfigError, match=r"\[jobs.two\]: columns: there is no path for 'c'"):
        load(tmp_path, {"two": JobSettings(columns=["b", "c"])})


def test_only_the_columns_that_are_chosen_are_made():
    chosen = replace(resource, columns=("family",))
    assert run(chosen, "as\ndict\n").results == [{"family": "Novak"}]
