import pytest
from certificates import Authority
from token_server import settings_of

from worker.auth.client_authentication import PrivateKeyJwt, TlsClientAuth
from worker.auth.keys import new_key
from worker.auth.proof import Proof
from worker.auth.transport import Tls
from worker.errors import ConfigError


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def read(**settings):
    return Proof.read("hospital", settings_of(**settings))


def written(path, key):
    path.write_text(str(key.as_dict(private=True)).replace("'", '"'))
    return {"file": str(path)}


def with_certificate(pair, **more):
    return {"client_secret": None, "client_auth": "tls", "client_cert": pair.certificate, "client_key": pair.key} | more


def test_keys_are_tried_newest_first(tmp_path):
    new, old = new_key("ES384", "new"), new_key("ES256", "old")
    keys = [written(tmp_path / "new", new), written(tmp_path / "old", old)]
    proof = read(client_secret=None, client_auth="private_key_jwt", key=keys)
    assert [type(method) for method in proof.methods] == [PrivateKeyJwt, PrivateKeyJwt]
    assert [method.key.header["kid"] for method in proof.methods] == ["new", "old"]


def test_a_certificate_goes_with_the_connection(authority):
    pair = authority.pair("batch")
    proof = read(**with_certificate(pair, ca_file=authority.ca_file))
    assert proof.methods == (TlsClientAuth("batch"),)
    assert proof.tls == Tls(authority.ca_file, (pair.certificate, pair.key))


def test_another_certificate_is_another_proof(authority):
    one, other = (read(**with_certificate(authority.pair(name))) for name in ("one", "other"))
    assert one.material != other.material


@pytest.mark.parametrize(
    ("damage", "key", "what"),
    [
        (lambda pair, other: pair.key.write_text("canary"), "client_key", "is no private key in PEM"),
        (lambda pair, other: pair.key.write_text(other.key.read_text()), "client_cert", "is no certificate"),
        (lambda pair, other: pair.certificate.write_text("canary"), "client_cert", "is no certificate"),
        (lambda pair, other: pair.key.unlink(), "client_key", "cannot be read: No such file"),
        (lambda pair, other: pair.encrypt(), "client_key", "is encrypted with a passphrase"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_a_mistake_in_the_configuration(authority, damage, key, what):
    pair, other = authority.pair("damaged"), authority.pair("other")
    settings = settings_of(**with_certificate(pair))
    damage(pair, other)
    with pytest.raises(ConfigError) as caught:
        Proof.read("hospital", settings)
    [problem] = caught.value.problems
    assert (problem.key, problem.what.startswith(what)) == (f"auth.hospital.{key}", True)
    assert "canary" not in str(caught.value)


def test_a_file_without_authorities_is_a_mistake_in_the_configuration(tmp_path):
    (tmp_path / "ca.pem").write_text("made up")
    with pytest.raises(ConfigError, match=r"auth\.hospital\.ca_file: holds no certificates of authorities"):
        read(ca_file=tmp_path / "ca.pem")


def test_a_key_that_cannot_be_used_is_named_where_it_stands():
    with pytest.raises(ConfigError, match="holds no private key") as caught:
        read(client_secret=None, client_auth="private_key_jwt", key="canary")
    assert "canary" not in str(caught.value)


def test_no_material_is_shown(authority):
    assert "canary" not in repr(read(client_secret="canary"))
    assert "PRIVATE KEY" not in repr(read(**with_certificate(authority.pair("hidden"))))
