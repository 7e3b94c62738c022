import pytest
import requests
from fake_backend import BASE, FakeCredential, answer, opened

from worker.backends.transport import ClosedMeanwhile
from worker.errors import Interrupted, LeftAlone, Refused, Unauthorized, Unavailable


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_unavailable_backend_is_asked_again_with_growing_pauses(status):
    billing = opened(lambda _: answer(status=status), retries=3)
    with pytest.raises(Unavailable) as caught:
        billing.at().get("/plans")
    assert caught.value.status == status
    assert billing.calls == 4
    assert billing.time.slept == [0.5, 1, 2]


def test_a_read_is_sent_again_at_once_where_a_kept_connection_was_closed_and_both_count():
    billing = opened([ClosedMeanwhile(), answer({"plan": 1})])
    assert billing.at().get("/plans") == {"plan": 1}
    assert (billing.calls, billing.time.slept) == (2, [])


def test_a_write_that_may_have_been_done_is_not_sent_again_behind_the_back_of_who_wrote_it():
    billing = opened([ClosedMeanwhile()], retries=0)
    with pytest.raises(Unavailable):
        billing.at().post("/plans", {})
    assert billing.calls == 1


@pytest.mark.parametrize("header", [{"X": "a\nb"}, {"X": "ž"}, {"X": 5}, {"X": None}, {"X ": "a"}, {"X-ž": "a"}])
def test_a_header_that_cannot_be_sent_is_told_and_not_quoted(header):
    billing = opened([])
    with pytest.raises(Refused, match="a header cannot be sent: each name has to be") as caught:
        billing.at().get("/plans", headers=header)
    assert "ž" not in str(caught.value)


def test_a_request_that_cannot_be_sent_says_nothing_of_a_backend_that_is_left_alone():
    billing = opened(lambda _: answer(status=503), retries=0)
    for _ in range(11):
        billing.time.now += 1
        with pytest.raises(Unavailable):
            billing.at().get("/plans")
    asked = billing.calls
    with pytest.raises(Refused):
        billing.at().get("/plans", headers={"X": "a\nb"})
    with pytest.raises(LeftAlone):
        billing.at().get("/plans")
    assert billing.calls == asked


@pytest.mark.parametrize("status", [400, 404, 409, 422, 501, 505])
def test_a_refusal_is_not_asked_again(status):
    billing = opened([answer(status=status)])
    with pytest.raises(Refused):
        billing.at().get("/plans")


def test_a_retry_waits_as_long_as_the_backend_says():
    billing = opened([answer(status=429, Retry_After="7"), answer({})])
    billing.at().get("/plans")
    assert billing.time.slept[0] == 7


def test_a_date_in_retry_after_counts_from_the_backends_own_clock():
    dates = {"Date": "Mon, 23 Nov 2026 02:00:00 GMT", "Retry_After": "Mon, 23 Nov 2026 02:00:20 GMT"}
    billing = opened([answer(status=503, **dates), answer({})])
    billing.at().get("/plans")
    assert billing.time.slept[0] == 20


def test_a_pause_longer_than_half_a_minute_puts_the_delivery_back_at_once():
    billing = opened([answer(status=503, Retry_After="31")])
    with pytest.raises(Unavailable) as caught:
        billing.at().get("/plans")
    assert caught.value.retry_after == 31
    assert billing.time.slept == []


def test_a_pause_of_years_is_one_of_an_hour():
    billing = opened([answer(status=503, Retry_After="9" * 30), answer({})], retries=0)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            billing.at().get("/plans")
        assert caught.value.retry_after == 3600
    billing.time.now += 3600
    assert billing.at().get("/plans") == {}


def test_stopping_ends_a_wait():
    billing = opened([answer(status=503)])
    billing.stop.set()
    with pytest.raises(Interrupted):
        billing.at().get("/plans")


def test_a_stopping_worker_lets_a_call_through_that_need_not_wait():
    billing = opened([answer({})])
    billing.stop.set()
    assert billing.at().get("/plans") == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (requests.ReadTimeout("url: /plans?client_id=7"), "did not answer in time (timeout = 10)"),
        (requests.ConnectTimeout("url: /plans?client_id=7"), "accepted no connection within 10 s"),
        (requests.ConnectionError("url: /plans?client_id=7"), "could not be asked: ConnectionError"),
        (
            requests.exceptions.SSLError(60, "self-signed certificate"),
            "could not be asked: self-signed certificate; check url, its certificate's names and dates, and ca_file",
        ),
    ],
)
def test_a_network_error_is_unavailable_and_says_nothing_of_the_query(error, said):
    billing = opened(lambda _: error, retries=0)
    with pytest.raises(Unavailable) as caught:
        billing.at().get("/plans", params={"client_id": "7"})
    assert str(caught.value) == f"billing: https://backend.example:443 {said}"
    assert caught.value.__cause__ is error


def test_a_revoked_token_is_replaced_once_and_the_same_call_sent_again():
    billing = opened([answer(status=401), answer({"a": 1})], credential=FakeCredential())
    assert billing.at().post("/plans", json={"b": 2}) == {"a": 1}
    first, second = billing.transport.requests
    assert (first.headers["Authorization"], second.headers["Authorization"]) == ("Bearer t1", "Bearer t2")
    assert first.body == second.body
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


@pytest.mark.parametrize(("replaces", "calls"), [(True, 2), (False, 1)])
def test_a_backend_that_goes_on_saying_401_is_unauthorized(replaces, calls):
    billing = opened(lambda _: answer(status=401), credential=FakeCredential(replaces))
    with pytest.raises(Unauthorized):
        billing.at().get("/plans")
    assert billing.calls == calls


def test_a_403_keeps_the_token():
    billing = opened([answer({"error": "insufficient_scope"}, 403), answer({})], credential=FakeCredential())
    with pytest.raises(Unauthorized, match="insufficient_scope"):
        billing.at().get("/plans")
    billing.at().get("/plans")
    assert billing.transport.requests[1].headers["Authorization"] == "Bearer t1"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/x",
        "https://evil.example/x",
        "http://backend.example/api/x",
        "https://backend.example:444/api/x",
        "https://user@backend.example/api/x",
        "../admin",
        "plans/..",
        "plans/%2e%2e/admin",
        "plans/%2E%2e%2fadmin",
        "/\\evil.example",
        "plans/1#x",
        "plans/1\r\nX: y",
        "plans/a b",
        "file:///etc/passwd",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_unquoted_and_not_called(path):
    billing = opened([])
    with pytest.raises(Refused) as caught:
        billing.at().get(path)
    assert path not in str(caught.value)
    assert billing.calls == 0


@pytest.mark.parametrize("path", ["plans", "/plans", "https://backend.example/api/plans", f"{BASE}/plans"])
def test_a_path_is_taken_below_the_backends_url(path):
    billing = opened([answer({})])
    billing.at().get(path)
    assert billing.transport.requests[0].url == f"{BASE}/plans"


def test_a_get_follows_a_redirect_on_its_own_origin_with_its_token():
    billing = opened([answer(status=307, Location="/v2/plans"), answer({"a": 1})], credential=FakeCredential())
    assert billing.at().get("/plans") == {"a": 1}
    assert billing.transport.requests[1].url == "https://backend.example/v2/plans"
    assert billing.transport.requests[1].headers["Authorization"] == "Bearer t1"
    assert billing.calls == 2


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/plans?token=x",
        "//evil.example",
        "http://backend.example/api",
        "ftp://x/",
        "http://[x",
        "//backend.example@evil.example/",
        "//evil.example#@backend.example/",
        "//backend.example\\@evil.example/",
    ],
)
def test_a_redirect_to_another_origin_is_refused(location):
    billing = opened([answer(status=302, Location=location)])
    with pytest.raises(Refused, match="redirects to"):
        billing.at().get("/plans")
    assert billing.calls == 1


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
def test_an_answer_that_is_no_redirect_is_not_followed_though_it_names_another_place(status):
    billing = opened([answer(status=status, Location="/api/elsewhere")])
    with pytest.raises(Refused, match=f"answered {status}"):
        billing.at().get("/plans")
    assert billing.calls == 1


def test_a_redirects_fragment_is_not_sent_nor_taken_for_a_host():
    billing = opened([answer(status=302, Location="//backend.example#@evil.example/x"), answer({})])
    billing.at().get("/plans")
    assert billing.transport.requests[1].url == "https://backend.example"


@pytest.mark.parametrize("location", ["/a\\b", "/a/%2e%2e/b"])
def test_a_redirect_that_can_be_read_in_two_ways_is_refused(location):
    billing = opened([answer(status=302, Location=location)])
    with pytest.raises(Refused):
        billing.at().get("/plans")
    assert billing.calls == 1


def test_redirects_without_end_are_refused():
    billing = opened(lambda _: answer(status=302, Location="/api/plans"))
    with pytest.raises(Refused, match="redirected 5 times"):
        billing.at().get("/plans")
    assert billing.calls == 5


def test_a_redirected_write_is_refused():
    billing = opened([answer(status=308, Location="/api/plans")])
    with pytest.raises(Refused, match="redirect that is not followed"):
        billing.at().post("/plans", json={})


def test_a_body_shorter_than_announced_is_asked_for_again():
    billing = opened([answer(b'{"a": 1}', Content_Length="800"), answer({"a": 2})])
    assert billing.at().get("/plans") == {"a": 2}


def test_cookies_are_not_kept():
    billing = opened([answer({}, Set_Cookie="session=1"), answer({})])
    billing.at().get("/plans")
    billing.at().get("/plans")
    assert "Cookie" not in billing.transport.requests[1].headers


def test_a_netrc_file_does_not_override_the_token(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine backend.example login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    billing = opened([answer({}), answer({})])
    billing.at().get("/plans")
    assert "Authorization" not in billing.transport.requests[0].headers


def test_a_header_that_cannot_be_sent_is_refused_without_its_value():
    billing = opened([])
    with pytest.raises(Refused) as caught:
        billing.at().get("/plans", headers={"X-Name": "Novak\r\nX-Evil: 1"})
    assert "Novak" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("method", ["GET /secret HTTP/1.1\r\nX-A:", "", "GÉT", "GET "])
def test_a_method_that_is_none_is_refused_unquoted(method):
    billing = opened([])
    with pytest.raises(Refused, match="the request's method") as caught:
        billing.at().request(method, "/plans")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_pause_that_the_backend_asks_of_one_row_holds_for_the_others(status):
    billing = opened([answer(status=status, Retry_After="20"), answer({})], retries=0)
    with pytest.raises(Unavailable):
        billing.at(line=2).get("/plans")
    billing.at(line=3).get("/plans")
    assert billing.time.slept == [20]
