import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_backend import BASE, answer, opened

from worker.backends.shared import Question, Shared
from worker.errors import Refused, Unavailable


def plans(request):
    return answer({"path": request.url.rpartition("/api/")[2]})


def test_rows_that_ask_for_the_same_are_answered_by_one_call():
    billing = opened(plans)
    first, second = (billing.at(line).get("/plans", params={"id": "7"}, shared=True) for line in (2, 3))
    assert first == second == {"path": "plans?id=7"}
    assert first is not second
    assert billing.calls == 1


def test_without_shared_each_row_asks():
    billing = opened(plans)
    for line in (2, 3):
        billing.at(line).get("/plans")
    assert billing.calls == 2


def test_another_path_parameter_or_header_is_another_question():
    billing = opened(plans)
    for how in ({}, {"params": {"id": "7"}}, {"params": {"id": ["7", "8"]}}, {"headers": {"X-Tenant": "north"}}):
        for path in ("/plans", "/plan"):
            for _ in range(2):
                billing.at().get(path, shared=True, **how)
    assert billing.calls == 8


def test_parameters_that_are_sent_alike_are_alike():
    billing = opened(plans)
    for params in ({"id": "7", "x": None}, [("id", "7")]):
        billing.at().get("plans/", params=params, shared=True)
    billing.at().get("/plans", params={"id": "7"}, shared=True)
    assert billing.calls == 1
    for value in (1, True):
        billing.at().get("/plans", params={"id": value}, shared=True)
    assert billing.calls == 3


def test_rows_in_flight_wait_for_the_one_that_asks():
    asked, go_on = threading.Event(), threading.Event()

    def slow(_):
        asked.set()
        go_on.wait(10)
        return answer({"a": 1})

    billing = opened(slow)
    with ThreadPoolExecutor(4) as pool:
        rows = [pool.submit(billing.at(2).get, "/plans", shared=True)]
        assert asked.wait(10)
        rows += [pool.submit(billing.at(line).get, "/plans", shared=True) for line in (3, 4, 5)]
        go_on.set()
        assert [row.result(10) for row in rows] == [{"a": 1}] * 4
    assert billing.calls == 1


def test_an_error_is_for_those_who_wait_only():
    billing = opened([answer(status=404), answer({"a": 1})])
    with pytest.raises(Refused):
        billing.at().get("/plans", shared=True)
    assert billing.at().get("/plans", shared=True) == {"a": 1}


def test_who_waits_for_an_error_gets_one_of_its_own():
    shared, question = Shared(), Question.of("plans", None, None)
    asked, go_on = threading.Event(), threading.Event()
    fault = Unavailable("billing", "answered 503", 503, retry_after=7)

    def ask():
        asked.set()
        go_on.wait(10)
        raise fault

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(shared.get, question, ask)
        assert asked.wait(10)
        other = pool.submit(shared.get, question, ask)
        threading.Timer(0.05, go_on.set).start()
        errors = [leader.exception(10), other.exception(10)]
    assert [(str(each), each.retry_after) for each in errors] == [("billing: answered 503", 7)] * 2
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("written", "is_asked_again"),
    [
        ("/clients/7", True),
        ("clients/7/", True),
        ("/clients", True),
        ("/clients/7/plans/1", True),
        ("", True),
        ("/clients/70", False),
        ("/clients/8/plans", False),
        ("/orders", False),
    ],
)
def test_a_write_at_above_or_below_a_path_makes_the_next_row_ask(method, written, is_asked_again):
    billing = opened(plans)
    billing.at().get("/clients/7", shared=True)
    billing.at().request(method, written)
    billing.at().get("/clients/7", shared=True)
    assert billing.calls == (3 if is_asked_again else 2)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("/clients?id=7", "/clients"),
        ("/clients/?id=7", "/clients/7?force=1"),
        ("/clients", "/clients?force=1"),
        (f"{BASE}/clients", "/clients"),
        ("/clients", f"{BASE}/clients?force=1"),
        ("/clients", BASE),
        ("/wards/m%C3%BC", "/wards/mü"),
        ("/wards/mü", "/wards/m%c3%bc/beds"),
    ],
)
def test_a_path_is_the_same_however_it_is_written(asked, written):
    billing = opened(plans)
    billing.at().get(asked, shared=True)
    billing.at().put(written)
    billing.at().get(asked, shared=True)
    assert billing.calls == 3


def test_queries_in_paths_are_different_questions():
    billing = opened(plans)
    for path in ("/clients?id=7", "/clients?id=8", "/clients", "/clients?id=7"):
        billing.at().get(path, shared=True)
    assert billing.calls == 3


def test_a_write_that_fails_may_have_been_done():
    billing = opened([answer({"a": 1}), answer(status=400), answer({"a": 2})])
    billing.at().get("/plans", shared=True)
    with pytest.raises(Refused):
        billing.at().put("/plans", json={})
    assert billing.at().get("/plans", shared=True) == {"a": 2}


def test_what_was_asked_before_a_write_is_not_remembered_after_it():
    shared, question = Shared(), Question.of("plans", None, None)

    def ask():
        shared.wrote("plans")
        return b"old"

    assert shared.get(question, ask) == b"old"
    assert shared.get(question, lambda: b"new") == b"new"


def test_memory_is_bounded_and_keeps_what_was_wanted_last():
    shared = Shared(most_bytes=3 * 2000)
    asked = []

    def get(name):
        return shared.get(Question.of(name, None, None), lambda: asked.append(name) or b"x" * 1000)

    for name in ("a", "b", "c", "a", "d", "a", "b"):
        get(name)
    assert asked == ["a", "b", "c", "d", "b"]
    shared.wrote("")
    assert (shared._bytes, dict(shared._index)) == (0, {})


def test_an_answer_larger_than_the_memory_is_passed_on():
    shared = Shared(most_bytes=100)
    assert shared.get(Question.of("a", None, None), lambda: b"x" * 1000) == b"x" * 1000
    assert shared._bytes == 0


def test_an_empty_answer_is_none():
    billing = opened(lambda _: answer(status=204))
    assert billing.at().get("/plans", shared=True) is billing.at().get("/plans", shared=True) is None
    assert billing.calls == 1


def test_each_delivery_asks_for_itself():
    billing = opened(plans)
    for _ in range(2):
        session = billing.backend.open(billing.meter, billing.stop)
        session.at(None).get("/plans", shared=True)
    assert billing.calls == 2
