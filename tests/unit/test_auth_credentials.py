import pytest
from requests import Request
from token_server import ORIGIN, Fleet, answer

from worker.auth import MemoryTokenStore, open_credential
from worker.auth.token import Token
from worker.config import ApiKeySettings, BasicSettings, BearerSettings
from worker.errors import Unauthorized, Unavailable
from worker.records import Meter


def fixed(settings):
    return open_credential("hospital", settings, MemoryTokenStore(), owner="test")


def signed(ticket, url=ORIGIN + "/Patient?_count=1"):
    return Request("GET", url, auth=ticket).prepare().headers


def test_a_token_is_sent_as_a_bearer_token():
    ticket = Fleet().worker().ticket(Meter(), ORIGIN)
    assert signed(ticket)["Authorization"] == f"Bearer {ticket.token.access_token}"


@pytest.mark.parametrize(
    ("settings", "header", "value"),
    [
        (BearerSettings(token="abc"), "Authorization", "Bearer abc"),
        (BasicSettings(username="ann", password="pässword"), "Authorization", "Basic YW5uOnDDpHNzd29yZA=="),
        (ApiKeySettings(key="k e y"), "X-API-Key", "k e y"),
        (ApiKeySettings(header="apikey", key="key"), "apikey", "key"),
    ],
)
def test_a_fixed_credential_is_sent_as_its_kind_wants(settings, header, value):
    assert signed(fixed(settings).ticket(Meter(), ORIGIN))[header] == value


@pytest.mark.parametrize("origin", [ORIGIN, "https://EHR.example:443", "https://ehr.example/fhir"])
def test_an_origin_may_be_written_in_any_way(origin):
    assert "Authorization" in signed(Fleet().worker().ticket(Meter(), origin))


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://ehr.example/",
        "https://ehr.example:8443/",
        "https://ehr.example.evil.example/",
        "https://evil.example/?https://ehr.example",
    ],
)
@pytest.mark.parametrize("credential", [fixed(BearerSettings(token="canary")), Fleet().worker()])
def test_a_ticket_signs_nothing_that_goes_elsewhere(credential, elsewhere):
    with pytest.raises(Unauthorized, match=r"for https://ehr.example:443 and is sent nowhere else"):
        signed(credential.ticket(Meter(), ORIGIN), elsewhere)


def test_a_fixed_credential_has_no_second_try():
    credential = fixed(BearerSettings(token="abc"))
    assert not credential.refused(credential.ticket(Meter(), ORIGIN))


def test_a_fixed_credential_is_read_anew_for_every_ticket(tmp_path):
    (tmp_path / "token").write_text("first")
    credential = fixed(BearerSettings(token={"file": str(tmp_path / "token")}))
    (tmp_path / "token").write_text("second")
    assert signed(credential.ticket(Meter(), ORIGIN))["Authorization"] == "Bearer second"


def test_a_fixed_credential_that_is_gone_makes_its_deliveries_wait(tmp_path):
    (tmp_path / "token").write_text("first")
    credential = fixed(BearerSettings(token={"file": str(tmp_path / "token")}))
    (tmp_path / "token").unlink()
    with pytest.raises(Unavailable, match="token cannot be read"):
        credential.ticket(Meter(), ORIGIN)


def test_a_bearer_token_that_is_replaced_by_one_with_its_scheme_before_it_makes_deliveries_wait(tmp_path):
    (tmp_path / "token").write_text("first")
    credential = fixed(BearerSettings(token={"file": str(tmp_path / "token")}))
    (tmp_path / "token").write_text("Bearer canary\n")
    with pytest.raises(Unavailable, match="token must hold the token alone; remove the word Bearer") as raised:
        credential.ticket(Meter(), ORIGIN)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("settings", [BearerSettings(token="canaré"), ApiKeySettings(key=" canary")])
def test_a_fixed_credential_that_fits_in_no_header_is_not_quoted(settings):
    with pytest.raises(Unauthorized, match="may not stand in a header") as raised:
        fixed(settings).ticket(Meter(), ORIGIN)
    assert "canar" not in str(raised.value)


def test_tickets_and_fixed_credentials_show_nothing():
    credential = fixed(BearerSettings(token="canary"))
    assert "canary" not in repr((credential, credential.ticket(Meter(), ORIGIN)))


def test_a_check_gets_a_real_token():
    fleet = Fleet()
    said = fleet.worker(scopes=["billing.read"]).check(Meter())
    assert said == "token cana…xxxx, 55 characters, for billing.read, 300 s left"
    assert len(fleet.server.requests) == 1


def test_a_check_raises_what_the_token_endpoint_says():
    fleet = Fleet()
    fleet.server.script = [answer(400, error="invalid_scope")]
    with pytest.raises(Unauthorized, match="invalid_scope"):
        fleet.worker().check(Meter())


def test_a_check_of_a_fixed_credential_promises_nothing():
    assert "its backends will say" in fixed(BearerSettings(token="abc")).check(Meter())


@pytest.mark.parametrize(
    ("text", "masked"), [("x" * 31, "…, 31 characters"), ("abcd" + "-" * 24 + "wxyz", "abcd…wxyz, 32 characters")]
)
def test_a_masked_token_shows_its_ends_only_if_it_is_long(text, masked):
    assert Token(text, "Bearer", (), 300, 300).masked() == masked
