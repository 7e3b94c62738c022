import pytest
from documentation import ROOT
from servers.keycloak import keycloak
from servers.promises import OAuthServerPromises, client

from worker import config
from worker.auth import MemoryTokenStore, open_credential
from worker.errors import Unauthorized
from worker.records import Meter


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with keycloak(tmp_path_factory.mktemp("keycloak")) as running:
        yield running


class TestKeycloak(OAuthServerPromises):
    def test_a_scope_that_nobody_knows_is_refused(self, server):
        with pytest.raises(Unauthorized, match="answered 400, invalid_scope; check scopes"):
            client(server, scopes=["billing.read", "unknown"]).token(Meter())

    def test_credentials_that_are_not_encoded_are_refused(self, server):
        with pytest.raises(Unauthorized, match="answered 400, unauthorized_client"):
            client(server, raw_basic=True).token(Meter())

    def test_the_realm_of_the_compose_file_has_a_token_for_its_settings(self, server):
        given = {
            "LONGSHORE_WORKER__STATE": "sqlite:///state.db",
            "LONGSHORE_AUTH__KEYCLOAK__ISSUER": server.issuer.replace("longshore", "hospital"),
            "LONGSHORE_AUTH__KEYCLOAK__CLIENT_SECRET": (ROOT / "compose" / "secrets" / "hospital").read_text().strip(),
        }
        settings = config.load(ROOT / "compose" / "systems.toml", given)
        credential = open_credential("keycloak", settings.auth["keycloak"], MemoryTokenStore(), owner="test")
        assert credential.token(Meter()).scope == ("system/*.read",)
