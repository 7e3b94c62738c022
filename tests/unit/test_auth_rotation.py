"""Secrets and keys that change while the worker runs, and failures that last."""

import json

import pytest
from joserfc import jws
from token_server import SECRET, Fleet, answer, token_of

from worker.auth.keys import new_key
from worker.errors import ConfigError, Unauthorized, Unavailable


class KeyServer:
    """A token endpoint that knows the client by the names of its keys."""

    def __init__(self, *known):
        self.known = set(known)
        self.tried = []

    def __call__(self, request):
        kid = jws.extract_compact(request.form["client_assertion"].encode()).headers()["kid"]
        self.tried.append(kid)
        if kid not in self.known:
            return answer(400, error="invalid_client")
        return answer(access_token=f"token-{len(self.tried)}", token_type="Bearer", expires_in=300)


@pytest.fixture
def fleet():
    return Fleet()


@pytest.fixture
def keys(tmp_path):
    """Writes a key file; returns what the settings say of it."""

    def written(name, kid):
        (tmp_path / name).write_text(json.dumps(new_key("ES256", kid).as_dict(private=True)))
        return {"file": str(tmp_path / name)}

    return written


def by_key(fleet, server, *keys):
    fleet.server = server
    return fleet.worker(client_secret=None, client_auth="private_key_jwt", key=list(keys))


def test_the_newest_key_is_tried_first(fleet, keys):
    server = KeyServer("new", "old")
    token_of(by_key(fleet, server, keys("a", "new"), keys("b", "old")))
    assert server.tried == ["new"]


def test_the_older_key_serves_until_the_server_knows_the_newer_one(fleet, keys, capture_log):
    server = KeyServer("old")
    worker = by_key(fleet, server, keys("a", "new"), keys("b", "old"))
    token_of(worker)
    server.known.add("new")
    fleet.clock.now += 300
    token_of(worker)
    assert server.tried == ["new", "old", "new"]
    assert [(entry["event"], entry["log_level"]) for entry in capture_log] == [("trying the next older key", "warning")]


def test_where_the_server_knows_no_key_it_is_asked_once_with_each(fleet, keys):
    server = KeyServer()
    worker = by_key(fleet, server, keys("a", "new"), keys("b", "old"))
    for _ in range(5):
        with pytest.raises(Unauthorized, match="answered 400, invalid_client; check client_id, client_auth and the"):
            token_of(worker)
    assert server.tried == ["new", "old"]


@pytest.mark.parametrize("refusal", [answer(400, error="invalid_scope"), answer(403), answer(503), answer(404)])
def test_an_older_key_is_not_tried_where_the_key_was_not_the_reason(fleet, keys, refusal):
    requests = []
    worker = by_key(fleet, lambda request: requests.append(request) or refusal, keys("a", "new"), keys("b", "old"))
    with pytest.raises((Unauthorized, Unavailable)):
        token_of(worker)
    assert len(requests) == 1


def test_a_key_file_that_was_replaced_is_read_when_the_server_refuses_the_old_one(fleet, keys):
    server = KeyServer("first")
    worker = by_key(fleet, server, keys("key", "first"))
    token_of(worker)
    fleet.clock.now += 300
    keys("key", "second")
    server.known = {"second"}
    token_of(worker)
    assert server.tried == ["first", "first", "second"]


def test_a_token_goes_on_after_a_reload_and_the_next_one_is_got_with_the_new_secret(fleet, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    worker = fleet.worker(client_secret={"file": str(tmp_path / "secret")})
    old = token_of(worker)
    (tmp_path / "secret").write_text("canary-secret-rotated")
    fleet.server.secret = "canary-secret-rotated"
    worker.reload()
    assert token_of(worker) == old
    fleet.clock.now += 300
    assert token_of(worker) != old
    assert len(fleet.server.requests) == 2


def test_a_reload_with_the_right_secret_ends_the_wait_after_a_refusal(fleet, tmp_path):
    (tmp_path / "secret").write_text("wrong")
    worker = fleet.worker(client_secret={"file": str(tmp_path / "secret")})
    with pytest.raises(Unauthorized):
        token_of(worker)
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(Unauthorized):
        token_of(worker)
    worker.reload()
    token_of(worker)


def test_a_reload_without_a_secret_keeps_the_one_that_it_had(fleet, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    worker = fleet.worker(client_secret={"file": str(tmp_path / "secret")})
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="secret"):
        worker.reload()
    token_of(worker)


def test_an_outage_is_told_with_its_beginning_by_everybody(fleet):
    fleet.server.script = [answer(503)] * 3
    told = set()
    for worker in [fleet.worker() for _ in range(3)]:
        with pytest.raises(Unavailable) as raised:
            token_of(worker)
        told.add(raised.value.detail)
        fleet.clock.now += 40
    assert told == {"hospital: the token endpoint answered 503 (since 1970-01-01T00:00:00Z)"}
    assert len(fleet.server.requests) == 3


def test_an_outage_after_a_good_token_is_another_one(fleet):
    fleet.server.script = [answer(503), fleet.server.grant, answer(503)]
    worker = fleet.worker()
    with pytest.raises(Unavailable, match="since 1970-01-01T00:00:00Z"):
        token_of(worker)
    fleet.clock.now += 60
    token_of(worker)
    fleet.clock.now += 300
    with pytest.raises(Unavailable, match="since 1970-01-01T00:06:00Z"):
        token_of(worker)
