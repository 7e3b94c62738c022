import base64

import pytest
from joserfc import jwt

from worker.auth.client_authentication import ClientSecretBasic, ClientSecretPost, PrivateKeyJwt, TlsClientAuth
from worker.auth.keys import SigningKey, new_key
from worker.auth.transport import Request

KEY = new_key("ES384", "one")
SIGNING = SigningKey({"alg": "ES384", "typ": "JWT", "kid": "one"}, KEY)


def signed_by(method):
    request = Request("hospital", "https://idp.example/token", 10, {}, {})
    method.sign(request)
    return request


@pytest.mark.parametrize(
    ("client", "secret", "credentials"),
    [
        ("batch", "plain", "batch:plain"),
        ("a:b", "c d", "a%3Ab:c+d"),
        ("münchen", "100%+/=&é", "m%C3%BCnchen:100%25%2B%2F%3D%26%C3%A9"),
    ],
)
def test_basic_form_encodes_both_parts_first(client, secret, credentials):
    request = signed_by(ClientSecretBasic(client, secret))
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode() == credentials
    assert not request.form


def test_raw_basic_leaves_both_parts_as_they_are():
    request = signed_by(ClientSecretBasic("batch", "100%+é", raw=True))
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode() == "batch:100%+é"


def test_post_puts_both_parts_beside_the_other_parameters():
    request = signed_by(ClientSecretPost("batch", "100%+é"))
    assert request.form == {"client_id": "batch", "client_secret": "100%+é"}
    assert not request.headers


def claims_of(request):
    assert request.form["client_id"] == "batch"
    assert request.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    return jwt.decode(request.form["client_assertion"], KEY, algorithms=["ES384"]).claims


def test_an_assertion_says_who_the_client_is_for_less_than_five_minutes():
    claims = claims_of(signed_by(PrivateKeyJwt("batch", SIGNING, now=lambda: 1000.9)))
    assert len(claims.pop("jti")) >= 32
    assert claims == {"iss": "batch", "sub": "batch", "aud": "https://idp.example/token", "iat": 1000, "exp": 1240}


def test_an_assertion_may_be_for_another_audience():
    claims = claims_of(signed_by(PrivateKeyJwt("batch", SIGNING, "https://idp.example")))
    assert claims["aud"] == "https://idp.example"


def test_every_attempt_has_an_assertion_of_its_own():
    seconds = iter(range(1000, 2000))
    method = PrivateKeyJwt("batch", SIGNING, now=lambda: next(seconds))
    found = [claims_of(signed_by(method)) for _ in range(50)]
    assert len({claims["jti"] for claims in found}) == 50
    assert [claims["iat"] for claims in found] == list(range(1000, 1050))


def test_with_a_certificate_only_the_client_id_is_said():
    request = signed_by(TlsClientAuth("batch"))
    assert (request.form, request.headers) == ({"client_id": "batch"}, {})


@pytest.mark.parametrize(
    "method",
    [
        ClientSecretBasic("batch", "canary"),
        ClientSecretPost("batch", "canary"),
        PrivateKeyJwt("batch", SIGNING),
    ],
)
def test_no_proof_is_shown(method):
    request = signed_by(method)
    hidden = ["canary", KEY.as_dict(private=True)["d"], request.form.get("client_assertion", "canary")]
    assert not [text for text in hidden if text in repr(method) + repr(request)]
