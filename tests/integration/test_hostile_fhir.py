"""FHIR servers that lie, over real sockets: no part is taken for the whole, no token leaves home, every call ends."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest

from worker.auth import MemoryTokenStore, open_credential
from worker.backends import open_backend, walk
from worker.config import BearerSettings, FhirSettings
from worker.errors import Refused, Unavailable
from worker.records import Meter, RowKey

TOKEN = "canary-token"


class Server(ThreadingHTTPServer):
    """Answers each path with what ``answers`` has for it, or makes of it: a resource, or text of another type."""

    def __init__(self, host="127.0.0.1"):
        super().__init__((host, 0), Handler)
        self.url = f"http://{host}:{self.server_port}"
        self.answers = {}
        self.seen = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Authorization"]))
        path = self.path.partition("?")[0]
        said = self.server.answers.get(path, {"resourceType": "OperationOutcome"})
        said = said(self.path) if callable(said) else said
        kind, body = said if isinstance(said, tuple) else ("application/fhir+json", json.dumps(said))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@contextmanager
def running(host):
    server = Server(host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server():
    with running("127.0.0.1") as made:
        yield made


@pytest.fixture
def evil():
    """Another origin."""
    with running("127.0.0.2") as made:
        yield made


@pytest.fixture
def ehr(server):
    credential = open_credential("hospital", BearerSettings(token=TOKEN), MemoryTokenStore(), owner="test")
    settings = FhirSettings(url=server.url, auth="hospital", retries=0, timeout=5)
    backend = open_backend("ehr", settings, credential, threads=4)
    yield backend.open(Meter(), threading.Event()).at(RowKey("d" * 64, 2))
    backend.close()


def practitioner(id_):
    return {"resourceType": "Practitioner", "id": str(id_)}


def page(*resources, next_=None, **more):
    links = [{"relation": "next", "url": next_}] if next_ else []
    entries = [{"resource": each} for each in resources]
    return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries, **more}


def everybody(ehr):
    return [found["id"] for found in ehr.resources("Practitioner")]


def test_a_next_link_may_be_relative_and_gets_the_token(server, ehr):
    server.answers = {
        "/Practitioner": page(practitioner(1), next_="pages?token=2"),
        "/pages": page(practitioner(2)),
    }
    assert everybody(ehr) == ["1", "2"]
    assert [token for _, token in server.seen] == [f"Bearer {TOKEN}"] * 2


@pytest.mark.parametrize(
    "link",
    [
        "{evil}/Practitioner?page=2",
        "//{evil_host}/Practitioner",
        "http://user:password@{host}/Practitioner?page=2",
        "http://{host}@{evil_host}/Practitioner",
        "http://{evil_host}#@{host}/Practitioner",
        "http://{evil_host}\\@{host}/Practitioner",
        "https://{host}/Practitioner?page=2",
        "file:///etc/passwd",
        "http://[",
    ],
)
def test_a_next_link_to_anywhere_else_is_refused_and_nothing_is_sent_there(server, evil, ehr, link):
    hosts = {"host": server.url[7:], "evil_host": evil.url[7:], "evil": evil.url}
    server.answers = {"/Practitioner": page(practitioner(1), next_=link.format(**hosts))}
    with pytest.raises(Refused):
        everybody(ehr)
    assert evil.seen == []
    assert len(server.seen) == 1


def test_a_page_that_links_to_itself_or_back_is_refused(server, ehr):
    server.answers = {
        "/Practitioner": page(practitioner(1), next_="/two"),
        "/two": page(practitioner(2), next_="/three"),
        "/three": page(practitioner(3), next_="/two"),
    }
    with pytest.raises(Refused, match="circle"):
        everybody(ehr)
    assert len(server.seen) == 3


def test_links_that_are_always_new_but_lead_to_the_same_page_are_refused(server, ehr):
    number = count()
    server.answers = {"/Practitioner": lambda _: page(practitioner(1), next_=f"/Practitioner?page={next(number)}")}
    with pytest.raises(Refused, match="the same page twice"):
        everybody(ehr)
    assert len(server.seen) == 2


def test_empty_pages_without_an_end_come_to_one(server, ehr, monkeypatch):
    monkeypatch.setattr(walk, "MOST_PAGES", 20)
    number = count()
    server.answers = {"/Practitioner": lambda _: page(next_=f"/Practitioner?page={next(number)}")}
    with pytest.raises(Refused, match="more than 20 pages; ask for larger ones"):
        everybody(ehr)
    assert len(server.seen) == 21


def test_an_empty_page_in_between_is_no_end(server, ehr):
    server.answers = {
        "/Practitioner": page(practitioner(1), next_="/two"),
        "/two": page(next_="/three"),
        "/three": page(practitioner(2)),
    }
    assert everybody(ehr) == ["1", "2"]


def test_what_is_given_twice_in_a_row_of_pages_counts_once(server, ehr):
    server.answers = {
        "/Practitioner": page(practitioner(1), practitioner(1), practitioner(2), next_="/two", total=3),
        "/two": page(practitioner(2), practitioner(3)),
    }
    assert everybody(ehr) == ["1", "2", "3"]


def test_the_one_match_that_is_given_twice_is_one(server, ehr):
    server.answers = {"/Practitioner": page(practitioner(1), practitioner(1))}
    assert ehr.resources("Practitioner").search(active=True).get()["id"] == "1"


@pytest.mark.parametrize("total", [3, 835])
def test_fewer_matches_than_the_server_says_are_not_taken_for_all(server, ehr, total):
    server.answers = {
        "/Practitioner": page(practitioner(1), next_="/two", total=total),
        "/two": page(practitioner(2)),
    }
    with pytest.raises(Refused, match=f"says that {total} match, and gives 2"):
        everybody(ehr)


def test_what_was_included_makes_up_for_no_match_that_is_missing(server, ehr):
    server.answers = {"/Practitioner": page(practitioner(1), {"resourceType": "Patient", "id": "2"}, total=2)}
    with pytest.raises(Refused, match="says that 2 match, and gives 1"):
        ehr.resources("Practitioner").search(_include="*").gather()


def test_an_estimate_is_no_count(server, ehr):
    server.answers = {"/Practitioner": page(practitioner(1), total=1000)}
    assert ehr.resources("Practitioner").search(_total="estimate").get()["id"] == "1"


@pytest.mark.parametrize("total", [0, 1, 2, -1, "many", None, True])
def test_a_total_that_is_missing_too_small_or_no_number_takes_nothing_away(server, ehr, total):
    server.answers = {"/Practitioner": page(practitioner(1), practitioner(2), total=total)}
    assert everybody(ehr) == ["1", "2"]


@pytest.mark.parametrize(
    "answer",
    [
        page({"resourceType": "Patient", "id": "1"}),
        page(practitioner(1), {"id": "2"}),
        {"resourceType": "Bundle", "type": "searchset", "entry": [{"fullUrl": "http://x"}]},
        {"resourceType": "Bundle", "type": "searchset", "entry": ["Practitioner/1"]},
        {"resourceType": "Bundle", "type": "searchset", "entry": {"resource": {}}},
        practitioner(1),
        [practitioner(1)],
        "fine",
    ],
    ids=["another type", "no type", "no resource", "no entry", "no list", "no Bundle", "a list", "a text"],
)
def test_what_is_no_searchset_of_the_type_is_refused(server, ehr, answer):
    server.answers = {"/Practitioner": answer}
    with pytest.raises(Refused):
        everybody(ehr)


def outcome(severity, code="processing"):
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, "diagnostics": "odd"}]}


@pytest.mark.parametrize(("code", "error"), [("processing", Refused), ("timeout", Unavailable)])
def test_an_error_beside_the_matches_makes_them_a_part_only(server, ehr, code, error):
    server.answers = {"/Practitioner": page(practitioner(1), outcome("error", code))}
    with pytest.raises(error):
        everybody(ehr)


def test_a_warning_beside_the_matches_is_a_warning(server, ehr):
    server.answers = {"/Practitioner": page(practitioner(1), outcome("warning"))}
    assert everybody(ehr) == ["1"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (outcome("error"), Refused),
        (outcome("fatal", "transient"), Unavailable),
        (("text/html", "<html>Log in</html>"), Unavailable),
        (("application/fhir+json", "<html>Log in</html>"), Unavailable),
        (("application/fhir+json", '{"resourceType": "Practi'), Unavailable),
        (("application/fhir+xml", "<Practitioner/>"), Refused),
        ({"resourceType": "Patient", "id": "1"}, Refused),
        (practitioner(2), Refused),
        (("application/fhir+json", ""), Refused),
    ],
    ids=["outcome", "transient", "log-in page", "posing", "cut", "xml", "another type", "another id", "nothing"],
)
def test_a_read_is_answered_by_the_resource_or_it_is_an_error(server, ehr, answer, error):
    server.answers = {"/Practitioner/1": answer}
    with pytest.raises(error):
        ehr.read("Practitioner", "1")


@pytest.mark.parametrize("second", [("text/html", "<html>"), ("application/fhir+json", '{"resourceType"')])
def test_a_page_that_fails_makes_the_whole_search_fail(server, ehr, second):
    server.answers = {"/Practitioner": page(practitioner(1), next_="/two"), "/two": second}
    with pytest.raises(Unavailable):
        ehr.resources("Practitioner").gather()
