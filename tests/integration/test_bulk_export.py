"""Exports over real sockets, from servers that do well, that fail, and that lie."""

import errno
import gzip
import json
import os
import shutil
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from servers.bulk import TIME, bulk_server
from structlog.testing import capture_logs

from worker import files
from worker.auth import MemoryTokenStore, open_credential
from worker.backends import open_backend
from worker.backends.bulk import export, lines
from worker.config import BearerSettings, FhirSettings
from worker.errors import (
    BackendError,
    DeliveryError,
    Interrupted,
    Refused,
    ServerFault,
    Unauthorized,
    Unavailable,
)
from worker.records import Meter, RowKey

TOKEN = "canary-token"
BEARER = f"Bearer {TOKEN}"
ONE, TWO, THREE = ({"resourceType": "Patient", "id": str(number)} for number in (1, 2, 3))
SEEN = {"resourceType": "Observation", "id": "o", "valueQuantity": {"value": 1}}


@dataclass
class Tick:
    """The attempts at one delivery, each with a new connection and the same folder."""

    server: object
    folder: Path
    stack: ExitStack
    retries: int = 0
    waits: list = field(default_factory=list)
    stop_at: int = 10**6

    def ehr(self, **settings):
        stop = threading.Event()

        def sleep(stop, seconds):
            self.waits.append(round(seconds))
            if len(self.waits) >= self.stop_at:
                stop.set()
            return stop.is_set()

        return self.backend(sleep, **settings).open(Meter(), stop, self.folder).at(RowKey("d" * 64, 2))

    def backend(self, sleep=threading.Event.wait, **settings):
        credential = open_credential("hospital", BearerSettings(token=TOKEN), MemoryTokenStore(), owner="test")
        given = {"url": self.server.url, "auth": "hospital", "retries": self.retries, "timeout": 5, **settings}
        backend = open_backend("ehr", FhirSettings(**given), credential, threads=4, sleep=sleep)
        self.stack.callback(backend.close)
        return backend

    def export(self, *what, **how):
        return self.ehr().export(*what, **how)

    def rows(self, *what, **how):
        return list(self.export(*what, **how))


@pytest.fixture
def server():
    with bulk_server() as made:
        yield made


@pytest.fixture
def capture_log():
    with capture_logs() as events:
        yield events


@pytest.fixture
def elsewhere():
    with bulk_server("127.0.0.2") as made:
        yield made


@pytest.fixture
def tick(server, tmp_path):
    with ExitStack() as stack:
        yield Tick(server, tmp_path / "3f9a1c2b", stack)


def test_an_export_is_begun_waited_for_fetched_and_given_back(server, tick):
    server.polls = [(202, {"Retry-After": "120", "X-Progress": "half"}), (202, {})]
    server.made(ONE, TWO)
    server.made(SEEN)
    export = tick.export("Patient", "Observation", since=datetime(2026, 11, 1, tzinfo=UTC))
    assert list(export) == [ONE, TWO, SEEN]
    assert list(export) == [ONE, TWO, SEEN]
    assert export.time == TIME
    assert server.seen == [
        ("GET", "/$export?_type=Patient%2CObservation&_since=2026-11-01T00%3A00%3A00.000%2B00%3A00", BEARER),
        *[("GET", "/status/1", BEARER)] * 3,
        ("GET", "/files/0", BEARER),
        ("GET", "/files/1", BEARER),
        ("DELETE", "/status/1", BEARER),
    ]
    assert tick.waits == [120, 2]


def test_nothing_is_asked_before_the_export_is_read(server, tick):
    tick.export("Patient")
    assert server.seen == []


def test_numbers_and_nulls_of_an_export_stay_what_they_are(server, tick):
    path = server.made(SEEN)
    text = b'{"resourceType":"Observation","valueQuantity":{"value":1.10},"_status":[null,{"id":"a"}]}'
    server.files[path] = text
    (found,) = tick.rows("Observation")
    assert str(found["valueQuantity"]["value"]) == "1.10"
    assert found["_status"] == [None, {"id": "a"}]


def test_a_set_to_be_searched_is_exported_in_part_and_filters_with_personal_data_are_posted(server, tick):
    server.made(SEEN)
    ehr = tick.ehr()
    final = ehr.resources("Observation").search(status="final", date__ge="2026")
    assert list(ehr.export(final, of="Group/g1")) == [SEEN]
    assert server.seen[0][1] == (
        "/Group/g1/$export?_type=Observation&_typeFilter=Observation%3Fstatus%3Dfinal%26date%3Dge2026"
    )
    named = ehr.resources("Observation").search(subject__Patient__name="Novak")
    assert list(ehr.export(named, of="Patient", since=TIME)) == [SEEN]
    method, path, _ = [each for each in server.seen if "$export" in each[1]][1]
    assert (method, path) == ("POST", "/Patient/$export")
    assert server.asked[0]["parameter"] == [
        {"name": "_type", "valueString": "Observation"},
        {"name": "_since", "valueInstant": TIME},
        {"name": "_typeFilter", "valueString": "Observation?subject%3APatient.name=Novak"},
    ]


def test_all_of_a_type_and_a_part_of_it_are_all_of_it(server, tick):
    server.made(SEEN)
    ehr = tick.ehr()
    assert list(ehr.export(ehr.resources("Observation").search(status="final"), "Observation")) == [SEEN]
    assert server.seen[0][1] == "/$export?_type=Observation"


@pytest.mark.parametrize("since", ["2026-11-01T00:00:00", "yesterday", datetime(2026, 11, 1)])
def test_a_time_without_a_zone_is_no_instant(tick, since):
    with pytest.raises(ValueError):
        tick.export("Patient", since=since)


def test_a_level_that_there_is_not_is_the_jobs_mistake(tick):
    with pytest.raises(ValueError, match="Group/ID"):
        tick.export("Patient", of="Group/../Patient")


def deletions(*urls):
    gone = [{"request": {"method": "DELETE", "url": url}} for url in urls]
    return {"resourceType": "Bundle", "type": "transaction", "entry": gone}


def test_what_was_deleted_is_told(server, tick):
    server.made(SEEN)
    server.made(deletions("Patient/7", "Observation/8"), kind="deleted")
    export = tick.export(since=TIME)
    assert list(export) == [SEEN]
    assert list(export.deleted()) == ["Patient/7", "Observation/8"]
    assert list(tick.export("Observation", since=TIME).deleted()) == ["Observation/8"]


def test_a_whole_address_of_what_was_deleted_becomes_a_reference(server, tick):
    server.made(deletions("https://ehr.example/fhir/Patient/7"), kind="deleted")
    assert list(tick.export(since=TIME).deleted()) == ["Patient/7"]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"resource": {"resourceType": "Patient", "id": "7"}},
        {"request": {"method": "DELETE"}},
        {"request": {"method": "DELETE", "url": "Patient?identifier=7"}},
        {"request": {"method": "PUT", "url": "Patient/7"}},
    ],
)
def test_a_deletion_that_is_not_told_plainly_is_not_left_out(server, tick, entry):
    server.made({"resourceType": "Bundle", "entry": [entry]}, kind="deleted")
    with pytest.raises(Refused, match="not plainly of what"):
        list(tick.export(since=TIME).deleted())


def outcome(severity):
    issue = {"severity": severity, "code": "not-supported", "diagnostics": "Novak is odd"}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def test_a_warning_is_kept_and_logged_by_its_code(server, tick, capture_log):
    server.made(ONE)
    server.made(outcome("warning"), kind="error")
    export = tick.export("Patient")
    assert list(export) == [ONE]
    assert list(export.outcomes()) == [outcome("warning")]
    (told,) = [each for each in capture_log if each["event"] == "an export came with issues"]
    assert (told["codes"], "Novak" in str(told)) == ("not-supported", False)


def test_what_could_not_be_exported_is_an_error_before_the_first_resource_unless_a_part_will_do(server, tick):
    server.made(ONE)
    server.made(outcome("error"), kind="error")
    with pytest.raises(Refused, match=r"could not export everything: 1 \(not-supported\); take the others") as refused:
        next(iter(tick.export("Patient")))
    assert "Novak" not in str(refused.value)
    assert tick.rows("Patient", partial_ok=True) == [ONE]


def test_a_stopped_worker_goes_on_polling_at_the_next_start(server, tick):
    server.polls = [(202, {"Retry-After": "30"})] * 3
    server.made(ONE)
    tick.stop_at = 2
    with pytest.raises(Interrupted):
        tick.rows("Patient")
    tick.stop_at = 10**6
    assert tick.rows("Patient") == [ONE]
    assert len([path for path in server.paths() if "$export" in path]) == 1
    assert server.paths("DELETE") == ["/status/1"]


def begun(server, tick):
    """The folder of an export of which one file of two has been fetched."""
    server.made(ONE)
    second = server.made(TWO)
    server.answers[second] = 503, {}
    with pytest.raises(Unavailable):
        tick.rows("Patient")
    del server.answers[second]
    (folder,) = (tick.folder / "exports").iterdir()
    return folder


def test_files_that_are_there_are_not_fetched_again(server, tick):
    begun(server, tick)
    assert tick.rows("Patient") == [ONE, TWO]
    assert tick.rows("Patient") == [ONE, TWO]
    assert server.paths().count("/files/0") == 1
    assert server.paths().count("/status/1") == 1
    assert server.paths("DELETE") == ["/status/1"]


def test_what_somebody_has_tidied_up_is_exported_anew(server, tick):
    server.made(ONE)
    tick.rows("Patient")
    (file,) = tick.folder.rglob("0.ndjson")
    file.unlink()
    assert tick.rows("Patient") == [ONE]
    assert len([path for path in server.paths() if "$export" in path]) == 2


def test_who_waited_for_another_ones_export_begins_none_when_the_worker_stops(server, tick):
    server.polls = [(202, {})] * 10
    tick.stop_at = 1
    ehr = tick.ehr()
    for _ in range(4):
        with pytest.raises(Interrupted):
            list(ehr.export("Patient"))
    assert server.paths().count("/status/1") == 1


def test_what_an_earlier_attempt_left_half_written_is_removed(server, tick):
    half = begun(server, tick) / ".1.ndjson.0a.part"
    half.write_bytes(b"{")
    assert tick.rows("Patient") == [ONE, TWO]
    assert not half.exists()


def test_who_has_lost_the_delivery_meanwhile_removes_nothing_of_the_one_who_has_it_now(server, tick):
    half = begun(server, tick) / ".1.ndjson.0a.part"
    half.write_bytes(b"{")
    lost = threading.Event()
    lost.set()
    ehr = tick.backend().open(Meter(), lost, tick.folder).at(RowKey("d" * 64, 2))
    with pytest.raises(Interrupted):
        list(ehr.export("Patient"))
    assert half.exists()


def test_nothing_of_an_export_that_was_given_up_is_taken_for_a_part_of_the_next_one(server, tick, monkeypatch):
    begun(server, tick)

    def die(folder, **_):
        for each in folder.rglob("*.json"):
            each.unlink()
        raise KeyboardInterrupt

    server.answers["/files/1"] = 404, {}
    server.manifest = {}
    server.made(THREE)
    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        tick.rows("Patient")
    monkeypatch.undo()
    assert tick.rows("Patient") == [THREE]


def test_a_worker_that_was_silent_takes_nothing_from_the_one_that_was_done_meanwhile(server, tick):
    server.made(ONE)
    server.made(deletions("Patient/7"), kind="deleted")
    exports, rows = [], []

    def poll(_handler):
        if exports:
            del server.answers["/status/1"]
            return 202, {}
        exports.append(tick.export("Patient"))
        rows.extend(exports[0])
        server.answers["/status/1"] = 404, {}
        return 404, {}

    server.answers["/status/1"] = poll
    silent = tick.export("Patient")
    assert list(silent) == rows == [ONE]
    for each in (exports[0], silent):
        assert list(each.deleted()) == ["Patient/7"]
        assert each.time == TIME


@pytest.mark.parametrize("what", ["/status/1", "/files/0"])
def test_a_full_disk_is_no_fault_of_the_job_and_the_export_goes_on_when_there_is_room(server, tick, monkeypatch, what):
    server.made(ONE)
    whole = files.publish

    def full(target, *by):
        if what in server.paths():
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        whole(target, *by)

    monkeypatch.setattr(files, "publish", full)
    with pytest.raises(Interrupted, match="No space left on device"):
        tick.rows("Patient")
    monkeypatch.undo()
    assert tick.rows("Patient") == [ONE]
    assert len([path for path in server.paths() if "$export" in path]) == 1


def test_other_questions_are_other_exports(server, tick):
    server.made(ONE)
    ehr = tick.ehr()
    assert [list(ehr.export("Patient", since=since)) for since in (None, TIME, None)] == [[ONE]] * 3
    assert len([path for path in server.paths() if "$export" in path]) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_polled_again_and_keeps_its_export(server, tick, status):
    server.polls = [(202, {}), (status, {"Retry-After": "3"})]
    server.made(ONE)
    with pytest.raises(Unavailable) as waits:
        tick.rows("Patient")
    assert waits.value.retry_after == 3
    assert tick.rows("Patient") == [ONE]
    assert len([path for path in server.paths() if "$export" in path]) == 1


def test_a_fault_with_a_passing_code_is_no_end_of_the_export(server, tick):
    said = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "transient"}]}
    server.polls = [(500, {"Content-Type": "application/json"}, json.dumps(said).encode())]
    server.made(ONE)
    with pytest.raises(Unavailable) as waits:
        tick.rows("Patient")
    assert not isinstance(waits.value, ServerFault)
    assert tick.rows("Patient") == [ONE]
    assert len([path for path in server.paths() if "$export" in path]) == 1


def test_an_export_that_failed_is_given_up_and_begun_anew_at_the_next_attempt(server, tick):
    server.polls = [(202, {}), (500, {})]
    server.made(ONE)
    with pytest.raises(ServerFault):
        tick.rows("Patient")
    assert server.paths("DELETE") == ["/status/1"]
    assert tick.rows("Patient") == [ONE]
    assert len([path for path in server.paths() if "$export" in path]) == 2


def test_an_export_that_fails_again_and_again_is_refused_in_the_end(server, tick):
    server.answers["/status/1"] = 500, {}
    for _ in range(export.MOST_FAILURES - 1):
        with pytest.raises(ServerFault):
            tick.rows("Patient")
    with pytest.raises(Refused, match="has failed to make the export 10 times: answered 500"):
        tick.rows("Patient")
    assert len([path for path in server.paths() if "$export" in path]) == export.MOST_FAILURES


@pytest.mark.parametrize("status", [404, 410])
def test_an_export_that_has_expired_is_begun_anew_once(server, tick, status):
    server.polls = [(status, {}), (202, {})]
    server.made(ONE)
    assert tick.rows("Patient") == [ONE]
    server.polls = [(status, {})] * 2
    with pytest.raises(Refused, match="ehr: has dropped an export, and the one begun anew: answered"):
        tick.rows("Observation")


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_file_whose_signed_address_has_expired_is_asked_for_by_another_export(server, elsewhere, tick, status):
    server.made(ONE, url=f"{elsewhere.url}/files/0")
    server.manifest["requiresAccessToken"] = False
    elsewhere.made(ONE)
    elsewhere.answers["/files/0"] = 503, {}
    with pytest.raises(Unavailable):
        tick.rows("Patient")
    elsewhere.answers["/files/0"] = status, {}
    server.started = 202, {"Content-Location": "/status/2"}
    manifest = json.dumps(server.manifest).replace("/files/0", "/files/0?signed=anew")
    server.answers["/status/2"] = 200, {"Content-Type": "application/json"}, manifest.encode()

    def signed(handler):
        return (200, {}, elsewhere.files["/files/0"]) if "anew" in handler.path else (status, {})

    elsewhere.answers["/files/0"] = signed
    assert tick.rows("Patient") == [ONE]
    elsewhere.answers["/files/0"] = status, {}
    with pytest.raises(Refused, match=f"answered {status} to an export's file .* may have expired"):
        tick.rows("Observation", "Patient")


def test_an_export_without_end_is_given_up(server, tick, monkeypatch):
    monkeypatch.setattr(export, "LONGEST_EXPORT", 100)
    server.polls = [(202, {})] * 100
    with pytest.raises(Refused, match="has not made the export"):
        tick.rows("Patient")
    assert tick.waits == [1, 2, 4, 8, 16, 32, 60]
    assert server.paths("DELETE") == ["/status/1"]


def test_an_export_without_end_is_given_up_however_often_the_worker_was_stopped_meanwhile(server, tick):
    server.polls = [(202, {})] * 3
    tick.stop_at = 1
    with pytest.raises(Interrupted):
        tick.rows("Patient")
    (begun,) = tick.folder.rglob("status.json")
    os.utime(begun, (0, 0))
    tick.stop_at = 10**6
    with pytest.raises(Refused, match="has not made the export"):
        tick.rows("Patient")
    assert len(tick.waits) == 1


def test_a_server_that_does_not_wait_an_hour_for_a_poll_is_asked_within_it(server, tick):
    server.polls = [(202, {"Retry-After": "999999999"}), (202, {"Retry-After": "0"})]
    server.made(ONE)
    tick.rows("Patient")
    assert tick.waits == [3600, 1]


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_server_without_exports_is_told_so(server, tick, status):
    server.started = status, {}
    with pytest.raises(Refused, match=f"begins no export: answered {status}.*whether it offers"):
        tick.rows("Patient")


@pytest.mark.parametrize(
    ("started", "said"),
    [
        ((200, {"Content-Location": "/status/1"}), "answered 200 to an export"),
        ((202, {}), "answered 202 to an export"),
        ((202, {"Content-Location": "http://127.0.0.2/status"}), "on another origin"),
        ((202, {"Content-Location": "http://[/"}), "on another origin"),
    ],
)
def test_an_export_whose_place_is_not_told_is_refused(server, tick, started, said):
    server.started = started
    with pytest.raises(Refused, match=said):
        tick.rows("Patient")
    assert len(server.seen) == 1


def test_a_file_elsewhere_gets_no_token_and_is_refused_if_it_needs_one(server, elsewhere, tick):
    server.made(ONE, url=f"{elsewhere.url}/files/0")
    elsewhere.made(ONE)
    with pytest.raises(Refused, match="another origin, which gets no token"):
        tick.rows("Patient")
    assert elsewhere.seen == []
    server.manifest["requiresAccessToken"] = False
    assert tick.rows("Patient") == [ONE]
    assert elsewhere.seen == [("GET", "/files/0", None)]


def test_a_public_file_of_the_servers_own_gets_no_token_either(server, tick):
    server.made(ONE)
    server.manifest["requiresAccessToken"] = False
    assert tick.rows("Patient") == [ONE]
    assert ("GET", "/files/0", None) in server.seen


@pytest.mark.parametrize("claim", ["false", None, 0])
def test_what_is_not_said_plainly_needs_the_token(server, elsewhere, tick, claim):
    server.made(ONE, url=f"{elsewhere.url}/files/0")
    server.manifest["requiresAccessToken"] = claim
    with pytest.raises(Refused, match="another origin"):
        tick.rows("Patient")
    assert elsewhere.seen == []


def test_a_file_that_would_travel_unencrypted_is_refused(server, tick):
    server.made(ONE, url="http://files.example/0")
    server.manifest["requiresAccessToken"] = False
    with pytest.raises(Refused, match="unencrypted"):
        tick.rows("Patient")


@pytest.mark.parametrize("public", [True, False])
def test_a_redirect_to_another_origin_is_not_followed(server, elsewhere, tick, public):
    path = server.made(ONE)
    server.manifest["requiresAccessToken"] = not public
    server.answers[path] = 302, {"Location": f"{elsewhere.url}/files/0"}
    with pytest.raises(Refused, match="redirects to"):
        tick.rows("Patient")
    assert elsewhere.seen == []


def test_a_relative_address_of_a_file_is_the_servers(server, tick):
    server.made(ONE, url="../files/0")
    assert tick.rows("Patient") == [ONE]


def test_a_file_that_is_forbidden_is_a_matter_of_the_auth(server, tick):
    server.answers[server.made(ONE)] = 403, {}
    with pytest.raises(Unauthorized):
        tick.rows("Patient")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transactionTime": None}, "without a transactionTime"),
        ({"transactionTime": "2026-11-27T02:00:00"}, "without a transactionTime"),
        ({"output": []}, None),
        ({"output": None}, "without a list of output"),
        ({"output": {}}, "without a list of output"),
        ({"deleted": {}}, "without a list of deleted"),
        ({"output": "x"}, "without a list of output"),
        ({"output": [{"type": "Patient"}]}, "without an http URL"),
        ({"output": [{"type": "Patient", "url": "file:///etc/passwd"}]}, "without an http URL"),
        ({"output": [{"url": "/files/0"}]}, "without a type"),
        ({"output": [{"type": "Observation", "url": "/files/0"}]}, "asked to export Patient only, and exported Obs"),
        ({"link": [{"relation": "next", "url": "/status/1"}]}, "do not end"),
        ({"resourceType": "Patient"}, "no manifest"),
    ],
)
def test_a_manifest_that_cannot_be_believed_is_refused_and_the_export_given_back(server, tick, change, said):
    server.made(ONE)
    server.manifest |= change
    if said is None:
        assert tick.rows("Patient") == []
        return
    with pytest.raises(Refused, match=said):
        tick.rows("Patient")
    assert server.paths("DELETE") == ["/status/1"]
    assert not any(path.startswith("/files") for path in server.paths())


def test_a_manifest_of_several_pages_is_read_to_its_end_and_the_earliest_time_counts(server, tick):
    server.made(ONE)
    first = {**server.manifest, "link": [{"relation": "next", "url": "/status/2"}]}
    server.polls = [(200, {"Content-Type": "application/json"}, json.dumps(first).encode())]
    server.manifest = {"transactionTime": "2026-11-27T00:59:59Z", "requiresAccessToken": True}
    server.made(TWO)
    export = tick.export("Patient")
    assert list(export) == [ONE, TWO]
    assert export.time == "2026-11-27T00:59:59Z"


def test_a_file_that_is_listed_twice_is_given_once(server, tick):
    server.made(ONE)
    server.manifest["output"] *= 2
    first = {**server.manifest, "link": [{"relation": "next", "url": "/status/2"}]}
    server.polls = [(200, {"Content-Type": "application/json"}, json.dumps(first).encode())]
    assert tick.rows("Patient") == [ONE]
    assert server.paths().count("/files/0") == 1


@pytest.mark.parametrize("body", [b"", b'{"resourceType":"Patient"}\n{"resourceType":"Pat'])
def test_a_file_that_may_have_broken_off_is_waited_for(server, tick, body):
    path = server.made(ONE, TWO)
    del server.manifest["output"][0]["count"]
    whole = server.files[path]

    server.answers[path] = 200, {"Content-Type": "application/fhir+ndjson"}, body, "none"
    with pytest.raises(Unavailable):
        tick.rows("Patient")
    del server.answers[path]
    server.files[path] = whole
    assert tick.rows("Patient") == [ONE, TWO]


def in_parts(body, size):
    """Compressed as by who appends to a file, or as BGZF is."""
    parts = [gzip.compress(body[at : at + size]) for at in range(0, len(body), size)]
    return 200, {"Content-Type": "application/fhir+ndjson", "Content-Encoding": "gzip"}, b"".join(parts)


def test_a_file_may_be_compressed_in_as_many_parts_as_it_is_large(server, tick):
    many = [{**ONE, "id": str(number)} for number in range(10_000)]
    path = server.made(*many)
    server.answers[path] = in_parts(server.files[path], 2**11)
    assert tick.rows("Patient") == many
    server.answers[path] = in_parts(server.files[path], 100)
    with pytest.raises(Unavailable):
        tick.rows("Patient", since=TIME)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_a_file_of_nothing_is_one(server, tick, coding):
    server.made(ONE)
    server.manifest["output"][0]["count"] = 0
    server.answers["/files/0"] = 200, {"Content-Type": "application/fhir+ndjson", "Content-Encoding": coding}
    assert tick.rows("Patient") == []


def test_a_file_that_is_whole_and_wrong_at_each_try_is_given_up(server, tick):
    tick.retries = 2
    path = server.made(ONE)
    server.manifest["output"][0]["count"] = 2
    with pytest.raises(Refused, match="has 1 of the 2 lines"):
        tick.rows("Patient")
    assert server.paths().count(path) == 3
    assert server.paths("DELETE") == ["/status/1"]


def test_a_number_that_cannot_be_exact_is_refused_with_a_reason(server, tick):
    path = server.made(SEEN)
    server.files[path] = b'{"resourceType":"Observation","valueQuantity":{"value":0e99999999999999999999}}'
    with pytest.raises(Refused, match="ehr: an export's file has a line that is JSON with a number whose exponent"):
        tick.rows("Observation")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"resourceType":"Patient"}\n', "has 1 of the 2 lines"),
        (b'{"resourceType":"Patient"}\n{"resourceType":"Pat', "line that is cut or no JSON, number 2"),
        (b'{"resourceType":"Patient"}\n' * 3, "more than the 2 lines"),
        (b'{"resourceType":"Patient"}\n{"resourceType":"Group"}\n', "something else in line 2"),
        (b'{"resourceType":"Patient"}\n[]\n', "something else in line 2"),
        (b'{"resourceType":"Patient","x":"' + b"x" * 2**20, "bytes in a line"),
    ],
    ids=["short", "cut", "long", "another type", "no resource", "long line"],
)
def test_a_file_that_is_not_what_the_manifest_says_is_never_taken_for_it(server, tick, body, said):
    path = server.made(ONE, TWO)
    server.files[path] = body
    with pytest.raises(Refused, match=said):
        list(tick.ehr(max_body_mib=1).export("Patient"))
    assert list(tick.folder.rglob("*.ndjson")) == []


def test_a_file_that_breaks_off_is_fetched_again(server, tick):
    tick.retries = 2
    path = server.made(ONE, TWO)
    whole = server.files[path]
    cuts = [len(whole) - 9, 12]

    def answer(handler):
        if cuts:
            handler._say(200, {}, whole[: cuts.pop()], length=len(whole))
            handler.close_connection = True
            return 0, {}
        del server.answers[path]
        return 200, {}, whole

    server.answers[path] = lambda handler: answer(handler)
    assert tick.rows("Patient") == [ONE, TWO]
    assert server.paths().count(path) == 3


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_lines_may_be_blank_end_in_crlf_or_in_nothing_and_begin_with_a_mark(server, tick, mark):
    path = server.made(ONE, TWO)
    server.files[path] = mark + b"\r\n".join([json.dumps(ONE).encode(), b"", json.dumps(TWO).encode()])
    assert tick.rows("Patient") == [ONE, TWO]


def test_a_log_in_page_is_no_file(server, tick):
    server.answers[server.made(ONE)] = 200, {"Content-Type": "text/html"}, b"<html>"
    with pytest.raises(Unavailable, match="log-in page"):
        tick.rows("Patient")


@pytest.mark.parametrize("kind", ["text/html", "application/fhir+ndjson"])
def test_a_connection_whose_file_is_not_taken_is_closed(server, tick, kind):
    path = server.made(ONE, TWO)
    is_closed = threading.Event()

    def answer(handler):
        handler._say(200, {"Content-Type": kind}, b"<html>\n", length=2**20)
        handler.connection.settimeout(5)
        with suppress(ConnectionResetError):
            handler.rfile.read(1)
        is_closed.set()
        handler.close_connection = True
        return 0, {}

    server.answers[path] = answer
    with pytest.raises(BackendError):
        tick.rows("Patient")
    assert is_closed.wait(5)


def test_a_file_without_end_is_given_up(server, tick, monkeypatch):
    monkeypatch.setattr(lines, "MOST_BYTES", 1000)
    path = server.made(ONE)
    del server.manifest["output"][0]["count"]
    server.files[path] = b'{"resourceType":"Patient"}\n' * 1000
    with pytest.raises(Refused, match="1000 in all"):
        tick.rows("Patient")


def test_a_delivery_without_a_folder_of_its_own_exports_nothing(server, tick):
    tick.folder = None
    with pytest.raises(DeliveryError, match="job with a schedule"):
        tick.rows("Patient")
    assert server.seen == []


def test_many_rows_that_ask_the_same_get_one_export(server, tick):
    server.made(ONE)
    ehr = tick.ehr()
    found = []
    threads = [threading.Thread(target=lambda: found.append(list(ehr.export("Patient")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[ONE]] * 8
    assert len([path for path in server.paths() if "$export" in path]) == 1


def test_what_was_refused_to_one_row_is_not_asked_for_by_all_others(server, tick):
    server.started = 404, {}
    ehr = tick.ehr()
    for _ in range(3):
        with pytest.raises(Refused, match="begins no export") as refused:
            list(ehr.export("Patient"))
        assert refused.value.status == 404
    assert len(server.seen) == 1


def test_a_server_is_not_asked_whether_it_still_answers_by_another_export(server, tick):
    server.made(ONE)
    backend = tick.backend()
    ehr = backend.open(Meter(), threading.Event(), tick.folder).at(RowKey("d" * 64, 2))
    assert list(ehr.export("Patient")) == [ONE]
    before = len(server.seen)
    assert not backend.still_answers(Meter(), threading.Event())
    assert len(server.seen) == before
