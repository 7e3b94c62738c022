"""Certificates of both sides, with a real TLS server and private authorities."""

import shutil

import pytest
from certificates import Authority
from servers.tls import tls_server

from worker.auth import MemoryTokenStore, open_credential
from worker.config import ClientCredentialsSettings
from worker.errors import Unavailable
from worker.records import Meter


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def server_pair(authority):
    return authority.pair("server")


def with_secret(url, ca_file):
    return opened(token_url=url, client_secret="secret", ca_file=ca_file)


def with_certificate(url, ca_file, pair):
    return opened(token_url=url, client_auth="tls", client_cert=pair.certificate, client_key=pair.key, ca_file=ca_file)


def opened(**settings):
    given = ClientCredentialsSettings(client_id="batch", timeout=5, **settings)
    return open_credential("hospital", given, MemoryTokenStore(), owner="test")


def test_the_server_sees_the_clients_certificate(authority, server_pair):
    with tls_server(server_pair, authority.ca_file) as (url, names):
        credential = with_certificate(url, authority.ca_file, authority.pair("batch"))
        assert credential.token(Meter()).access_token == "token-of-batch"
    assert names == ["batch"]


def test_a_certificate_that_was_replaced_is_used_after_a_reload(authority, server_pair):
    old, new = authority.pair("old"), authority.pair("new")
    with tls_server(server_pair, authority.ca_file) as (url, names):
        credential = with_certificate(url, authority.ca_file, old)
        credential.token(Meter())
        shutil.copy(new.certificate, old.certificate)
        shutil.copy(new.key, old.key)
        credential.reload()
        credential.refused(credential.ticket(Meter(), "https://ehr.example"))
        credential.token(Meter())
    assert names == ["old", "new"]


def test_a_client_without_the_certificate_that_the_server_wants_gets_nothing(authority, server_pair):
    with tls_server(server_pair, authority.ca_file) as (url, names), pytest.raises(Unavailable):
        with_secret(url, authority.ca_file).token(Meter())
    assert not names


def test_a_certificate_of_another_authority_gets_nothing(authority, other_authority, server_pair):
    with tls_server(server_pair, authority.ca_file) as (url, names), pytest.raises(Unavailable):
        with_certificate(url, authority.ca_file, other_authority.pair("stranger")).token(Meter())
    assert not names


def test_a_key_that_does_not_belong_to_the_certificate_any_more_is_not_told_as_the_servers_fault(
    authority, server_pair
):
    pair = authority.pair("batch")
    with tls_server(server_pair, authority.ca_file) as (url, names):
        client = with_certificate(url, authority.ca_file, pair)
        pair.key.write_bytes(authority.pair("other").key.read_bytes())
        with pytest.raises(Unavailable, match=r"no TLS with .*, and our client_cert and client_key"):
            client.token(Meter())
    assert not names


@pytest.mark.parametrize(
    ("host", "trusts"),
    [("127.0.0.1", "other_authority"), ("127.0.0.1", None), ("127.0.0.2", "authority")],
    ids=["signed-by-another", "signed-by-nobody-known", "for-another-host"],
)
def test_a_server_that_cannot_prove_itself_gets_no_secret(request, server_pair, host, trusts):
    ca_file = trusts and request.getfixturevalue(trusts).ca_file
    reason = r"no TLS with the token endpoint: check its certificate's .* \(ca_file\)"
    with tls_server(server_pair, host=host) as (url, names), pytest.raises(Unavailable, match=reason):
        with_secret(url, ca_file).token(Meter())
    assert not names
