import json
import threading

import pytest
from token_server import Clock, Fleet, answer, on_threads, token_of

from worker.auth.discovery import Discovery
from worker.auth.transport import Answer, Tls
from worker.errors import Unauthorized, Unavailable

ISSUER = "https://idp.example/realms/hospital"
OAUTH = "https://idp.example/.well-known/oauth-authorization-server/realms/hospital"
OPENID = f"{ISSUER}/.well-known/openid-configuration"
SMART = f"{ISSUER}/.well-known/smart-configuration"
TOKEN_URL = "https://tokens.example/token"
NOT_FOUND = Answer(404, {}, b"<html>")
MUTUAL = "https://mtls.example/token"


class Issuer:
    """Answers by address; counts."""

    def __init__(self, **documents):
        self.answers = {}
        self.asked = []

    def __call__(self, request):
        assert not request.form
        self.asked.append(request.url)
        found = self.answers.get(request.url, NOT_FOUND)
        return found() if callable(found) else found


@pytest.fixture
def issuer():
    return Issuer()


@pytest.fixture
def clock():
    return Clock()


def discovery(send, clock=lambda: 0.0, issuer=ISSUER, tls=Tls()):  # noqa: B008 - it is frozen
    return Discovery("hospital", issuer, send=send, timeout=10, tls=tls, clock=clock)


def metadata(issuer=ISSUER, token_endpoint=TOKEN_URL, **more):
    return answer(issuer=issuer, token_endpoint=token_endpoint, **more)


@pytest.mark.parametrize(
    ("where", "asked"), [(OAUTH, [OAUTH]), (OPENID, [OAUTH, OPENID]), (SMART, [OAUTH, OPENID, SMART])]
)
def test_the_three_well_known_addresses_are_asked_in_turn(issuer, where, asked):
    issuer.answers[where] = metadata()
    assert discovery(issuer).token_url() == TOKEN_URL
    assert issuer.asked == asked


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        ("https://idp.example", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]),
        ("https://idp.example/", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]),
        (
            "https://idp.example/a/",
            ["/.well-known/oauth-authorization-server/a", "/a/.well-known/openid-configuration"],
        ),
    ],
)
def test_a_slash_at_the_end_of_an_issuer_is_not_doubled(issuer, given, addresses):
    with pytest.raises(Unauthorized):
        discovery(issuer, issuer=given).token_url()
    assert issuer.asked[:2] == [f"https://idp.example{path}" for path in addresses]


@pytest.mark.parametrize(
    "elsewhere",
    [
        Answer(401, {}, b""),
        Answer(403, {}, b""),
        Answer(302, {"Location": "https://evil.example/"}, b""),
        Answer(200, {}, b"<html>A page for everything</html>"),
        Answer(200, {}, b"[]"),
        Answer(200, {}, b"{}"),
        Answer(204, {}, b""),
    ],
)
def test_what_is_no_metadata_is_passed_over(issuer, elsewhere):
    issuer.answers = {OAUTH: elsewhere, OPENID: metadata()}
    assert discovery(issuer).token_url() == TOKEN_URL


def test_an_issuer_without_metadata_is_a_mistake_in_the_configuration(issuer):
    with pytest.raises(Unauthorized, match="hospital: the issuer has no metadata at its well-known addresses; check"):
        discovery(issuer).token_url()


@pytest.mark.parametrize("other", ["https://evil.example", ISSUER + "/", ISSUER.upper(), None, 7])
@pytest.mark.parametrize("where", [OAUTH, OPENID])
def test_metadata_of_another_issuer_are_not_used(issuer, where, other):
    issuer.answers[where] = metadata(issuer=other)
    with pytest.raises(Unauthorized, match="are another issuer's; write issuer to the letter"):
        discovery(issuer).token_url()


def test_a_fhir_server_names_the_token_endpoint_of_its_own_oauth_server(issuer):
    issuer.answers[SMART] = metadata(issuer="https://another.example")
    assert discovery(issuer).token_url() == TOKEN_URL


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://idp.example/token",
        "https://user@idp.example/",
        "/token",
        "ftp://idp.example",
        "",
        None,
        7,
        ["https://x"],
    ],
)
def test_a_token_endpoint_that_could_give_the_secret_away_is_not_used(issuer, endpoint):
    issuer.answers[OAUTH] = metadata(token_endpoint=endpoint)
    with pytest.raises(Unauthorized, match="name no token endpoint with https; write token_url"):
        discovery(issuer).token_url()


def test_a_client_with_a_certificate_goes_to_the_endpoint_that_asks_for_it(issuer, tmp_path):
    issuer.answers[OAUTH] = metadata(mtls_endpoint_aliases={"token_endpoint": MUTUAL})
    certificate = Tls(client=(tmp_path, tmp_path))
    assert discovery(issuer, tls=certificate).token_url() == MUTUAL
    assert discovery(issuer).token_url() == TOKEN_URL


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_issuer_that_is_down_is_unavailable(issuer, status):
    issuer.answers[OAUTH] = Answer(status, {"Retry-After": "7"}, b"")
    with pytest.raises(Unavailable, match=f"hospital: the issuer answered {status}") as raised:
        discovery(issuer).token_url()
    assert raised.value.retry_after == 7


def test_metadata_are_known_for_an_hour(issuer, clock):
    issuer.answers[OAUTH] = metadata()
    found = discovery(issuer, clock)
    found.token_url()
    clock.now += 3599
    found.token_url()
    assert len(issuer.asked) == 1
    issuer.answers[OAUTH] = metadata(token_endpoint=MUTUAL)
    clock.now += 2
    assert found.token_url() == MUTUAL
    assert len(issuer.asked) == 2


def test_while_the_issuer_is_down_the_last_metadata_go_on(issuer, clock, capture_log):
    issuer.answers[OAUTH] = metadata()
    found = discovery(issuer, clock)
    found.token_url()
    issuer.answers[OAUTH] = answer(503)
    clock.now += 3601
    assert found.token_url() == TOKEN_URL
    assert [entry["event"] for entry in capture_log] == ["the issuer's metadata cannot be had, the last ones go on"]


def test_many_threads_ask_once(issuer):
    may_answer = threading.Event()

    def slow():
        assert may_answer.wait(10)
        return metadata()

    issuer.answers[OAUTH] = slow
    found = discovery(issuer)
    threading.Timer(0.01, may_answer.set).start()
    assert set(on_threads(20, found.token_url)) == {TOKEN_URL}
    assert len(issuer.asked) == 1


def with_issuer(fleet, **settings):
    return fleet.worker(token_url=None, issuer=ISSUER, **settings)


def test_nothing_is_asked_before_the_first_token_is_needed():
    fleet = Fleet()
    with_issuer(fleet)
    assert not fleet.server.requests


def test_a_token_comes_from_the_endpoint_that_was_discovered():
    fleet = Fleet()
    fleet.server.script = [metadata()]
    worker = with_issuer(fleet)
    assert token_of(worker) == token_of(worker)
    assert [request.url for request in fleet.server.requests] == [OAUTH, TOKEN_URL]


def test_an_issuer_that_is_down_holds_the_whole_fleet_off_like_a_token_endpoint():
    fleet = Fleet()
    fleet.server.script = [answer(503, {"Retry-After": "30"})]
    for worker in (with_issuer(fleet), with_issuer(fleet)):
        with pytest.raises(Unavailable, match="the issuer answered 503"):
            token_of(worker)
    assert len(fleet.server.requests) == 1


def test_no_secret_goes_to_the_issuers_well_known_addresses():
    fleet = Fleet()
    fleet.server.script = [metadata()]
    token_of(with_issuer(fleet))
    first = fleet.server.requests[0]
    assert (first.form, first.headers) == ({}, {})
    assert json.loads(metadata().body)["issuer"] == ISSUER
