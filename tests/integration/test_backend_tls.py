"""Certificates of both sides, and a proxy, between a backend of the settings and a real TLS server."""

import shutil
import threading
from contextlib import contextmanager

import pytest
from certificates import Authority
from servers.raw import answering, raw_server
from servers.tls import tls_server

from worker.backends import open_backend
from worker.backends.answers import whole
from worker.backends.calls import Call
from worker.config import RestSettings
from worker.errors import ConfigError, Unavailable
from worker.records import Meter, RowKey

EMPTY = answering("HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 2\nConnection: close", b"{}")


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def server(authority):
    with tls_server(authority.pair("server"), authority.ca_file) as (url, names):
        yield url.removesuffix("/token"), names


@contextmanager
def opened(url, **settings):
    backend = open_backend("billing", RestSettings(url=url, retries=0, timeout=5, **settings), None, threads=2)
    try:
        yield backend, backend.open(Meter(), threading.Event()).at(RowKey("d" * 64, 2))
    finally:
        backend.close()


def with_certificate(url, authority, pair):
    return opened(url, ca_file=authority.ca_file, client_cert=pair.certificate, client_key=pair.key)


def test_a_backend_sees_the_workers_certificate(authority, server):
    url, _ = server
    with with_certificate(url, authority, authority.pair("batch")) as (_, billing):
        assert billing.get("/plans") == {"client": "batch"}


def test_without_the_certificate_that_a_backend_wants_it_is_unavailable(authority, server):
    url, names = server
    with opened(url, ca_file=authority.ca_file) as (_, billing), pytest.raises(Unavailable):
        billing.get("/plans")
    assert names == []


def test_a_certificate_that_was_replaced_is_shown_after_a_reload(authority, server):
    url, _ = server
    old, new = authority.pair("old"), authority.pair("new")
    with with_certificate(url, authority, old) as (backend, billing):
        assert billing.get("/plans") == {"client": "old"}
        shutil.copy(new.certificate, old.certificate)
        shutil.copy(new.key, old.key)
        backend.reload()
        assert billing.get("/plans") == {"client": "new"}


def test_a_replacement_that_cannot_be_read_is_said_and_the_old_connections_go_on(authority, server):
    url, _ = server
    pair = authority.pair("batch")
    with with_certificate(url, authority, pair) as (backend, billing):
        billing.get("/plans")
        pair.key.write_text("half a k")
        with pytest.raises(ConfigError, match="client_key"):
            backend.reload()
        assert billing.get("/plans") == {"client": "batch"}


def test_a_reload_without_news_keeps_the_connections(authority, server):
    url, _ = server
    with with_certificate(url, authority, authority.pair("batch")) as (backend, billing):
        billing.get("/plans")
        before = backend._http._transport
        backend.reload()
        assert backend._http._transport is before


def test_a_certificate_without_its_key_does_not_start(authority):
    pair, other = authority.pair("batch"), authority.pair("other")
    with (
        pytest.raises(ConfigError, match=r"backends\.billing\.client_cert: is no certificate"),
        opened("https://billing.example", client_cert=pair.certificate, client_key=other.key),
    ):
        pass


def test_calls_go_by_the_proxy_of_the_settings_and_not_by_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    secret = tmp_path / "proxy"
    with raw_server(EMPTY) as (one, by_one), raw_server(EMPTY) as (other, by_other):
        secret.write_text(one.replace("//", "//batch:canary@"))
        with opened("http://billing.example", proxy={"file": str(secret)}) as (backend, billing):
            billing.get("/plans")
            secret.write_text(other)
            backend.reload()
            billing.get("/plans")
    assert by_one[0].startswith(b"GET http://billing.example/plans HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic YmF0Y2g6Y2FuYXJ5\r\n" in by_one[0]
    assert len(by_one) == len(by_other) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_calls_of_this_machine_do_not_go_by_the_proxy_of_the_environment(monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with raw_server(EMPTY) as (url, seen), opened(url.replace("127.0.0.1", host)) as (_, billing):
        billing.get("/plans")
    assert seen[0].startswith(b"GET /plans HTTP/1.1\r\n")


@pytest.mark.parametrize("chosen", [True, False])
def test_another_address_is_asked_by_its_own_proxy_of_the_environment_unless_the_settings_name_one(monkeypatch, chosen):
    file = Call("GET", "https://bucket.example/1.ndjson", public=True)
    with raw_server(EMPTY) as (proxy, asked), raw_server(EMPTY) as (own, asked_own), raw_server(EMPTY) as (url, _):
        monkeypatch.setenv("https_proxy", proxy)
        proxies = {"proxy": own} if chosen else {}
        with opened(url, **proxies) as (_, billing), pytest.raises(Unavailable):
            billing._caller(file, whole)
    seen, unseen = (asked_own, asked) if chosen else (asked, asked_own)
    assert seen[0].startswith(b"CONNECT bucket.example:443 HTTP/1.1\r\n")
    assert not unseen
