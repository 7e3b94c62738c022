import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_server import Fleet, answer, token_of

from worker.auth.endpoint import read_token
from worker.auth.transport import Answer
from worker.errors import BackendError, Unauthorized, Unavailable
from worker.records import Meter

GOOD = {"access_token": "a.b-c_d~e+f/g==", "token_type": "Bearer", "expires_in": 300}
NAMES = [*GOOD, "scope", "error"]


def read(given, scopes=("a", "b")):
    return read_token("hospital", given, sent=10.0, scopes=scopes, default_lifetime=120)


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_token_response_becomes_a_token():
    token = read(answer(**GOOD))
    assert (token.access_token, token.lifetime, token.expires) == (GOOD["access_token"], 300, 310)


def test_a_byte_order_mark_before_a_token_response_is_passed_over():
    good = answer(**GOOD)
    assert read(Answer(good.status, good.headers, b"\xef\xbb\xbf" + good.body)) == read(good)


@pytest.mark.parametrize("token_type", ["bearer", "BEARER"])
def test_the_token_type_may_be_in_any_case(token_type):
    assert read(answer(**GOOD | {"token_type": token_type})).token_type == token_type


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(60, 60), ("60", 60), (59.5, 59.5), (10**30, 86400), ("1e9", 86400), ("Infinity", 86400)]
    + [(senseless, 120) for senseless in (0, -1, 0.5, True, None, "soon", "NaN", "", [], {})],
)
def test_a_senseless_lifetime_becomes_the_default_and_a_huge_one_a_day(expires_in, lifetime):
    assert read(answer(**GOOD | {"expires_in": expires_in})).lifetime == lifetime


def test_a_missing_lifetime_becomes_the_default():
    assert read(answer(**without("expires_in"))).lifetime == 120


@pytest.mark.parametrize(("said", "granted"), [({}, ("a", "b")), ({"scope": ""}, ()), ({"scope": "b c"}, ("b", "c"))])
def test_what_was_granted_is_what_was_asked_unless_the_server_says_otherwise(said, granted):
    assert read(answer(**GOOD | said)).scope == granted


@pytest.mark.parametrize("token_type", ["mac", "DPoP", 1, None])
def test_a_token_of_another_type_is_refused(token_type):
    with pytest.raises(Unauthorized, match="not a bearer token"):
        read(answer(**GOOD | {"token_type": token_type}))


@pytest.mark.parametrize("text", ["two words", "line\r\nX-Other: 1", "é", "=", "a=b"])
def test_a_token_that_may_not_stand_in_a_header_is_refused(text):
    with pytest.raises(Unauthorized, match="may not stand in a header"):
        read(answer(**GOOD | {"access_token": text}))


@pytest.mark.parametrize(
    "body", [b"", b"<html>Back soon</html>", b"[]", b"null", b"{}", b'{"access_token": 7}', b"\xff"]
)
def test_a_good_status_without_a_token_is_an_outage_not_a_refusal(body):
    with pytest.raises(Unavailable, match="not a token response"):
        read(Answer(200, {}, body))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_overloaded_endpoint_is_unavailable(status):
    with pytest.raises(Unavailable) as raised:
        read(answer(status))
    assert (raised.value.status, raised.value.retry_after) == (status, None)


def test_an_error_that_says_it_is_temporary_is_unavailable():
    with pytest.raises(Unavailable):
        read(answer(400, error="temporarily_unavailable"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "99999"}, 300),
        ({"Retry-After": "9" * 400}, 300),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:50 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 13),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:00 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 1),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:50 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
    ],
)
def test_how_long_to_wait_is_read_as_seconds_or_date_within_bounds(headers, seconds):
    with pytest.raises(Unavailable) as raised:
        read(answer(503, headers))
    assert raised.value.retry_after == seconds


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_mistake_in_the_configuration(status):
    with pytest.raises(Unauthorized, match="write the final address as token_url"):
        read(answer(status, {"Location": "https://elsewhere.example/"}))


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (401, "invalid_client", "check client_id, client_auth and the secret, key or certificate"),
        (401, "unauthorized_client", "check the secret or key"),
        (400, "invalid_scope", "check scopes"),
        (400, "invalid_target", "check resource and audience"),
        (400, "unsupported_grant_type", "client credentials grant"),
        (403, "access_denied", "check this auth's settings"),
    ],
)
def test_a_refusal_names_the_servers_code_and_says_what_to_check(status, code, advice):
    with pytest.raises(Unauthorized, match=f"answered {status}, {code}; .*{advice}"):
        read(answer(status, error=code, error_description="prose"))


def test_an_address_without_a_token_endpoint_is_a_mistake_in_the_configuration():
    with pytest.raises(Unauthorized, match="answered 404; check token_url"):
        read(answer(404))


def test_an_error_with_a_good_status_is_an_error():
    with pytest.raises(Unauthorized, match="invalid_scope"):
        read(answer(200, error="invalid_scope"))


@pytest.mark.parametrize("code", ["two words", "x" * 61, 'quo"te', "line\nbreak", 7, None, ""])
def test_an_error_code_that_is_none_is_not_quoted(code):
    with pytest.raises(Unauthorized, match="answered 400, an error without a proper name;"):
        read(answer(400, error=code))


_scalar = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=20)


@given(
    status=st.integers(100, 599),
    document=st.fixed_dictionaries({}, optional={name: _scalar | st.just(GOOD.get(name)) for name in NAMES}),
)
def test_whatever_the_answer_it_is_a_usable_token_or_a_decision(status, document):
    try:
        token = read(Answer(status, {}, json.dumps(document).encode()))
    except BackendError:
        return
    assert 1 <= token.lifetime <= 86400
    assert token.access_token.isascii()


def test_a_request_says_what_the_settings_say():
    fleet = Fleet()
    worker = fleet.worker(scopes=["b", "a"], audience="api", resource="https://ehr.example", extra={"tenant": "north"})
    token_of(worker)
    (request,) = fleet.server.requests
    assert request.form == {
        "grant_type": "client_credentials",
        "scope": "b a",
        "audience": "api",
        "resource": "https://ehr.example",
        "tenant": "north",
    }
    assert request.url == "https://idp.example/token"


def test_scopes_that_were_not_granted_are_reported_once(capture_log):
    fleet = Fleet()
    fleet.server.script = [answer(**GOOD, scope="a c")] * 2
    worker = fleet.worker(scopes=["a", "b"])
    assert worker.token(Meter()).scope == ("a", "c")
    fleet.clock.now += 300
    token_of(worker)
    assert [(entry["event"], entry["missing"]) for entry in capture_log] == [
        ("fewer scopes were granted than asked for", "b")
    ]
