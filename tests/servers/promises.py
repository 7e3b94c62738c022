"""What the worker promises with every OAuth server; a test module inherits it and brings its ``server``."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from servers.oauth import LIFETIME, SCOPES

from worker.auth import MemoryTokenStore, open_credential
from worker.auth.keys import new_key
from worker.config import ClientCredentialsSettings
from worker.errors import Unauthorized
from worker.records import Meter

BY_ALGORITHM = {"RS256": "rsa", "RS384": "rsa", "PS256": "rsa", "ES256": "ec-256", "ES384": "ec-384"}


def client(server, name="batch-secret", **settings):
    """A worker of its own, with nothing in the cache."""
    usual = {"client_id": name, "scopes": SCOPES, "timeout": 30}
    if name == "batch-secret":
        usual["client_secret"] = server.secret
    if "issuer" not in settings:
        usual["token_url"] = server.token_url
    given = ClientCredentialsSettings(**usual | settings)
    return open_credential("hospital", given, MemoryTokenStore(), owner="test")


def by_key(server, *keys, **settings):
    files = [{"file": str(key)} for key in keys]
    return client(server, "batch-key", client_auth="private_key_jwt", key=files, **settings)


def by_certificate(server, pair, **settings):
    tls = {"client_cert": pair.certificate, "client_key": pair.key, "ca_file": server.ca_file}
    return client(server, "batch-tls", client_auth="tls", **tls | settings)


def accepted(server, credential):
    """A token that the server itself calls good."""
    token = credential.token(Meter())
    found = server.introspect(token.access_token)
    assert found["active"]
    assert set(found["scope"].split()) == set(SCOPES) == set(token.scope)
    assert token.lifetime == pytest.approx(LIFETIME, abs=1)  # Keycloak says what is left, in whole seconds
    return token


class OAuthServerPromises:
    @pytest.mark.parametrize("method", ["basic", "post"])
    def test_a_secret_of_odd_characters_gets_a_token(self, server, method):
        accepted(server, client(server, client_auth=method))

    def test_the_issuer_is_enough_to_find_the_token_endpoint(self, server):
        accepted(server, client(server, issuer=server.issuer))

    @pytest.mark.parametrize("algorithm", BY_ALGORITHM)
    def test_an_assertion_of_each_algorithm_gets_a_token(self, server, algorithm):
        accepted(server, by_key(server, server.keys[BY_ALGORITHM[algorithm]], algorithm=algorithm))

    def test_an_assertion_may_be_for_the_issuer(self, server):
        accepted(server, by_key(server, server.keys["ec-384"], issuer=server.issuer, assertion_audience=server.issuer))

    def test_no_assertion_is_sent_twice(self, server):
        credentials = [by_key(server, server.keys["ec-256"]) for _ in range(5)]
        assert len({accepted(server, credential).access_token for credential in credentials}) == 5

    def test_a_key_that_the_server_does_not_know_yet_gives_way_to_the_older_one(self, server, tmp_path):
        (tmp_path / "new.jwk").write_text(str(new_key("ES384").as_dict(private=True)).replace("'", '"'))
        meter = Meter()
        by_key(server, tmp_path / "new.jwk", server.keys["ec-384"]).token(meter)
        assert meter.read()[1] == 2

    def test_a_key_that_the_server_does_not_know_is_refused(self, server, tmp_path):
        (tmp_path / "other.jwk").write_text(str(new_key("ES384").as_dict(private=True)).replace("'", '"'))
        with pytest.raises(Unauthorized, match="invalid_client; check client_id, client_auth and the secret, key"):
            by_key(server, tmp_path / "other.jwk").token(Meter())

    def test_a_certificate_gets_a_token(self, server):
        token = by_certificate(server, server.certificate, token_url=server.tls_token_url).token(Meter())
        assert set(token.scope) == set(SCOPES)

    def test_a_certificate_gets_a_token_at_the_endpoint_that_the_issuer_names_for_it(self, server):
        token = by_certificate(server, server.certificate, issuer=server.tls_issuer).token(Meter())
        assert set(token.scope) == set(SCOPES)

    def test_another_certificate_of_the_same_authority_is_refused(self, server):
        with pytest.raises(Unauthorized, match="answered 401, invalid_client"):
            by_certificate(server, server.stranger, token_url=server.tls_token_url).token(Meter())

    def test_a_wrong_secret_is_refused_with_what_to_check(self, server):
        with pytest.raises(Unauthorized, match=r"answered 401, .*_client; check .*secret"):
            client(server, client_secret="wrong").token(Meter())

    def test_a_secret_that_was_rotated_is_found_without_a_restart(self, server, tmp_path):
        (tmp_path / "secret").write_text("an older one")
        credential = client(server, client_secret={"file": str(tmp_path / "secret")})
        (tmp_path / "secret").write_text(server.secret)
        accepted(server, credential)

    def test_thirty_threads_send_one_request(self, server):
        credential, meter = client(server), Meter()
        with ThreadPoolExecutor(30) as pool:
            tokens = {token.access_token for token in pool.map(lambda _: credential.token(meter), range(30))}
        assert (len(tokens), meter.read()[1]) == (1, 1)
