import json

import pytest
import requests
from fake_backend import answer, opened

from worker.errors import Refused, ServerFault, Unauthorized, Unavailable


def test_a_get_returns_the_json_below_the_backends_url():
    billing = opened([answer({"name": "gold"})])
    assert billing.at().get("/plans", params={"client_id": "7"}) == {"name": "gold"}
    assert billing.transport.urls == ["/plans?client_id=7"]
    assert billing.calls == 1


def test_an_empty_answer_is_none():
    billing = opened([answer(status=204), answer(b"")])
    assert billing.at().delete("plans/1") is None
    assert billing.at().get("plans/1") is None


@pytest.mark.parametrize("shared", [False, True])
def test_a_long_number_keeps_its_digits(shared):
    billing = opened([answer(b'{"account":123456789012345678901234567890,"balance":1.5}')])
    account = billing.at().get("/accounts/1", shared=shared)
    assert account == {"account": 123456789012345678901234567890, "balance": 1.5}


@pytest.mark.parametrize("shared", [False, True])
def test_a_byte_order_mark_before_the_json_is_passed_over(shared):
    billing = opened([answer(b'\xef\xbb\xbf{"name":"gold"}')])
    assert billing.at().get("/plans/1", shared=shared) == {"name": "gold"}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sent_in", ["iso-8859-2", "utf-8"])
def test_json_in_an_encoding_of_old_is_read_as_declared_unless_it_is_utf_8_all_the_same(shared, sent_in):
    body = '{"name":"Dvořák"}'.encode(sent_in)
    billing = opened([answer(body, Content_Type="application/json; charset=ISO-8859-2")])
    assert billing.at().get("/clients/1", shared=shared) == {"name": "Dvořák"}


@pytest.mark.parametrize("charset", ["windows-1253", "iso-8859-99", "utf-7", "hex"])
def test_json_that_is_in_no_encoding_that_it_could_be_in_is_broken(charset):
    billing = opened(lambda _: answer(b'{"a":"\xff\xd2"}', Content_Type=f'application/json; charset="{charset}"'))
    with pytest.raises(ServerFault, match="broken JSON"):
        billing.at().get("/clients/1")


def test_a_reason_in_an_encoding_of_old_is_told():
    said = '{"detail":"neznámý klient"}'.encode("windows-1250")
    billing = opened([answer(said, 404, Content_Type="application/problem+json;charset=windows-1250")])
    with pytest.raises(Refused, match="neznámý klient"):
        billing.at().get("/clients/1")


def test_a_post_carries_the_rows_idempotency_key_and_json():
    billing = opened([answer({}, 201), answer({}, 201)])
    job = billing.at(line=9)
    job.post("/plans", json={"name": "gold"})
    job.post("/plans", json={"name": "tin"})
    first, second = billing.transport.requests
    assert json.loads(first.body) == {"name": "gold"}
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Idempotency-Key"] == "d" * 32 + "-9"
    assert second.headers["Idempotency-Key"] == "d" * 32 + "-9-2"


def test_a_key_that_the_job_gives_is_kept():
    billing = opened([answer({})])
    billing.at().post("/plans", headers={"idempotency-key": "mine"})
    sent = billing.transport.requests[0].headers
    assert sent["Idempotency-Key"] == "mine"


def test_a_repeated_post_keeps_its_key():
    billing = opened([answer(status=503), answer({"id": 1})])
    assert billing.at().post("/plans", json={}) == {"id": 1}
    assert len({request.headers["Idempotency-Key"] for request in billing.transport.requests}) == 1


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_reads_and_idempotent_writes_carry_no_key(method):
    billing = opened([answer({})])
    getattr(billing.at(), method)("/plans/1")
    assert "Idempotency-Key" not in billing.transport.requests[0].headers


def test_a_request_returns_the_whole_response_without_the_token():
    billing = opened([answer({"a": 1}, ETag="x")])
    response = billing.at().request("get", "/plans")
    assert isinstance(response, requests.Response)
    assert (response.status_code, response.headers["ETag"], response.json()) == (200, "x", {"a": 1})
    assert not response.request.headers


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"title": "No such plan", "detail": "it ended"}, "No such plan: it ended"),
        ({"message": "no plan"}, "no plan"),
        ({"error": "no_plan", "error_description": "none"}, "no_plan: none"),
        ({"error": {"message": "deep"}}, "deep"),
        ({"message": "a\x00b\n c"}, "a b c"),
    ],
)
def test_a_refusal_gives_the_backends_reason(body, reason):
    billing = opened([answer(body, 404)])
    with pytest.raises(Refused) as caught:
        billing.at().get("/plans/1")
    assert str(caught.value) == f"billing: answered 404 {reason}"
    assert caught.value.status == 404


def test_a_long_reason_is_cut():
    billing = opened([answer({"message": "x" * 5000}, 400)])
    with pytest.raises(Refused) as caught:
        billing.at().get("/plans/1")
    assert len(str(caught.value)) < 330


def test_a_web_page_in_place_of_json_is_an_outage():
    billing = opened(lambda _: answer("<html>", Content_Type="text/html; charset=utf-8"), retries=1)
    with pytest.raises(Unavailable, match="a web page instead of JSON"):
        billing.at().get("/plans")
    assert billing.calls == 2


def test_cut_json_is_asked_for_again():
    billing = opened([answer(b'{"a": ', Content_Type="application/json"), answer({"a": 1})])
    assert billing.at().get("/plans") == {"a": 1}


def test_a_byte_order_mark_is_passed_over():
    billing = opened([answer(b'\xef\xbb\xbf{"a": 1}', Content_Type="application/json")])
    assert billing.at().get("/plans") == {"a": 1}


def test_another_content_type_than_json_is_refused():
    billing = opened([answer("a;b", Content_Type="text/csv")])
    with pytest.raises(Refused, match=r"answered text/csv, not JSON: use request\(\)"):
        billing.at().get("/plans")


@pytest.mark.parametrize("status", [404, 405, 302])
def test_any_answer_that_does_not_turn_us_away_is_a_sign_of_life(status):
    assert opened([answer(status=status)]).backend.check() == f"https://backend.example:443 answers ({status})"


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Unauthorized), (407, Unavailable), (500, Unavailable)]
)
def test_a_check_fails_at_once_where_the_backend_turns_us_away_or_is_down(status, error):
    billing = opened([answer(status=status)])
    with pytest.raises(error):
        billing.backend.check()
