import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
import requests
from fake_backend import answer, opened_fhir, query

from worker.backends.page import read_page
from worker.backends.search import parameters
from worker.errors import Refused, Reject, Unavailable


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"active": True}, ("active", "true")),
        ({"_id": "456"}, ("_id", "456")),
        ({"general_practitioner": "Practitioner/1"}, ("general-practitioner", "Practitioner/1")),
        ({"name__contains": "ova"}, ("name:contains", "ova")),
        ({"code__not_in": "x"}, ("code:not-in", "x")),
        ({"_lastUpdated__ge": date(2026, 1, 2)}, ("_lastUpdated", "ge2026-01-02")),
        ({"date__lt": datetime(2026, 1, 2, 3, tzinfo=UTC)}, ("date", "lt2026-01-02T03:00:00+00:00")),
        (
            {"general_practitioner__Organization__name": "y"},
            ("general-practitioner:Organization.name", "y"),
        ),
        ({"subject__Patient": "23"}, ("subject:Patient", "23")),
        ({"patient__birthdate__ge": "1970"}, ("patient.birthdate", "ge1970")),
        ({"_has__Observation__patient__code": "1234-5"}, ("_has:Observation:patient:code", "1234-5")),
        ({"identifier": ("http://sys", "1|2")}, ("identifier", r"http://sys|1\|2")),
        ({"identifier": ("", "1")}, ("identifier", "|1")),
        ({"identifier": "http://sys|123"}, ("identifier", "http://sys|123")),
        ({"identifier": "urn:oid:1.2|123"}, ("identifier", "urn:oid:1.2|123")),
        ({"name": r"a\b,c$d|e"}, ("name", r"a\\b\,c\$d\|e")),
        ({"status": {"final", "amended"}}, ("status", "amended,final")),
        ({"_id": {"a", "b,c"}}, ("_id", r"a,b\,c")),
        ({"_sort": "-date,name"}, ("_sort", "-date,name")),
        ({"value_quantity__gt": 1.5}, ("value-quantity", "gt1.5")),
    ],
)
def test_a_keyword_argument_becomes_a_search_parameter(criteria, expected):
    assert parameters(criteria) == [expected]


def test_a_list_repeats_the_parameter():
    assert parameters({"date": ["ge2020", "lt2021"]}) == [("date", "ge2020"), ("date", "lt2021")]


BLANK_TOKENS = [("http://sys", ""), ("http://sys", None), ("http://sys", " "), ("", ""), ("http://sys", "MR", ""), ()]


@pytest.mark.parametrize("value", ["", "  ", set(), [], [""], *BLANK_TOKENS, {BLANK_TOKENS[0]}, "http://sys|"])
def test_an_empty_value_is_rejected_since_a_server_would_answer_with_everything(value):
    with pytest.raises(Reject, match="'identifier'"):
        parameters({"identifier": value})


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"_tag": "http://sys|"}, ("_tag", "http://sys|")),
        ({"value_quantity": (Decimal("5.40"), None, "mg")}, ("value-quantity", "5.40||mg")),
        ({"identifier__of_type": ("http://sys", "MR", "7")}, ("identifier:of-type", "http://sys|MR|7")),
    ],
)
def test_a_part_of_a_token_may_be_blank_where_that_means_something(criteria, expected):
    assert parameters(criteria) == [expected]


def test_a_time_without_a_zone_is_an_error():
    with pytest.raises(ValueError, match="time zone"):
        parameters({"date": datetime(2026, 1, 2)})


def bundle(*entries, next_=None, self_="?active=true", **more):
    links = [{"relation": "self", "url": f"https://backend.example/api/Patient{self_}"}]
    if next_:
        links.append({"relation": "next", "url": next_})
    return answer({"resourceType": "Bundle", "type": "searchset", "link": links, "entry": list(entries), **more})


def match(id_, mode="match"):
    return {"resource": {"resourceType": "Patient", "id": id_}, "search": {"mode": mode}}


def active(ehr):
    return ehr.at().resources("Patient").search(active=True)


def test_a_search_asks_for_strict_handling_and_no_cached_answer():
    ehr = opened_fhir([bundle()])
    assert active(ehr).first() is None
    request = ehr.transport.requests[0]
    assert request.headers["Prefer"] == "handling=strict"
    assert request.headers["Cache-Control"] == "no-cache"
    assert query(request) == [("active", "true"), ("_count", "1")]


def test_pages_are_fetched_as_they_are_read_along_relative_links_too():
    ehr = opened_fhir([bundle(match("1"), next_="Patient?page=2"), bundle(next_="?page=3"), bundle(match("2"))])
    found = active(ehr).iterate()
    assert next(found)["id"] == "1"
    assert ehr.calls == 1
    assert [patient["id"] for patient in found] == ["2"]
    assert ehr.transport.urls[1:] == ["/Patient?page=2", "/Patient?page=3"]


@pytest.mark.parametrize(
    "link", ["https://evil.example/p2", "//evil.example/p2", "http://backend.example/api/p2", "http://[x"]
)
def test_a_page_on_another_origin_is_refused_and_not_called(link):
    ehr = opened_fhir([bundle(match("1"), next_=link)])
    with pytest.raises(Refused):
        list(active(ehr))
    assert ehr.calls == 1


def test_pages_that_go_round_in_a_circle_are_refused():
    ehr = opened_fhir(lambda _: bundle(match("1"), next_="Patient?page=2"))
    with pytest.raises(Refused, match="circle"):
        list(active(ehr))


def test_a_page_that_stays_away_fails_the_whole_answer():
    def script(request):
        return answer(status=503) if "page" in request.url else bundle(match("1"), next_="Patient?page=2")

    with pytest.raises(Unavailable):
        list(active(opened_fhir(script, retries=2)))


def test_a_page_that_fails_once_is_asked_for_again():
    ehr = opened_fhir([bundle(match("1"), next_="Patient?page=2"), answer(status=503), bundle(match("2"))])
    assert len(list(active(ehr))) == 2


def test_entries_are_split_into_matches_included_ones_and_warnings(capture_log):
    warning = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "not-supported"}]}
    entry = {"resource": warning, "search": {"mode": "outcome"}}
    ehr = opened_fhir([bundle(match("1"), match("2", "include"), entry)])
    (page,) = active(ehr).pages()
    assert [found["id"] for found in page.matches] == ["1"]
    assert [found["id"] for found in page.included] == ["2"]
    assert page.warnings == ("not-supported",)
    assert [event["codes"] for event in capture_log] == ["not-supported"]


def test_included_resources_are_found_by_their_reference_over_all_pages():
    ehr = opened_fhir(
        [bundle(match("1"), match("2", "include"), next_="Patient?page=2"), bundle(match("3"), match("4", "include"))]
    )
    found = active(ehr).gather()
    assert [patient["id"] for patient in found.matches] == ["1", "3"]
    assert found.included["Patient/4"]["id"] == "4"
    assert len(found.included) == 2


def test_get_returns_the_only_match():
    assert active(opened_fhir([bundle(match("1"))])).get()["id"] == "1"


def test_get_refuses_none_and_several():
    with pytest.raises(Refused, match="no Patient matches"):
        active(opened_fhir([bundle()])).get()
    with pytest.raises(Refused, match="more than one Patient matches"):
        active(opened_fhir([bundle(match("1"), match("2"))])).get()


def test_a_server_that_ignored_a_parameter_is_refused():
    ehr = opened_fhir([bundle(match("1"), self_="?_count=20")])
    with pytest.raises(Refused, match="does not know the search parameter active"):
        active(ehr).first()


def test_count_is_the_servers_total_or_else_counted():
    assert active(opened_fhir([bundle(total=12)])).count() == 12
    assert active(opened_fhir([bundle(), bundle(match("1"), match("2"))])).count() == 2


def test_personal_data_and_long_queries_are_posted_and_not_put_into_the_url():
    ehr = opened_fhir(lambda _: bundle(self_="/_search"))
    ehr.at().resources("Patient").search(family="Novak").first()
    ehr.at().resources("Observation").search(patient__Patient__birthdate="1970-01-01").first()
    ehr.at().resources("Patient").search(_id={f"id-{number}" for number in range(400)}).first()
    assert ehr.transport.urls == ["/Patient/_search", "/Observation/_search", "/Patient/_search"]
    assert query(ehr.transport.requests[0])[0] == ("family", "Novak")


@pytest.mark.parametrize(
    "criteria",
    [
        {"ssn": "1"},
        {"mothersMaidenName": "Novak"},
        {"patient": "Patient/1"},
        {"identifier": ("urn:oid:1.2", "1")},
        {"status__family": "Novak"},
        {"_has__Observation__patient__code": "1234-5"},
        {"status": "final", "subject__Patient": "23"},
    ],
    ids=str,
)
def test_only_what_is_known_to_be_harmless_stands_in_a_url(criteria):
    ehr = opened_fhir([bundle(self_="/_search")])
    ehr.at().resources("Observation").search(**criteria).first()
    assert ehr.transport.urls == ["/Observation/_search"]


@pytest.mark.parametrize(
    "criteria",
    [
        {"status": "final", "code__in": "http://codes.example", "date__ge": "2026", "_count": 5},
        {"_lastUpdated__ge": "2026", "_include": "Observation:patient", "type__of_type": "x"},
        {"code__Observation__status": "final"},
    ],
    ids=str,
)
def test_what_is_harmless_is_a_plain_get(criteria):
    ehr = opened_fhir([answer({"resourceType": "Bundle", "type": "searchset"})])
    next(ehr.at().resources("Observation").search(**criteria).pages())
    assert ehr.transport.requests[0].method == "GET"


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_takes_no_search_by_post_gets_what_is_harmless_by_get(status):
    ehr = opened_fhir([answer(status=status), bundle(match("id-1"), self_="")])
    found = ehr.at().resources("Patient").search(_id={f"id-{number}" for number in range(400)}).first()
    assert found["id"] == "id-1"
    assert [request.method for request in ehr.transport.requests] == ["POST", "GET"]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_what_may_be_personal_is_refused_rather_than_put_into_a_url(status):
    ehr = opened_fhir([answer(status=status)])
    with pytest.raises(Refused, match="does it take searches by POST") as refused:
        ehr.at().resources("Patient").search(ssn="1").first()
    assert refused.value.status == status
    assert ehr.calls == 1


@pytest.mark.parametrize(
    "said",
    [{"entry": 5}, {"entry": "x"}, {"entry": {"resource": {}}}, {"link": [{"relation": ["next"]}], "entry": [1]}],
)
def test_a_bundle_of_nonsense_is_the_backends_fault(said):
    with pytest.raises(Refused, match="without its resource"):
        active(opened_fhir([answer({"resourceType": "Bundle", **said})])).first()


def test_a_search_answered_with_something_else_than_a_bundle_is_refused():
    with pytest.raises(Refused, match="not a Bundle"):
        active(opened_fhir([answer({"resourceType": "Patient"})])).first()


def told(bundle, **headers):
    response = requests.Response()
    response.status_code, response.url = 200, "https://ehr.example/fhir/Practitioner"
    response.headers.update({"Content-Type": "application/fhir+json", **headers})
    response._content = json.dumps({"resourceType": "Bundle", "type": "searchset", **bundle}).encode()
    return read_page("ehr", response).time


DATE = "Mon, 23 Nov 2026 02:00:00 GMT"


@pytest.mark.parametrize(
    ("bundle", "headers", "time"),
    [
        ({}, {"Date": DATE}, "2026-11-23T02:00:00+00:00"),
        ({"meta": {"lastUpdated": "2026-11-23T02:59:59.5+01:00"}}, {"Date": DATE}, "2026-11-23T01:59:59.500000+00:00"),
        ({"meta": {"lastUpdated": "2026-11-23T02:00:01Z"}}, {"Date": DATE}, "2026-11-23T02:00:00+00:00"),
        ({"meta": {"lastUpdated": "2026-11-23T02:00:01Z"}}, {}, "2026-11-23T02:00:01+00:00"),
    ],
)
def test_a_page_tells_the_earlier_of_the_servers_times(bundle, headers, time):
    assert told(bundle, **headers).isoformat() == time


@pytest.mark.parametrize(
    "bundle", [{}, {"meta": {"lastUpdated": "yesterday"}}, {"meta": {"lastUpdated": "2026-11-23T02:00:00"}}]
)
@pytest.mark.parametrize("headers", [{}, {"Date": "now"}])
def test_a_server_that_tells_no_time_has_none(bundle, headers):
    assert told(bundle, **headers) is None
