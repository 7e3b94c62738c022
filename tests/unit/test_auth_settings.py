"""What an [auth.NAME] table of type client_credentials may say, and what goes with what."""

import pytest

from worker import config
from worker.errors import ConfigError

BASE = '[auth.hospital]\ntoken_url = "https://idp.example/token"\nclient_id = "batch"\n'
JWT = BASE + 'client_auth = "private_key_jwt"\n'
TLS = BASE + 'client_auth = "tls"\n'


@pytest.fixture
def load(tmp_path):
    def loaded(text):
        for name in ("cert.pem", "key.pem"):
            (tmp_path / name).write_text("canary\nof several lines\n")
        (tmp_path / "longshore.toml").write_text(text)
        return config.load(tmp_path / "longshore.toml", {}).auth["hospital"]

    return loaded


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (BASE, "client_secret", 'is missing; write e.g. client_secret = { env = "HOSPITAL_SECRET" }'),
        (JWT, "key", 'is missing; write e.g. key = { file = "private-key.jwk" }'),
        (TLS + 'client_key = "key.pem"', "client_cert", "is missing; write e.g. client_cert ="),
        (TLS + 'client_cert = "cert.pem"', "client_key", "is missing; write e.g. client_key ="),
        (JWT + 'key = "k"\nclient_secret = "s"', "client_secret", 'is of no use with client_auth = "private_key_jwt"'),
        (BASE + 'client_secret = "s"\nkey = "k"', "key", 'is of no use with client_auth = "basic"'),
        (JWT + 'key = ["a", "b"]\nkey_id = "c"', "key_id", "is for a single key"),
        (JWT + 'key = ["a", "b", "c", "d", "e"]', "key", "must have at most 4 items"),
        (JWT + 'key = { file = "missing.pem" }', "key[0]", "missing.pem cannot be read"),
        (JWT + "key = 3", "key[0]", 'must be a text, { env = "NAME" } or { file = "PATH" }'),
        (JWT + 'key = "k"\nalgorithm = "HS256"', "algorithm", "must be 'RS256', 'RS384', "),
        (TLS + 'client_cert = "no.pem"\nclient_key = "key.pem"', "client_cert", "names no file"),
        (BASE + 'client_secret = "s"\nca_file = "no.pem"', "ca_file", "names no file"),
        (BASE + 'client_secret = "s"\nissuer = "https://idp.example"', "token_url", "is of no use beside issuer"),
        (
            '[auth.hospital]\nclient_id = "batch"\nclient_secret = "s"',
            "token_url",
            "is missing, and so is issuer, whose metadata would tell it; write e.g. token_url = ",
        ),
    ],
)
def test_what_is_missing_or_too_much_for_the_client_auth_is_named(load, tmp_path, text, key, what):
    with pytest.raises(ConfigError) as caught:
        load(text)
    [problem] = caught.value.problems
    assert problem.key == f"auth.hospital.{key}"
    assert problem.what.removeprefix(f"{tmp_path}/").startswith(what)


@pytest.mark.parametrize(
    ("issuer", "what"),
    [
        ("http://idp.example", "must be https"),
        ("https://idp.example?tenant=1", "must not have a query"),
        ("idp.example", "must be an http or https address"),
    ],
)
def test_an_issuer_whose_metadata_nobody_can_trust_is_refused(load, issuer, what):
    with pytest.raises(ConfigError) as caught:
        load(f'[auth.hospital]\nissuer = "{issuer}"\nclient_id = "batch"\nclient_secret = "s"')
    [problem] = caught.value.problems
    assert (problem.key, problem.what.startswith(what)) == ("auth.hospital.issuer", True)


@pytest.mark.parametrize("key", ['{ file = "key.pem" }', '[{ file = "key.pem" }]'])
def test_a_key_has_several_lines_and_is_never_shown(load, key):
    settings = load(f"{JWT}key = {key}")
    assert [each.reveal() for each in settings.key] == ["canary\nof several lines"]
    assert "canary" not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize(("text", "what"), [("", "is empty"), ("\n\n", "is empty"), ("a\x00b", "printable UTF-8")])
def test_a_key_that_is_no_text_is_refused(load, text, what):
    escaped = text.replace("\n", "\\n").replace("\x00", "\\u0000")
    with pytest.raises(ConfigError, match=what):
        load(f'{JWT}key = "{escaped}"')


def test_certificates_lie_beside_the_configuration(load, tmp_path):
    settings = load(TLS + 'client_cert = "cert.pem"\nclient_key = "key.pem"')
    assert (settings.client_cert, settings.client_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize("name", ["client_id", "client_assertion", "client_assertion_type", "grant_type"])
def test_extra_parameters_do_not_replace_the_workers_own(load, name):
    with pytest.raises(ConfigError, match=f"must not hold {name}"):
        load(f'{BASE}client_secret = "s"\nextra = {{ {name} = "x" }}')
