import pytest
from servers.oidc_provider import oidc_provider
from servers.promises import OAuthServerPromises, client
from structlog.testing import capture_logs

from worker.errors import Unauthorized
from worker.records import Meter


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with oidc_provider(tmp_path_factory.mktemp("oidc-provider")) as running:
        yield running


class TestOidcProvider(OAuthServerPromises):
    def test_a_scope_that_nobody_knows_is_dropped_and_reported(self, server):
        with capture_logs() as events:
            token = client(server, scopes=["billing.read", "unknown"]).token(Meter())
        assert token.scope == ("billing.read",)
        [said] = events
        assert (said["event"], said["missing"]) == ("fewer scopes were granted than asked for", "unknown")

    def test_credentials_that_are_not_encoded_are_refused(self, server):
        with pytest.raises(Unauthorized, match="answered 400, invalid_request"):
            client(server, raw_basic=True).token(Meter())
