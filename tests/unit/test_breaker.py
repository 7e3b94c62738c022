import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_backend import Time, answer, opened

from worker.backends.breaker import FAILURES, LONGEST_REST, Breaker
from worker.errors import Interrupted, LeftAlone, Refused, ServerFault, Unavailable

STOP = threading.Event()
DOWN = Unavailable("billing", "answered 503", 503)


class Circuit:
    """A breaker, and calls through it that last no time."""

    def __init__(self):
        self.time = Time()
        self.breaker = Breaker("billing", self.time)

    def call(self, error=None, of=0):
        is_probe = self.breaker.enter(STOP)
        if error:
            self.breaker.failed(error, is_probe=is_probe, of=of)
        else:
            self.breaker.answered()
        if is_probe:
            self.breaker.leave()

    def fail(self, times=FAILURES, error=DOWN, pause=1.0):
        for _ in range(times):
            self.call(error)
            self.time.now += pause


@pytest.fixture
def circuit():
    return Circuit()


def test_a_backend_that_failed_ten_times_in_a_row_is_left_alone(circuit):
    circuit.fail(FAILURES - 1)
    circuit.call(DOWN)
    with pytest.raises(LeftAlone, match="left alone for 5 s: answered 503") as caught:
        circuit.call()
    assert caught.value.retry_after == 5


def test_one_answer_in_between_keeps_the_circuit_closed(circuit):
    for _ in range(5):
        circuit.fail(FAILURES - 1)
        circuit.call()
    assert circuit.breaker.open_until is None


def test_a_fault_shorter_than_two_seconds_is_left_to_the_retries(circuit):
    circuit.fail(5 * FAILURES, pause=0.03)
    assert circuit.breaker.open_until is None
    circuit.time.now += 1
    circuit.call(DOWN)
    assert circuit.breaker.open_until


@pytest.mark.parametrize("status", [408, 425, 429])
def test_a_backend_that_says_it_is_busy_is_up(circuit, status):
    circuit.fail(5 * FAILURES, Unavailable("billing", "busy", status))
    assert circuit.breaker.open_until is None


@pytest.mark.parametrize("status", [None, 500, 502, 504])
def test_no_answer_and_server_errors_say_that_it_is_down(circuit, status):
    circuit.fail(error=Unavailable("billing", "down", status))
    assert circuit.breaker.open_until


FAULT = ServerFault("billing", "answered 500", 500)


def test_one_request_that_the_backend_always_breaks_over_opens_no_circuit(circuit):
    circuit.fail(5 * FAILURES, FAULT)
    assert circuit.breaker.open_until is None


def test_as_many_different_requests_that_it_breaks_over_do(circuit):
    for number in range(FAILURES):
        assert circuit.breaker.open_until is None
        circuit.call(FAULT, of=number)
        circuit.time.now += 1
    assert circuit.breaker.open_until


def test_a_request_that_it_broke_over_before_says_nothing_as_a_probe_and_the_next_one_is_another(circuit):
    circuit.call(FAULT, of=7)
    circuit.fail(FAILURES - 1)
    rest = circuit.breaker.open_until
    circuit.time.now += 60
    circuit.call(FAULT, of=7)
    assert circuit.breaker.open_until == rest
    circuit.call()
    assert circuit.breaker.open_until is None


def test_a_backend_that_breaks_over_whatever_it_is_asked_again_is_left_alone_all_the_same(circuit):
    for number in range(FAILURES):
        circuit.call(FAULT, of=number)
        circuit.time.now += 1
    circuit.time.now += 5
    for number in range(FAILURES):
        circuit.call(FAULT, of=number)
    with pytest.raises(LeftAlone) as rests:
        circuit.call()
    assert rests.value.retry_after == 10


def test_an_answer_in_between_makes_a_fault_count_anew(circuit):
    for number in range(FAILURES):
        circuit.call(FAULT, of=number)
        circuit.call()
    circuit.call(FAULT, of=0)
    circuit.fail(FAILURES - 1)
    assert circuit.breaker.open_until


def test_a_row_that_is_tried_for_ever_does_not_stop_the_rows_of_others():
    billing = opened(lambda request: answer(status=500) if request.url.endswith("bad") else answer({}), retries=4)
    for _ in range(6):
        with pytest.raises(ServerFault):
            billing.at().get("/plans/bad")
        billing.time.now += 30
    assert billing.calls == 30
    assert billing.at(99).get("/plans/good") == {}


def test_a_probe_that_is_answered_closes_the_circuit(circuit):
    circuit.fail()
    circuit.time.now += 5
    circuit.call()
    assert circuit.breaker.open_until is None
    circuit.call()


def test_each_probe_that_fails_doubles_the_rest_up_to_a_minute(circuit):
    circuit.fail(pause=0.5)
    rests = []
    for _ in range(6):
        with pytest.raises(LeftAlone) as caught:
            circuit.call()
        rests.append(round(caught.value.retry_after, 1))
        circuit.time.now += caught.value.retry_after
        circuit.call(DOWN)
    assert rests == [4.5, 10, 20, 40, LONGEST_REST, LONGEST_REST]


def test_the_backend_rests_for_as_long_as_it_says(circuit):
    circuit.fail(pause=0.5)
    circuit.time.now += 5
    circuit.call(Unavailable("billing", "answered 503", 503, retry_after=120))
    with pytest.raises(LeftAlone) as caught:
        circuit.call()
    assert caught.value.retry_after == 120


def test_a_late_answer_of_a_call_from_before_closes_the_circuit(circuit):
    assert circuit.breaker.enter(STOP) is False
    circuit.fail()
    circuit.breaker.answered()
    circuit.call()


def test_a_late_failure_of_a_call_from_before_prolongs_nothing(circuit):
    circuit.fail(pause=0.5)
    circuit.time.now += 4.5
    circuit.breaker.failed(DOWN, is_probe=False)
    assert circuit.breaker.enter(STOP) is True


@pytest.mark.parametrize("error", [None, DOWN], ids=["back", "still down"])
def test_others_wait_for_the_end_of_the_one_probe(circuit, error):
    circuit.fail()
    circuit.time.now += 60
    assert circuit.breaker.enter(STOP) is True
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(circuit.breaker.enter, STOP) for _ in range(4)]
        assert not any(other.done() for other in others)
        if error:
            circuit.breaker.failed(error, is_probe=True)
        else:
            circuit.breaker.answered()
        circuit.breaker.leave()
        for other in others:
            if error:
                assert isinstance(other.exception(5), LeftAlone)
            else:
                assert other.result(5) is False


def test_a_probe_that_came_to_no_end_leaves_its_turn_to_the_next(circuit):
    circuit.fail()
    circuit.time.now += 60
    assert circuit.breaker.enter(STOP) is True
    circuit.breaker.leave()
    assert circuit.breaker.enter(STOP) is True


def test_who_waits_for_a_probe_is_stopped(circuit):
    circuit.fail()
    circuit.time.now += 60
    circuit.breaker.enter(STOP)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        circuit.breaker.enter(stop)


def test_opening_and_closing_are_logged_once_each(circuit, capture_log):
    circuit.fail()
    circuit.time.now += 60
    circuit.call(DOWN)
    circuit.time.now += 60
    circuit.call()
    told = [(each["event"], each["backend"]) for each in capture_log if each["event"].startswith("circuit")]
    assert told == [("circuit opened", "billing"), ("circuit closed", "billing")]


def test_rows_of_a_backend_that_is_down_are_refused_unasked_with_the_reason():
    billing = opened(lambda _: answer(status=503), retries=0)
    for line in range(2, 2 + FAILURES):
        with pytest.raises(Unavailable):
            billing.at(line).get("/plans")
        billing.time.now += 1
    asked = billing.calls
    with pytest.raises(LeftAlone, match="answered 503"):
        billing.at(99).get("/plans")
    assert billing.calls == asked == FAILURES


def test_a_call_whose_repetition_finds_the_circuit_open_ends_with_its_own_reason():
    billing = opened(lambda _: answer(status=503), retries=5)
    for line in (2, 3):
        with pytest.raises(Unavailable) as caught:
            billing.at(line).get("/plans")
        assert not isinstance(caught.value, LeftAlone)
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert billing.calls == FAILURES


def test_a_refusal_by_a_probe_says_that_the_backend_is_back():
    script = [*[answer(status=503)] * FAILURES, answer(status=404), answer({})]
    billing = opened(script, retries=0)
    for _ in range(FAILURES):
        with pytest.raises(Unavailable):
            billing.at().get("/plans")
        billing.time.now += 1
    billing.time.now += 5
    with pytest.raises(Refused):
        billing.at().get("/plans")
    assert billing.at().get("/plans") == {}
