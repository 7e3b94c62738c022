"""``longshore keys new``, as somebody uses it who registers the worker at an OAuth server."""

import json
import stat

import pytest

from worker.auth.keys import read_key

PRIVATE = {"d", "p", "q", "dp", "dq", "qi"}


def test_the_private_key_is_for_its_owner_only_and_the_public_one_is_printed(longshore, tmp_path):
    done = longshore("keys", "new", "--alg", "RS384", "--kid", "2026-11")
    assert done.returncode == 0
    file = tmp_path / "private-key.jwk"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_key(file.read_text()).header == {"alg": "RS384", "typ": "JWT", "kid": "2026-11"}
    [public] = json.loads(done.stdout)["keys"]
    assert (public["kid"], public["alg"], public["use"]) == ("2026-11", "RS384", "sig")
    assert not public.keys() & PRIVATE
    assert 'key = { file = "private-key.jwk" }' in done.stderr


def test_a_key_that_is_there_is_not_overwritten(longshore, tmp_path):
    (tmp_path / "old.jwk").write_text("the only one")
    done = longshore("keys", "new", "old.jwk")
    assert done.returncode == 2
    assert done.stderr == "error: old.jwk is there already, and a key is not overwritten; name another FILE\n"
    assert (tmp_path / "old.jwk").read_text() == "the only one"
    assert not done.stdout


@pytest.mark.parametrize("arguments", [("keys", "new", "--json"), ("--json", "keys", "new")])
def test_programs_get_json(longshore, tmp_path, arguments):
    found = json.loads(longshore(*arguments).stdout)
    assert found["file"] == str(tmp_path / "private-key.jwk")
    assert not found["jwks"]["keys"][0].keys() & PRIVATE


def test_a_folder_that_is_not_there_is_named(longshore):
    done = longshore("keys", "new", "missing/private-key.jwk")
    assert (done.returncode, done.stderr) == (
        2,
        "error: missing/private-key.jwk: there is no folder missing; make it, or name another FILE\n",
    )
