import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_backend import BASE, answer, opened_fhir, query

from worker import exact_json
from worker.backends.lookups import ENOUGH, MOST_IDS, Lookups
from worker.errors import Refused, ServerFault, TooCostly, Unauthorized, Unavailable
from worker.records import RowKey


class Server:
    """Answers reads, and searches by _id in pages of ``page``; the known ids are all but those in ``missing``.

    ``searches``: True, False (it ignores ``_id``) or the status that a search is answered with; likewise ``batches``.
    ``indexed`` picks those of the ids asked for that a search finds.
    """

    broken_over, breaks = None, 500  # an id, and the status of what has to do with it

    def __init__(self, missing=(), page=1000, most=1000, searches=True, batches=404, indexed=list, most_searched=None):
        self.missing, self.page, self.most, self.searches = set(missing), page, most, searches
        self.batches, self.indexed = batches, indexed
        self.most_searched = most_searched or most
        self.asked, self.ways = [], []

    def __call__(self, request):
        is_batch = request.method == "POST" and request.url == BASE
        self.ways.append("batch" if is_batch else "search" if "_id=" in request.url else "read")
        if is_batch:
            return self.batch([entry["request"]["url"] for entry in json.loads(request.body)["entry"]])
        if self.broken_over and self.broken_over in request.url:
            return answer(status=self.breaks)
        parameters = dict(query(request))
        if "_id" not in parameters:
            id_ = request.url.rpartition("/")[2]
            self.asked.append([id_])
            return answer(status=404) if id_ in self.missing else answer(self.resource(id_))
        ids = parameters["_id"].split(",")
        self.asked.append(ids)
        if len(ids) > self.most_searched:
            return answer(status=413)
        if self.searches not in (True, False):
            return answer(status=self.searches)
        found = ids if self.searches else ["other"]
        start = int(parameters.get("start", 0))
        links = [{"relation": "self", "url": f"Practitioner?_id={','.join(ids)}"}]
        if start + self.page < len(found):
            links.append({"relation": "next", "url": f"?_id={','.join(ids)}&start={start + self.page}"})
        entries = [{"resource": self.resource(id_)} for id_ in self.indexed(found) if id_ not in self.missing]
        return answer({"resourceType": "Bundle", "link": links, "entry": entries[start : start + self.page]})

    def batch(self, urls):
        self.asked.append([url.rpartition("/")[2] for url in urls])
        if self.batches == "each refused":
            return answer({"resourceType": "Bundle", "entry": [{"response": {"status": "405"}}] * len(urls)})
        if self.batches is not True:
            return answer(status=self.batches)
        if len(urls) > self.most:
            return answer(status=413)
        entries = [
            {"response": {"status": "404"}}
            if id_ in self.missing
            else {"response": {"status": "200"}, "resource": self.resource(id_)}
            for id_ in self.asked[-1]
        ]
        return answer({"resourceType": "Bundle", "type": "batch-response", "entry": entries})

    def resource(self, id_):
        return {"resourceType": "Practitioner", "id": id_}


def another_delivery(ehr):
    return ehr.backend.open(ehr.meter, ehr.stop).at(RowKey("e" * 64, 2))


def ids(count):
    return [f"p{number}" for number in range(count)]


def test_one_id_is_a_plain_read():
    ehr = opened_fhir(Server())
    assert ehr.at().read("Practitioner", "p1")["id"] == "p1"
    assert ehr.transport.urls == ["/Practitioner/p1"]


def test_many_ids_take_few_requests_and_equal_ones_none():
    server = Server()
    ehr = opened_fhir(server)
    found = ehr.at().read_many("Practitioner", ids(120) * 2)
    assert list(found) == ids(120)
    assert [len(asked) for asked in server.asked] == [50, 50, 20]


def test_an_answer_in_pages_is_read_to_its_end():
    ehr = opened_fhir(Server(page=7))
    assert len(ehr.at().read_many("Practitioner", ids(20))) == 20
    assert ehr.calls == 3


def test_missing_ids_are_counted_and_may_be_left_out():
    ehr = opened_fhir(Server(missing={"p1", "p2"}))
    with pytest.raises(Refused, match="2 of 4 Practitioner are missing: number 2, 3 of those"):
        ehr.at().read_many("Practitioner", ids(4))
    assert list(ehr.at().read_many("Practitioner", ids(4), missing_ok=True)) == ["p0", "p3"]
    assert ehr.calls == 4  # the search, a batch that is refused, two reads


def test_a_missing_id_is_refused_for_its_own_row_and_not_asked_for_twice():
    ehr = opened_fhir(Server(missing={"p1"}))
    ehr.at().read_many("Practitioner", ids(4), missing_ok=True)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            ehr.at().read("Practitioner", "p1")
        assert caught.value.status == 404
    assert ehr.at().read("Practitioner", "p2")["id"] == "p2"
    assert ehr.calls == 2


def test_a_batch_that_is_too_big_is_halved():
    server = Server(most=20)
    ehr = opened_fhir(server)
    assert len(ehr.at().read_many("Practitioner", ids(50))) == 50
    assert [len(asked) for asked in server.asked] == [50, 25, 12, 12, 12, 12, 2]


def test_what_was_too_big_for_one_delivery_is_not_tried_in_the_next_beyond_twice_of_what_went():
    server = Server(most=12)
    ehr = opened_fhir(server)
    ehr.at().read_many("Practitioner", ids(50))
    server.asked.clear()
    another_delivery(ehr).read_many("Practitioner", ids(50))
    assert [len(asked) for asked in server.asked] == [24, 12, 12, 12, 12, 2]


@pytest.mark.parametrize("answered", [False, 400, 403, 405])
def test_a_server_that_does_not_search_by_id_is_asked_in_batches_by_later_deliveries_too(answered):
    server = Server(searches=answered, batches=True, missing={"p1"})
    ehr = opened_fhir(server)
    assert list(ehr.at().read_many("Practitioner", ids(3), missing_ok=True)) == ["p0", "p2"]
    another_delivery(ehr).read_many("Practitioner", ["a", "b"])
    assert server.ways == ["search", "batch", "batch"]


LEAVES_OUT = {
    "takes a list for one id": lambda ids: [],
    "takes the first of a list": lambda ids: ids[:1],
    "gives so many at most": lambda ids: ids[:2],
    "has not indexed one yet": lambda ids: ids[:1] + ids[2:],
}


@pytest.mark.parametrize("batches", [True, 404, 401, 500, "each refused"])
@pytest.mark.parametrize("indexed", LEAVES_OUT.values(), ids=LEAVES_OUT)
def test_what_a_search_leaves_out_is_missing_only_where_a_read_says_so(indexed, batches):
    ehr = opened_fhir(Server(missing={"p3"}, batches=batches, indexed=indexed))
    assert list(ehr.at().read_many("Practitioner", ids(5), missing_ok=True)) == ["p0", "p1", "p2", "p4"]
    with pytest.raises(Refused) as caught:
        ehr.at().read("Practitioner", "p3")
    assert caught.value.status == 404


def test_a_type_whose_search_leaves_out_what_there_is_is_read_in_batches_from_then_on():
    server = Server(batches=True, indexed=lambda ids: ids[:1])
    ehr = opened_fhir(server)
    ehr.at().read_many("Practitioner", ids(60))
    another_delivery(ehr).read_many("Practitioner", ids(3))
    assert server.ways == ["search", "batch", "batch", "batch"]
    assert [len(asked) for asked in server.asked] == [50, 49, 10, 3]


def test_a_type_whose_search_leaves_out_only_what_is_missing_is_searched_on():
    server = Server(batches=True, missing={"p1", "p2", "p55"})
    assert len(opened_fhir(server).at().read_many("Practitioner", ids(60), missing_ok=True)) == 57
    assert server.ways == ["search", "batch", "search", "read"]


def test_a_batch_that_confirms_is_halved_where_it_is_too_big():
    server = Server(batches=True, missing=set(ids(10)), most=4, most_searched=50)
    ehr = opened_fhir(server)
    assert list(ehr.at().read_many("Practitioner", ids(12), missing_ok=True)) == ["p10", "p11"]
    assert [len(asked) for asked in server.asked] == [12, 10, 5, 2, 3, 5, 2, 3]


def test_a_batch_of_reads_that_is_too_big_is_halved_too():
    server = Server(searches=False, batches=True, most=30)
    assert len(opened_fhir(server).at().read_many("Practitioner", ids(25))) == 25
    assert len(opened_fhir(server).at().read_many("Practitioner", ids(40))) == 40


@pytest.mark.parametrize("batches", [404, 403])
def test_where_neither_searches_nor_batches_work_each_is_asked_for(batches):
    server = Server(searches=False, batches=batches)
    ehr = opened_fhir(server)
    assert list(ehr.at().read_many("Practitioner", ids(3))) == ids(3)
    ehr.at().read_many("Practitioner", ["a", "b"])
    assert server.ways == ["search", "batch", "read", "read", "read", "read", "read"]


@pytest.mark.parametrize("breaks", [500, 400])
def test_an_id_that_the_server_breaks_over_costs_the_speed_of_its_own_batch_only(breaks):
    server = Server()
    server.broken_over, server.breaks = "p077", breaks
    wanted = [f"p{number:03}" for number in range(500)]
    found = opened_fhir(server).session.lookups.read("Practitioner", wanted)
    assert [id_ for id_, answered in found.items() if isinstance(answered, Exception)] == ["p077"]
    assert isinstance(found["p077"], ServerFault if breaks == 500 else Refused)
    assert [asked[0] for asked in server.asked if len(asked) == 1] == [id_ for id_ in wanted[50:100] if id_ != "p077"]


def test_a_first_batch_that_the_server_breaks_over_says_nothing_of_the_next():
    server = Server()
    server.broken_over = "p33"
    opened_fhir(server).session.lookups.read("Practitioner", [*ids(71)])
    assert [len(asked) for asked in server.asked if len(asked) > 1] == [21]


def test_a_server_that_does_not_let_us_read_is_no_reason_to_ask_for_each():
    server = Server(searches=401, batches=True)
    with pytest.raises(Unauthorized):
        opened_fhir(server).at().read_many("Practitioner", ids(3))
    assert server.ways == ["search"]


def test_reads_and_searches_ask_for_an_answer_that_no_cache_gives():
    ehr = opened_fhir(Server())
    ehr.at().read("Practitioner", "p1")
    ehr.at().read_many("Practitioner", ids(3))
    assert {request.headers["Cache-Control"] for request in ehr.transport.requests} == {"no-cache"}


def test_a_resource_is_asked_for_once_and_afresh_where_wanted():
    ehr = opened_fhir(Server())
    job = ehr.at()
    first = job.read("Practitioner", "p1")
    first["name"] = "changed by the job"
    assert "name" not in job.read("Practitioner", "p1")
    assert ehr.calls == 1
    job.read("Practitioner", "p1", fresh=True)
    assert ehr.calls == 2


class Keeper:
    """A server that keeps what is created under an id that it chose before, and may not tell which one that is."""

    def __init__(self, tells=True, breaks=False):
        self.tells, self.breaks, self.kept = tells, breaks, None

    def __call__(self, request):
        if request.method == "POST":
            self.kept = {"resourceType": "Patient", "id": "p1"}
            said = answer(self.kept, 201) if self.tells else answer(b"", 201)
            return answer(status=502) if self.breaks else said
        known = self.kept if request.url.endswith("/p1") else None
        return answer(known) if known else answer(status=404)


@pytest.mark.parametrize("number", ["1.10", "1E+5", "123456789012345678901234567890", "-0.0", "7", '"1.10"'])
def test_each_row_gets_the_resource_for_itself_and_as_it_came(number):
    text = f'{{"resourceType":"Observation","id":"o1","valueQuantity":{{"value":{number}}}}}'
    ehr = opened_fhir(lambda _: answer(text.encode()))
    for _ in range(3):
        found = ehr.at().read("Observation", "o1")
        assert exact_json.dumps(found).decode() == text
        found.pop("id")
        found["valueQuantity"].clear()


@pytest.mark.parametrize("condition", [None, {"identifier": ("urn:x", "1")}], ids=["plain", "conditional"])
@pytest.mark.parametrize("tells", [True, False])
def test_what_was_missing_is_looked_for_again_once_it_is_created(condition, tells):
    ehr = opened_fhir(Keeper(tells))
    for id_ in ("p1", "p2", "p2"):
        with pytest.raises(Refused):
            ehr.at().read("Patient", id_)
    ehr.at(3).create({"resourceType": "Patient"}, if_none_exist=condition)
    assert ehr.at(4).read("Patient", "p1")["id"] == "p1"
    assert ehr.calls == 4


def test_what_a_create_may_have_made_whose_answer_did_not_come_is_looked_for_again():
    ehr = opened_fhir(Keeper(breaks=True), retries=0)
    with pytest.raises(Refused):
        ehr.at().read("Patient", "p1")
    with pytest.raises(Unavailable):
        ehr.at().create({"resourceType": "Patient"})
    assert ehr.at().read("Patient", "p1")["id"] == "p1"


def test_a_resource_that_a_conditional_create_finds_is_read_anew():
    versions = iter("12")

    def respond(_):
        return answer({"resourceType": "Patient", "id": "p1", "meta": {"versionId": next(versions, "3")}})

    ehr = opened_fhir(respond)
    assert ehr.at().read("Patient", "p1")["meta"]["versionId"] == "1"
    ehr.at().create({"resourceType": "Patient"}, if_none_exist={"identifier": ("urn:x", "1")})
    assert ehr.at().read("Patient", "p1")["meta"]["versionId"] == "3"


@pytest.mark.parametrize("answered", [{"text": "x" * 2000}, Refused("ehr", "has none", 404)])
def test_what_is_remembered_is_bounded_by_its_size(answered):
    asked = []
    most = 2 * 3500 if isinstance(answered, dict) else 2 * 1000
    lookups = Lookups(lambda _, ids: asked.append(ids) or dict.fromkeys(ids, answered), most_bytes=most)
    for id_ in ["a", "b", "c", "c", "b", "a"]:
        lookups.read("Patient", [id_])
    assert asked == [["a"], ["b"], ["c"], ["a"]]


def test_what_was_forgotten_takes_no_room():
    asked = []
    lookups = Lookups(lambda _, ids: asked.append(ids) or {id_: {} for id_ in ids}, most_bytes=2 * 1100)
    for forget in [lambda: lookups.forget("Patient", "a"), lookups.forget_all] * 3:
        lookups.read("Patient", ["a"])
        forget()
    asked.clear()
    for id_ in ["a", "b", "a", "b"]:
        lookups.read("Patient", [id_])
    assert asked == [["a"], ["b"]]


class Gate:
    """A fetch that can be held up, and tells when it has begun."""

    def __init__(self, failure=None):
        self.open, self.begun = threading.Event(), threading.Semaphore(0)
        self.asked, self.failure = [], failure

    def __call__(self, type_, ids):
        self.asked.append(list(ids))
        self.begun.release()
        self.open.wait()
        if self.failure:
            raise self.failure
        return {id_: {"id": id_} for id_ in ids}


def waiting(lookups, count):
    """Wait until so many ids are in the queue."""
    while len(lookups._waiting["Patient"]) < count:
        threading.Event().wait(0.001)


def test_a_few_reads_wait_for_the_one_in_flight_and_go_together():
    gate, few = Gate(), ENOUGH - 1
    lookups = Lookups(gate)
    with ThreadPoolExecutor(ENOUGH) as pool:
        first = pool.submit(lookups.read, "Patient", ["first"])
        gate.begun.acquire()
        others = [pool.submit(lookups.read, "Patient", [id_]) for id_ in ids(few)]
        waiting(lookups, few)
        gate.open.set()
        assert first.result() == {"first": {"id": "first"}}
        assert [list(other.result()) for other in others] == [[id_] for id_ in ids(few)]
    assert [len(asked) for asked in gate.asked] == [1, few]


@pytest.mark.parametrize("in_flight", [1, ENOUGH, MOST_IDS, 2 * MOST_IDS])
def test_enough_wait_no_longer_however_many_are_in_flight(in_flight):
    gate = Gate()
    lookups = Lookups(gate)
    with ThreadPoolExecutor(2 + ENOUGH) as pool:
        all_ = []
        for each in (ids(in_flight)[:MOST_IDS], ids(in_flight)[MOST_IDS:]):
            if each:
                all_.append(pool.submit(lookups.read, "Patient", each))
                gate.begun.acquire()
        others = [f"other-{number}" for number in range(ENOUGH)]
        all_ += [pool.submit(lookups.read, "Patient", [id_]) for id_ in others[:-1]]
        waiting(lookups, ENOUGH - 1)
        assert sum(map(len, gate.asked)) == in_flight
        all_.append(pool.submit(lookups.read, "Patient", others[-1:]))
        gate.begun.acquire()
        gate.open.set()
        assert all(one.result() for one in all_)
    assert sorted(gate.asked[-1]) == sorted(others)


def test_equal_reads_of_several_threads_are_one_request():
    gate = Gate()
    lookups = Lookups(gate)
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(lookups.read, "Patient", ["same"]) for _ in range(8)]
        gate.begun.acquire()
        gate.open.set()
        assert {str(read.result()) for read in reads} == {"{'same': {'id': 'same'}}"}
    assert gate.asked == [["same"]]


def test_the_failure_of_a_shared_request_reaches_everyone_as_an_exception_of_their_own():
    gate = Gate(failure=Unavailable("ehr", "is down", 503, retry_after=3))
    lookups = Lookups(gate)
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(lookups.read, "Patient", ["same"]) for _ in range(8)]
        gate.begun.acquire()
        gate.open.set()
        errors = [read.result()["same"] for read in reads]
    assert all(type(error) is Unavailable for error in errors)
    assert {(str(error), error.status, error.retry_after) for error in errors} == {("ehr: is down", 503, 3)}
    assert len(set(map(id, errors))) == len(errors)


def test_a_failure_is_not_remembered():
    gate = Gate(failure=Unavailable("ehr", "is down"))
    gate.open.set()
    lookups = Lookups(gate)
    lookups.read("Patient", ["a"])
    gate.failure = None
    assert lookups.read("Patient", ["a"]) == {"a": {"id": "a"}}


def test_a_read_that_was_under_way_at_a_write_is_not_remembered():
    gate = Gate()
    lookups = Lookups(gate)
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(lookups.read, "Patient", ["a"])
        gate.begun.acquire()
        lookups.forget("Patient", "a")
        gate.open.set()
        before.result()
    lookups.read("Patient", ["a"])
    assert gate.asked == [["a"], ["a"]]


def test_one_id_that_is_too_costly_is_the_error_of_its_row():
    gate = Gate(failure=TooCostly("ehr", "too big", 413))
    gate.open.set()
    assert isinstance(Lookups(gate).read("Patient", ["a"])["a"], TooCostly)
