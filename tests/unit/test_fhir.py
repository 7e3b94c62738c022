import json
from decimal import Decimal

import pytest
from fake_backend import BASE, answer, opened_fhir
from fhir.resources.encounter import Encounter as EncounterOfR5
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.encounter import Encounter
from fhir.resources.R4B.practitioner import Practitioner

from worker.backends.transport import ClosedMeanwhile
from worker.errors import DeliveryError, Interrupted, Refused, Reject, ServerFault, Unauthorized, Unavailable

PRACTITIONER = {"resourceType": "Practitioner", "id": "1", "name": [{"text": "Dr. Novak"}]}
OBSERVATION = (
    b'{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"x"},"effectiveDateTime":"1970-03",'
    b'"valueQuantity":{"value":1.10},"component":[{"code":{"text":"y"},"valueQuantity":{"value":0.000000010}}]}'
)


def outcome(severity, code, **issue):
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, **issue}]}


def statement(release):
    return answer({"resourceType": "CapabilityStatement", "fhirVersion": release})


def sent(ehr, number=0):
    return json.loads(ehr.transport.requests[number].body)


def test_a_read_returns_the_servers_json_with_its_numbers_exact():
    ehr = opened_fhir([answer(OBSERVATION, Content_Type="application/fhir+json"), answer(OBSERVATION)])
    found = ehr.at().read("Observation", "o1")
    assert str(found["valueQuantity"]["value"]) == "1.10"
    assert found["effectiveDateTime"] == "1970-03"
    ehr.at().update(found)
    body = ehr.transport.requests[1].body
    assert b'"value":1.10' in body
    assert json.loads(body, parse_float=Decimal)["component"] == found["component"]


def test_nulls_and_primitive_extensions_survive_a_read_change_write():
    name = {"given": [None, "b"], "_given": [{"id": "x"}, None]}
    ehr = opened_fhir([answer({**PRACTITIONER, "name": [name], "_birthDate": {"id": "y"}}), answer({})])
    found = ehr.at().read("Practitioner", "1")
    ehr.at().update({**found, "active": True})
    assert sent(ehr, 1)["name"] == [name]
    assert sent(ehr, 1)["_birthDate"] == {"id": "y"}


def test_a_read_by_model_returns_a_validated_model():
    ehr = opened_fhir([answer(PRACTITIONER)])
    found = ehr.at().read(Practitioner, "1")
    assert isinstance(found, Practitioner)
    assert found.name[0].text == "Dr. Novak"


def test_a_read_by_model_refuses_an_invalid_resource_without_its_values():
    ehr = opened_fhir([answer({**PRACTITIONER, "birthDate": "secret"}), statement("4.0.1")])
    with pytest.raises(Refused, match="birthDate") as caught:
        ehr.at().read(Practitioner, "1")
    assert "secret" not in str(caught.value)


def test_a_model_of_another_release_that_does_not_fit_is_told_with_the_right_import():
    encounter = {"resourceType": "Encounter", "id": "1", "status": "finished", "class": {"code": "AMB"}}
    ehr = opened_fhir([answer(encounter), statement("4.0.1")])
    with pytest.raises(DeliveryError, match=r"Encounter is not of FHIR R4: import it from fhir\.resources\.R4B"):
        ehr.at().read(EncounterOfR5, "1")
    assert opened_fhir([answer(encounter)]).at().read(Encounter, "1").class_fhir.code == "AMB"


def test_what_is_not_valid_because_the_server_speaks_another_version_is_no_rows_fault():
    ehr = opened_fhir([answer({**PRACTITIONER, "birthDate": "?"}), statement("5.0.0"), answer(status=400)])
    with pytest.raises(DeliveryError, match=r'ehr: speaks FHIR 5.0.0, not R4: set "version"'):
        ehr.at().read(Practitioner, "1")
    with pytest.raises(DeliveryError, match=r"speaks FHIR 5.0.0"):
        ehr.at().create(PRACTITIONER)
    assert ehr.calls == 3


@pytest.mark.parametrize("said", [answer(status=403), answer(status=500), answer("<html>", Content_Type="text/html")])
def test_a_server_that_keeps_its_statement_to_itself_is_asked_for_it_once(said):
    ehr = opened_fhir([answer(status=422), said, answer(status=422)], retries=0)
    for _ in range(2):
        with pytest.raises(Refused, match="answered 422"):
            ehr.at().create(PRACTITIONER)
    assert ehr.calls == 3


@pytest.mark.parametrize(
    "read",
    [
        lambda ehr: ehr.read("Patient", "1"),
        lambda ehr: ehr.read_many("Patient", ["1"]),
        lambda ehr: ehr.read_many("Patient", ["1"], missing_ok=True),
    ],
)
def test_a_read_that_is_cut_short_is_no_resource(read):
    opened = opened_fhir(lambda _: answer(status=503))
    opened.stop.set()
    with pytest.raises(Interrupted):
        read(opened.at())


@pytest.mark.parametrize("id_", ["", " ", "a/b", "a b", "../x", "..", "x" * 65, "1?_x=1", None])
def test_what_is_not_an_id_is_rejected_unquoted_and_not_called(id_):
    ehr = opened_fhir([])
    with pytest.raises(Reject, match="Practitioner id is"):
        ehr.at().read("Practitioner", id_)
    assert ehr.calls == 0


@pytest.mark.parametrize("type_", ["practitioner", "Practitioner/1", "", dict])
def test_what_is_not_a_resource_type_is_a_programming_error(type_):
    with pytest.raises((ValueError, TypeError), match="not a FHIR resource type"):
        opened_fhir([]).at().read(type_, "1")


@pytest.mark.parametrize("said", [{**PRACTITIONER, "id": "2"}, {**PRACTITIONER, "resourceType": "Patient"}, [], ""])
def test_a_read_answered_with_something_else_is_refused(said):
    with pytest.raises(Refused, match="something else"):
        opened_fhir([answer(said)]).at().read("Practitioner", "1")


def test_a_missing_resource_is_refused_with_the_servers_reason():
    ehr = opened_fhir([answer(outcome("error", "not-found", diagnostics="HAPI-2001: not known"), 404)])
    with pytest.raises(Refused) as caught:
        ehr.at().read("Practitioner", "1")
    assert str(caught.value) == "ehr: answered 404 HAPI-2001: not known"


def test_an_error_outcome_with_status_200_is_refused():
    ehr = opened_fhir([answer(outcome("error", "processing", details={"text": "no"}))])
    with pytest.raises(Refused, match="no"):
        ehr.at().read("Practitioner", "1")


@pytest.mark.parametrize("code", ["transient", "lock-error", "no-store", "timeout", "incomplete", "throttled"])
@pytest.mark.parametrize("status", [200, 409])
def test_a_transient_outcome_is_an_outage(code, status):
    ehr = opened_fhir(lambda _: answer(outcome("error", code), status), retries=1)
    with pytest.raises(Unavailable):
        ehr.at().read("Practitioner", "1")
    assert ehr.calls == 2


def test_a_create_is_validated_before_anything_is_sent():
    ehr = opened_fhir([statement("4.0.1")])
    with pytest.raises(Reject, match=r"not valid R4: .*birthDate: ") as caught:
        ehr.at().create({**PRACTITIONER, "birthDate": "secret"})
    assert "secret" not in str(caught.value)
    with pytest.raises(Reject, match="'Practicioner' is not a resource type of FHIR R4"):
        ehr.at().create({"resourceType": "Practicioner"})
    assert ehr.transport.urls == ["/metadata"]


def test_what_is_valid_in_the_servers_version_only_is_no_rows_fault():
    with pytest.raises(DeliveryError, match=r"speaks FHIR 5.0.0, not R4"):
        opened_fhir([statement("5.0.0")]).at().create({"resourceType": "Transport"})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (answer(status=201, Location=f"{BASE}/Practitioner/7/_history/2"), {"id": "7", "meta": {"versionId": "2"}}),
        (answer(status=201, Location="Practitioner/7", ETag='W/"3"'), {"id": "7", "meta": {"versionId": "3"}}),
        (answer(outcome("information", "informational"), 201, Location="Practitioner/7"), {"id": "7"}),
        (answer(status=201, Location="elsewhere?x=1"), {}),
        (answer(status=201), {}),
    ],
)
def test_a_server_that_does_not_show_what_it_created_tells_at_least_which_one(said, expected):
    assert opened_fhir([said]).at().create({"resourceType": "Practitioner"}) == {
        "resourceType": "Practitioner",
        **expected,
    }


def test_a_server_that_does_not_show_what_it_changed_tells_at_least_the_version():
    ehr = opened_fhir([answer(status=200, ETag='W/"5"'), answer(status=204)])
    changed = {"resourceType": "Practitioner", "id": "1"}
    assert ehr.at().update(PRACTITIONER) == {**changed, "meta": {"versionId": "5"}}
    assert ehr.at().patch("Practitioner", "1", []) == changed


def test_a_create_is_conditional_where_the_job_says_so_and_carries_a_key():
    ehr = opened_fhir([answer(PRACTITIONER, 201)])
    created = ehr.at(line=5).create(Practitioner(active=True), if_none_exist={"identifier": ("http://sys", "a b")})
    request = ehr.transport.requests[0]
    assert created == PRACTITIONER
    assert sent(ehr) == {"resourceType": "Practitioner", "active": True}
    assert request.headers["If-None-Exist"] == "identifier=http%3A%2F%2Fsys%7Ca+b"
    assert request.headers["Idempotency-Key"] == "d" * 32 + "-5"
    assert request.headers["Content-Type"] == "application/fhir+json"


def test_several_matches_of_a_conditional_create_and_a_version_conflict_are_told_apart():
    ehr = opened_fhir([answer(status=412), answer(status=412), answer(status=409)])
    with pytest.raises(Refused, match="several resources match if_none_exist"):
        ehr.at().create(PRACTITIONER, if_none_exist={"identifier": "x"})
    for _ in range(2):
        with pytest.raises(Refused, match="version conflict"):
            ehr.at().update(PRACTITIONER, if_match="3")
    assert ehr.transport.requests[1].headers["If-Match"] == 'W/"3"'


def test_an_update_of_a_version_that_created_a_resource_instead_is_told():
    with pytest.raises(Refused, match="version conflict: nothing was there to be replaced"):
        opened_fhir([answer(PRACTITIONER, 201)]).at().update(PRACTITIONER, if_match="3")
    assert opened_fhir([answer(PRACTITIONER, 201)]).at().update(PRACTITIONER) == PRACTITIONER


IDENTIFIED = {**PRACTITIONER, "identifier": [{"system": "http://sys", "value": "a|b"}, {"value": "without a system"}]}


def test_a_create_whose_answer_did_not_come_looks_for_its_identifiers_the_second_time():
    ehr = opened_fhir([answer(status=504), answer(status=504), answer(IDENTIFIED)])
    assert ehr.at().create(IDENTIFIED) == IDENTIFIED
    headers = [request.headers for request in ehr.transport.requests]
    condition = "identifier=http%3A%2F%2Fsys%7Ca%5C%7Cb"
    assert [each.get("If-None-Exist") for each in headers] == [None, condition, condition]
    assert len({each["Idempotency-Key"] for each in headers}) == 1


def test_a_create_on_a_connection_that_was_closed_meanwhile_looks_for_its_identifiers_the_second_time():
    ehr = opened_fhir([ClosedMeanwhile(), answer(IDENTIFIED)])
    assert ehr.at().create(IDENTIFIED) == IDENTIFIED
    conditions = [request.headers.get("If-None-Exist") for request in ehr.transport.requests]
    assert conditions == [None, "identifier=http%3A%2F%2Fsys%7Ca%5C%7Cb"]
    assert ehr.calls == 2


@pytest.mark.parametrize(
    "identifier", [[{"value": "x"}], [], [{"system": "http://sys"}], [{"system": "http://sys", "value": " "}]]
)
def test_a_create_without_a_whole_identifier_is_sent_again_as_it_was(identifier):
    ehr = opened_fhir([answer(status=504), answer(PRACTITIONER, 201)])
    ehr.at().create({**PRACTITIONER, "identifier": identifier} if identifier else PRACTITIONER)
    assert "If-None-Exist" not in ehr.transport.requests[1].headers


def test_the_creates_of_a_transaction_that_is_sent_again_are_conditional():
    entries = [creation("Practitioner", 1), creation("Practitioner", 2, ifNoneExist="identifier=own")]
    entries[0]["resource"] = entries[1]["resource"] = IDENTIFIED
    entries.append({"request": {"method": "DELETE", "url": "Patient/1"}})
    ehr = opened_fhir([answer(status=504), bundle(entry("201"), entry("200"), entry("204"))])
    ehr.at().transaction(entries)
    first, second = ([e["request"].get("ifNoneExist") for e in sent(ehr, n)["entry"]] for n in (0, 1))
    assert first == [None, "identifier=own", None]
    assert second == ["identifier=http%3A%2F%2Fsys%7Ca%5C%7Cb", "identifier=own", None]


@pytest.mark.parametrize("found_by", [{}, {"identifier": []}, {"identifier": ("http://sys", "")}])
def test_a_create_on_a_condition_that_is_blank_is_rejected_and_not_sent(found_by):
    with pytest.raises(Reject, match=r"is empty|has no values"):
        opened_fhir([]).at().create(IDENTIFIED, if_none_exist=found_by)


@pytest.mark.parametrize(
    "blank", ["identifier=", "identifier=http://sys|", "identifier=http%3A%2F%2Fsys%7C%20&active=true"]
)
def test_an_entry_on_a_condition_that_is_blank_is_rejected_and_not_sent(blank):
    with pytest.raises(Reject, match="entry 2 of the Bundle has an ifNoneExist without a value"):
        opened_fhir([]).at().transaction([creation("Patient", 1), creation("Patient", 2, ifNoneExist=blank)])


def test_a_bar_that_belongs_to_a_value_is_no_blank():
    ehr = opened_fhir([bundle(entry("201"))])
    ehr.at().transaction([creation("Patient", 1, ifNoneExist=r"identifier=http://sys|a\|")])
    assert sent(ehr)["entry"][0]["request"]["ifNoneExist"] == r"identifier=http://sys|a\|"


def test_a_version_that_is_blank_is_no_condition():
    with pytest.raises(Reject, match="if_match is blank"):
        opened_fhir([]).at().update(PRACTITIONER, if_match="")


def test_a_text_is_not_taken_for_the_ids_that_its_letters_are():
    with pytest.raises(TypeError, match="several ids"):
        opened_fhir([]).at().read_many("Practitioner", "17")


def test_an_update_needs_an_id():
    with pytest.raises(Reject, match="id is blank"):
        opened_fhir([]).at().update({"resourceType": "Practitioner"})


def test_a_patch_is_json_patch():
    ehr = opened_fhir([answer(PRACTITIONER)])
    ehr.at().patch("Practitioner", "1", [{"op": "replace", "path": "/active", "value": False}])
    assert ehr.transport.requests[0].headers["Content-Type"] == "application/json-patch+json"
    assert sent(ehr)[0]["path"] == "/active"


@pytest.mark.parametrize(
    "given", [{"op": "remove", "path": "/active"}, ["op"], "op", None, {"resourceType": "Parameters"}]
)
def test_what_is_no_list_of_operations_is_not_sent_as_a_patch(given):
    with pytest.raises(Reject, match="takes a list of JSON Patch operations"):
        opened_fhir([]).at().patch("Practitioner", "1", given)


def test_an_id_that_came_as_a_number_is_taken_as_it_reads():
    ehr = opened_fhir(lambda _: answer(PRACTITIONER))
    assert ehr.at().read("Practitioner", 1)["id"] == "1"
    assert list(ehr.at().read_many("Practitioner", [1, "1"])) == ["1"]
    ehr.at().patch("Practitioner", 1, [])
    assert ehr.transport.requests[1].url.endswith("/Practitioner/1")
    assert ehr.calls == 2
    for no_number in (True, 1.0):
        with pytest.raises(Reject, match="not a FHIR id"):
            ehr.at().read("Practitioner", no_number)


@pytest.mark.parametrize(("version", "sent"), [("3", 'W/"3"'), ('W/"3"', 'W/"3"'), ('"3"', '"3"')])
def test_a_version_is_sent_as_an_entity_tag_also_where_it_is_one_already(version, sent):
    ehr = opened_fhir([answer(PRACTITIONER)])
    ehr.at().update(PRACTITIONER, if_match=version)
    assert ehr.transport.requests[0].headers["If-Match"] == sent


@pytest.mark.parametrize("status", [200, 204, 404, 410])
def test_deleting_what_is_not_there_is_no_error(status):
    ehr = opened_fhir([answer(status=status)])
    assert ehr.at().delete("Practitioner", "1") is None


def test_a_write_makes_the_next_read_ask_again():
    ehr = opened_fhir(lambda _: answer(PRACTITIONER))
    job = ehr.at()
    job.read("Practitioner", "1")
    job.read("Practitioner", "1")
    assert ehr.calls == 1
    job.update(PRACTITIONER)
    job.read("Practitioner", "1")
    assert ehr.calls == 3


def entry(status, **response):
    return {"response": {"status": status, **response}}


def creation(url, number, **request):
    return {
        "fullUrl": f"urn:uuid:{number}",
        "resource": {"resourceType": url},
        "request": {"method": "POST", "url": url, **request},
    }


def bundle(*entries):
    return answer({"resourceType": "Bundle", "type": "batch-response", "entry": list(entries)})


def test_a_batch_has_an_outcome_for_each_entry():
    refused = outcome("error", "processing", diagnostics="not known")
    ehr = opened_fhir(
        [bundle(entry("201 Created", location="Practitioner/1"), entry("404 Not Found", outcome=refused))]
    )
    first, second = ehr.at().batch([creation("Practitioner", 1), creation("Patient", 2)])
    assert (first.status, first.location, first.error) == (201, "Practitioner/1", None)
    assert isinstance(second.error, Refused)
    assert second.error.status == 404
    assert "not known" in str(second.error)
    assert sent(ehr)["type"] == "batch"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("503 Service Unavailable", Unavailable),
        ("429", Unavailable),
        ("500 Internal Server Error", ServerFault),
        ("403 Forbidden", Unauthorized),
    ],
)
def test_an_entry_that_met_an_outage_or_a_fault_or_is_not_for_us_is_not_taken_for_a_refusal(status, kind):
    (done,) = opened_fhir([bundle(entry(status))]).at().batch([creation("Patient", 1)])
    assert type(done.error) is kind


def test_a_condition_of_a_transaction_that_does_not_hold_is_told():
    ehr = opened_fhir([answer(outcome("error", "conflict", diagnostics="matched 2"), 412)])
    with pytest.raises(Refused, match="the condition of an entry does not hold: answered 412 matched 2"):
        ehr.at().transaction([creation("Patient", 1, ifNoneExist="identifier=x")])


def test_equal_conditional_creates_of_a_transaction_are_merged_and_references_follow():
    same = {"ifNoneExist": "identifier=x"}
    patient = creation("Patient", 3)
    patient["resource"]["generalPractitioner"] = [{"reference": "urn:uuid:2"}]
    ehr = opened_fhir([bundle(entry("201", location="Practitioner/1"), entry("201", location="Patient/1"))])
    entries = [creation("Practitioner", 1, **same), creation("Practitioner", 2, **same), patient]
    done = ehr.at().transaction({"resourceType": "Bundle", "entry": entries})
    assert [one.location for one in done] == ["Practitioner/1", "Practitioner/1", "Patient/1"]
    assert sent(ehr)["entry"][1]["resource"]["generalPractitioner"] == [{"reference": "urn:uuid:1"}]
    assert ehr.transport.requests[0].headers["Idempotency-Key"]


def replacement(**more):
    return {"request": {"method": "PUT", "url": "Practitioner/1"}, "resource": {**PRACTITIONER, **more}}


def test_equal_updates_of_a_transaction_are_merged_and_different_ones_rejected():
    ehr = opened_fhir([bundle(entry("200", etag="2"))])
    assert [done.etag for done in ehr.at().transaction([replacement(), replacement()])] == ["2", "2"]
    assert len(sent(ehr)["entry"]) == 1
    with pytest.raises(Reject, match="put something different in one place"):
        opened_fhir([]).at().transaction([replacement(), replacement(active=True)])


def test_creates_of_a_transaction_without_a_condition_are_all_made():
    ehr = opened_fhir([bundle(entry("201"), entry("201"))])
    assert len(ehr.at().transaction([creation("Patient", 1), creation("Patient", 1)])) == 2


def test_a_transaction_answered_with_too_few_entries_is_refused():
    with pytest.raises(Refused, match="answered 2 entries with 1"):
        opened_fhir([bundle(entry("201"))]).at().transaction([creation("Patient", 1), creation("Patient", 2)])


def test_a_bundle_and_its_entries_may_be_models_and_references_in_them_follow():
    same = {"ifNoneExist": "identifier=x"}
    patient = creation("Patient", 3)
    patient["resource"]["generalPractitioner"] = [{"reference": "urn:uuid:2"}]
    entries = [creation("Practitioner", 1, **same), creation("Practitioner", 2, **same), patient]
    whole = Bundle.model_validate({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    with_models = [{**each, "resource": model.resource} for each, model in zip(entries, whole.entry, strict=True)]
    for given in (whole, whole.entry, with_models):
        ehr = opened_fhir([bundle(entry("201"), entry("201"))])
        assert len(ehr.at().transaction(given)) == 3
        assert [each["resource"]["resourceType"] for each in sent(ehr)["entry"]] == ["Practitioner", "Patient"]
        assert sent(ehr)["entry"][1]["resource"]["generalPractitioner"] == [{"reference": "urn:uuid:1"}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (PRACTITIONER, "a single Practitioner: put it into an entry"),
        ([PRACTITIONER], "entry 1 of the Bundle has no request"),
        ([creation("Patient", 1), "x"], "entry 2 of the Bundle has no request"),
    ],
)
@pytest.mark.parametrize("method", ["batch", "transaction"])
def test_what_is_no_bundle_is_rejected_and_not_sent(method, given, said):
    with pytest.raises(Reject, match=said):
        getattr(opened_fhir([]).at(), method)(given)


def test_a_bundle_without_entries_is_done_without_a_call():
    assert opened_fhir([]).at().batch([]) == opened_fhir([]).at().transaction({"resourceType": "Bundle"}) == []


@pytest.mark.parametrize("entries", [[None], ["x"], [{"response": []}], [{"response": {"status": [200]}}], {"0": 1}, 1])
def test_a_batch_answered_with_nonsense_is_the_backends_fault(entries):
    ehr = opened_fhir([answer({"resourceType": "Bundle", "type": "batch-response", "entry": entries})])
    with pytest.raises(Refused):
        for done in ehr.at().batch([creation("Patient", 1)]):
            raise done.error


def test_a_batch_entry_that_is_not_valid_is_rejected_before_anything_is_sent():
    wrong = creation("Patient", 1)
    wrong["resource"]["gender"] = 1
    with pytest.raises(Reject, match="gender"):
        opened_fhir([statement("4.0.1")]).at().batch([wrong])


def test_check_compares_the_servers_version_with_the_configured_one():
    assert opened_fhir([statement("4.0.1")]).backend.check() == "FHIR 4.0.1 at https://backend.example:443"
    with pytest.raises(Refused, match=r"speaks FHIR 4.0.1, not R5"):
        opened_fhir([statement("4.0.1")], version="R5").backend.check()


ONCE = {"request": {"method": "POST", "url": "Practitioner", "ifNoneExist": "identifier=x"}, "resource": PRACTITIONER}
RACING = {
    "create": lambda ehr: ehr.create(PRACTITIONER, if_none_exist={"identifier": "x"}),
    "transaction": lambda ehr: ehr.transaction([ONCE]),
}


@pytest.mark.parametrize("write", RACING)
def test_a_row_that_creates_what_another_is_just_creating_finds_it_a_moment_later(write):
    done = {"resourceType": "Bundle", "entry": [{"response": {"status": "200"}}]} if write == "transaction" else {}
    ehr = opened_fhir([answer(status=409), answer(status=409), answer({**PRACTITIONER, **done})])
    RACING[write](ehr.at())
    assert ehr.calls == 3
    assert len({request.body for request in ehr.transport.requests}) == 1


@pytest.mark.parametrize("write", RACING)
def test_a_conflict_that_stays_is_refused(write):
    ehr = opened_fhir(lambda _: answer(status=409))
    with pytest.raises(Refused, match="409"):
        RACING[write](ehr.at())
    assert ehr.calls == 4


def test_a_conflict_of_a_version_or_of_a_create_without_a_condition_is_refused_at_once():
    ehr = opened_fhir(lambda _: answer(status=409))
    matching = {**ONCE, "request": {**ONCE["request"], "ifMatch": "3"}}
    for write in (
        lambda: ehr.at().create(PRACTITIONER),
        lambda: ehr.at().update(PRACTITIONER, if_match="3"),
        lambda: ehr.at().transaction([matching]),
    ):
        with pytest.raises(Refused, match="409"):
            write()
    assert ehr.calls == 3
