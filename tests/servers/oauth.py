"""What tests know of an OAuth server that they started."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_plus, urlencode

from certificates import Authority, Pair
from servers.programs import ask

from worker.auth.keys import new_key

SCOPES = ("billing.read", "system/*.read")
LIFETIME = 300
KEYS = {"rsa": "RS256", "ec-256": "ES256", "ec-384": "ES384"}
API, API_SECRET = "billing-api", "the-secret-of-the-api"


@dataclass(frozen=True)
class OAuthServer:
    """Knows ``batch-secret``, ``batch-key`` and, by certificate at the addresses with ``tls``, ``batch-tls``."""

    issuer: str
    token_url: str
    introspection_url: str
    tls_issuer: str
    tls_token_url: str
    ca_file: Path
    certificate: Pair
    stranger: Pair
    keys: dict[str, Path]
    secret: str = field(repr=False)

    def introspect(self, token):
        """What the server says of a token to the API that the token is for (RFC 7662)."""
        pair = base64.b64encode(f"{quote_plus(API)}:{quote_plus(API_SECRET)}".encode()).decode()
        return ask(self.introspection_url, urlencode({"token": token}).encode(), {"Authorization": f"Basic {pair}"})


@dataclass(frozen=True)
class Identities:
    """Keys and certificates made for one server, in its folder."""

    authority: Authority
    server: Pair
    certificate: Pair
    stranger: Pair
    keys: dict[str, Path]
    jwks: dict[str, list[dict[str, str]]]

    @classmethod
    def make(cls, folder):
        authority = Authority(folder)
        files, public = {}, []
        for kid, algorithm in KEYS.items():
            key = new_key(algorithm, kid)
            files[kid] = folder / f"{kid}.jwk"
            members = key.as_dict(private=True)
            files[kid].write_text(json.dumps({name: members[name] for name in members.keys() - {"alg"}}))
            public.append({name: each for name, each in key.as_dict(private=False).items() if name != "alg"})
        pairs = (authority.pair(name) for name in ("127.0.0.1", "batch-tls", "stranger"))
        return cls(authority, *pairs, keys=files, jwks={"keys": public})
