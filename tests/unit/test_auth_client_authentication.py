import base64

import pytest

from worker.auth.client_authentication import ClientSecretBasic, ClientSecretPost
from worker.auth.transport import TokenRequest


def signed_by(method):
    request = TokenRequest("hospital", "https://idp.example/token", 10, {}, {})
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


@pytest.mark.parametrize("method", [ClientSecretBasic("batch", "canary"), ClientSecretPost("batch", "canary")])
def test_no_secret_is_shown(method):
    assert "canary" not in repr(method) + repr(signed_by(method))
