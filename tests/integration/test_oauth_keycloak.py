import pytest
from servers.keycloak import keycloak
from servers.promises import OAuthServerPromises, client

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
