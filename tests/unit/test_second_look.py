import threading

import pytest
from fake_backend import FakeCredential, answer, opened, opened_fhir

from worker import second_look
from worker.errors import Refused


def statement(release):
    return answer({"resourceType": "CapabilityStatement", "fhirVersion": release})


class Patience(threading.Event):
    """A wish to stop that comes after so many waits."""

    def __init__(self, waits=5):
        super().__init__()
        self.waited, self._waits = [], waits

    def wait(self, timeout=None):
        self.waited.append(timeout)
        return len(self.waited) >= self._waits


def warnings(events):
    return [each for each in events if each["log_level"] == "warning"]


def test_a_server_of_another_version_is_told_in_the_log(capture_log):
    second_look.look([opened_fhir([statement("5.0.0")]).backend], Patience())
    (told,) = warnings(capture_log)
    assert told["event"] == "a backend is not what its settings say"
    assert (told["backend"], told["reason"].partition(":")[0]) == ("ehr", "speaks FHIR 5.0.0, not R4")


@pytest.mark.parametrize(
    "said", [statement("4.0.1"), answer({"resourceType": "CapabilityStatement"}), answer(status=404)]
)
def test_one_that_speaks_as_configured_or_says_nothing_is_not(capture_log, said):
    patience = Patience()
    second_look.look([opened_fhir([said]).backend, opened([]).backend], patience)
    assert warnings(capture_log) == []
    assert patience.waited == []


def test_one_that_is_down_is_asked_again_and_the_others_are_not(capture_log):
    up, down = (
        opened_fhir([statement("4.0.1")]),
        opened_fhir([answer(status=503), answer(status=503), statement("3.0.2")]),
    )
    patience = Patience()
    second_look.look([down.backend, up.backend], patience)
    assert patience.waited == [60, 60]
    assert len(warnings(capture_log)) == 1


def test_a_worker_that_stops_asks_no_more():
    down = opened_fhir(lambda _: answer(status=503))
    second_look.look([down.backend], Patience(waits=2))
    assert len(down.transport.requests) == 2


def test_a_token_is_shown_only_if_the_server_wants_one(capture_log):
    ehr = opened_fhir([answer(status=401), statement("4.3.0")], credential=FakeCredential())
    second_look.look([ehr.backend], Patience())
    assert [request.headers.get("Authorization") for request in ehr.transport.requests] == [None, "Bearer t1"]
    assert len(warnings(capture_log)) == 1


def test_what_was_found_is_not_asked_for_again_where_something_is_not_valid():
    ehr = opened_fhir([statement("4.0.1"), answer(status=422)])
    second_look.look([ehr.backend], Patience())
    with pytest.raises(Refused, match="422"):
        ehr.at().create({"resourceType": "Patient"})
    assert len(ehr.transport.requests) == 2


def test_that_a_server_says_what_it_is_does_not_mean_that_it_answers():
    ehr = opened_fhir([statement("4.0.1")])
    second_look.look([ehr.backend], Patience())
    assert not ehr.backend.still_answers(ehr.meter, ehr.stop)
