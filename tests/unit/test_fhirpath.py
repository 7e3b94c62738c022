from decimal import Decimal

import pytest
from fhir.resources.R4B.practitioner import Practitioner

from worker import exact_json
from worker.errors import Reject
from worker.fhirpath import PathError, compile_columns, parse

PATIENT = exact_json.loads(
    b"""{"resourceType": "Patient", "id": "p", "active": true, "birthDate": "1970-03",
    "_birthDate": {"extension": [{"url": "http://x/time", "valueDateTime": "1970-03-01T10:00:00Z"}]},
    "extension": [{"url": "http://x/race", "valueCodeableConcept": {"text": "r"}}],
    "name": [{"use": "official", "family": "Novak", "given": ["Jan", null, "Karel"]},
             {"use": "usual", "given": ["Honza"]}],
    "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "a@x"},
                {"system": "phone", "value": "2"}],
    "multipleBirthInteger": 2,
    "contained": [{"resourceType": "Organization", "name": "Ward"}, {"resourceType": "Patient", "id": "q"}]}"""
)
OBSERVATION = exact_json.loads(
    b"""{"resourceType": "Observation", "valueQuantity": {"value": 1.10, "unit": "mg"},
    "referenceRange": [{"text": "x"}],
    "component": [{"code": {"text": "a"}, "valueString": "s"},
                  {"code": {"text": "b"}, "valueQuantity": {"value": 2}}]}"""
)
JOINED = {"client": "007", "plan": {"name": "basic", "price": Decimal("1.50")}, "patient": PATIENT, "nothing": None}


@pytest.mark.parametrize(
    ("path", "resource", "expected"),
    [
        ("id", PATIENT, ["p"]),
        ("Patient.id", PATIENT, ["p"]),
        ("Practitioner.id", PATIENT, []),
        ("name.given", PATIENT, ["Jan", "Karel", "Honza"]),
        ("name.given.first()", PATIENT, ["Jan"]),
        ("name.given.last()", PATIENT, ["Honza"]),
        ("name[1].given[0]", PATIENT, ["Honza"]),
        ("name[7].given", PATIENT, []),
        ("name.where(use = 'official').given.join(' ')", PATIENT, ["Jan Karel"]),
        ("Patient.name.where(use='official' and family.exists()).family", PATIENT, ["Novak"]),
        ("name.where(use = 'nickname' or use = 'usual').given", PATIENT, ["Honza"]),
        ("name.where(family.empty()).use", PATIENT, ["usual"]),
        ("name.where(use != 'usual').use", PATIENT, ["official"]),
        ("name.where(given = 'Jan').use", PATIENT, []),
        ("name.where(given.where($this = 'Jan').exists()).use", PATIENT, ["official"]),
        ("telecom.where(system = 'phone').value.join(', ')", PATIENT, ["1, 2"]),
        ("telecom.exists(system = 'fax')", PATIENT, [False]),
        ("telecom.exists(system = 'fax').not()", PATIENT, [True]),
        ("telecom.count()", PATIENT, [3]),
        ("nickname.join(', ')", PATIENT, []),
        ("(nickname | name.given).first()", PATIENT, ["Jan"]),
        ("id | id | birthDate", PATIENT, ["p", "1970-03"]),
        ("active", PATIENT, [True]),
        ("multipleBirth", PATIENT, [2]),
        ("multipleBirth.ofType(integer)", PATIENT, [2]),
        ("multipleBirth.ofType(boolean)", PATIENT, []),
        ("multipleBirth = 2", PATIENT, [True]),
        ("active = 1", PATIENT, [False]),
        ("deceased = true", PATIENT, []),
        ("extension('http://x/race').value.text", PATIENT, ["r"]),
        ("Patient.extension('http://x/race').value.text", PATIENT, ["r"]),
        ("birthDate.extension('http://x/time').value", PATIENT, ["1970-03-01T10:00:00Z"]),
        ("birthDate.extension('http://x/none').value", PATIENT, []),
        ("contained.ofType(Organization).name", PATIENT, ["Ward"]),
        ("contained.where(name = 'Ward').ofType(FHIR.Organization).name", PATIENT, ["Ward"]),
        ("contained.where(resourceType = 'Patient').id", PATIENT, ["q"]),
        ("Observation.value.value", OBSERVATION, [Decimal("1.10")]),
        ("value.ofType(Quantity).unit", OBSERVATION, ["mg"]),
        ("value.ofType(string)", OBSERVATION, []),
        ("reference", OBSERVATION, []),
        ("component.where(code.text = 'a').value", OBSERVATION, ["s"]),
        ("component.value.ofType(Quantity).value", OBSERVATION, [2]),
        ("component.where(value.value = 2.0).code.text", OBSERVATION, ["b"]),
        ("client", JOINED, ["007"]),
        ("plan.price", JOINED, [Decimal("1.50")]),
        ("patient.birthDate.extension('http://x/time').exists()", JOINED, [True]),
        ("nothing.at.all", JOINED, []),
        ("`client`", JOINED, ["007"]),
        (r"'it\'s \u0041\n'", JOINED, ["it's A\n"]),
        ("name.family", Practitioner(name=[{"family": "Greene"}]), ["Greene"]),
        ("doctor.name.family", {"doctor": Practitioner(name=[{"family": "Greene"}])}, ["Greene"]),
    ],
)
def test_a_path_gives_what_fhirpath_says(path, resource, expected):
    found = parse(path)([resource])
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("subject.resolve().name", r"resolve\(\) cannot be used in a column; these can: .*where; found at position 9"),
        ("name.given.", "a name is missing at position 12"),
        ("", "a name is missing at position 1"),
        ("name.where(use = 'official'", r"'\)' is missing at position 28"),
        ("name.where()", r"where\(\) does not take 0 arguments; found at position 6"),
        ("extension()", r"extension\(\) does not take 0 arguments; found at position 1"),
        ("name[x]", "whole number; found something else at position 6"),
        ("name[0", "']' is missing at position 7"),
        ("value > 5", "'>' is not understood at position 7"),
        ("name given", "'given' is not understood at position 6"),
        ("name.where(use = 'official)", '"\'" is not understood at position 18'),
        ("value.ofType('x')", "needs the name of a type"),
        ("%resource.id", "'%' is not understood at position 1"),
        ("name.'x'", "'x' is not a name at position 6"),
    ],
)
def test_what_is_no_path_or_beyond_the_common_part_is_told_with_its_position(path, complaint):
    with pytest.raises(PathError, match=complaint):
        parse(path)


def test_a_column_has_one_value_or_none():
    columns = compile_columns({"given": "name.given", "family": "name.family", "suffix": "name.suffix"})
    assert columns["family"](PATIENT) == "Novak"
    assert columns["suffix"](PATIENT) is None
    with pytest.raises(Reject, match=r"3 values for the column 'given': choose with first\(\)") as rejected:
        columns["given"](PATIENT)
    assert "Jan" not in str(rejected.value)


@pytest.mark.parametrize("path", ["name.join(' ')", "name.where(given)"])
def test_what_cannot_be_joined_or_decided_rejects_the_row(path):
    with pytest.raises(Reject, match="column's path"):
        parse(path)([PATIENT])


def test_every_mistake_in_any_path_is_told():
    with pytest.raises(PathError, match=r"the path of 'a': .* position 3; the path of 'b': .* position 1"):
        compile_columns({"a": "x.", "fine": "x", "b": ")"})
