import json

import pytest
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from worker.auth.keys import ALGORITHMS, new_key, read_key
from worker.commands.keys import Algorithm

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


def pem(key, encryption=NoEncryption(), form=PrivateFormat.PKCS8):  # noqa: B008 - it holds nothing
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def jwk(key, **members):
    kind = RSAKey if isinstance(key, rsa.RSAPrivateKey) else ECKey
    return json.dumps(kind.import_key(key, members or None).as_dict(private=True))


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA, "RS256"), (RSA, "RS384"), (RSA, "PS256"), (P256, "ES256"), (P384, "ES384")]
)
@pytest.mark.parametrize("written", [pem, jwk])
def test_what_is_signed_can_be_checked_with_the_public_key(key, algorithm, written):
    signed = read_key(written(key), key_id="one", algorithm=algorithm).sign({"iss": "batch"})
    public = (RSAKey if key is RSA else ECKey).import_key(key.public_key())
    token = jwt.decode(signed, public, algorithms=[algorithm])
    assert token.claims == {"iss": "batch"}
    assert token.header == {"alg": algorithm, "typ": "JWT", "kid": "one"}


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (P384, "ES384")])
def test_the_algorithm_follows_from_the_key_where_nothing_says_it(key, algorithm):
    assert read_key(pem(key)).header == {"alg": algorithm, "typ": "JWT"}


def test_a_jwk_names_its_own_kid_and_algorithm():
    header = read_key(jwk(RSA, kid="own", alg="PS256")).header
    assert (header["kid"], header["alg"]) == ("own", "PS256")


def test_older_pem_formats_are_read_too():
    assert read_key(pem(P256, form=PrivateFormat.TraditionalOpenSSL)).header["alg"] == "ES256"
    assert read_key(pem(RSA, form=PrivateFormat.TraditionalOpenSSL)).header["alg"] == "RS256"


def test_a_certificate_beside_the_key_is_named_by_its_thumbprint(tmp_path):
    pair = Authority(tmp_path).pair("batch")
    header = read_key(pair.key.read_text() + pair.certificate.read_text()).header
    assert len(header["x5t#S256"]) == 43
    assert "kid" not in header


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("canary", "holds no private key, neither PEM nor JWK; write e.g. key = { file"),
        (pem(P256)[:-60], "holds no private key"),
        (pem(P256, BestAvailableEncryption(b"x")), "is encrypted with a passphrase"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "is neither an RSA nor an EC key"),
        (pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "is too short to be safe"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "is on a curve that client assertions do not use"),
        ('{"kty": "EC"}', "is no JWK"),
        ('{"canary', "is no JWK"),
        ('{"keys": []}', "is no JWK"),
        (json.dumps(OctKey.generate_key(256).as_dict()), "is neither an RSA nor an EC key"),
        (json.dumps(ECKey.import_key(P256.public_key()).as_dict()), "is the public half of a key"),
        (jwk(P256, alg="ES512"), "cannot sign ES512; write algorithm = one of ES256"),
        (pem(P256) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "has a certificate beside it"),
    ],
)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # of the key that is too short
def test_what_is_no_usable_key_is_refused_and_not_quoted(text, what):
    with pytest.raises(ValueError, match=what) as raised:
        read_key(text)
    assert "canary" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_an_algorithm_that_the_key_cannot_do_is_refused_with_those_that_it_can():
    with pytest.raises(ValueError, match="cannot sign ES384; write algorithm = one of RS256, RS384, PS256"):
        read_key(pem(RSA), algorithm="ES384")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_new_key_is_read_back_with_its_kid_and_algorithm(algorithm):
    made = new_key(algorithm)
    header = read_key(json.dumps(made.as_dict(private=True))).header
    assert header == {"alg": algorithm, "typ": "JWT", "kid": made.thumbprint()}


def test_the_command_line_offers_every_algorithm():
    assert tuple(Algorithm) == ALGORITHMS


def test_a_new_key_may_have_a_name():
    assert new_key("ES384", "2026-11").kid == "2026-11"


def test_no_key_is_shown():
    key = read_key(jwk(P256))
    assert json.loads(jwk(P256))["d"] not in repr(key)
