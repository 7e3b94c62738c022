"""oidc-provider (Node.js), fetched once with npm: a server that is stricter than most."""

import contextlib
import json
import shutil
from pathlib import Path

from servers.oauth import API, API_SECRET, LIFETIME, SCOPES, Identities, OAuthServer
from servers.programs import free_ports, installed, need, run, running

VERSION = "9.13.3"
NAME = f"oidc-provider-{VERSION}"
SECRET = "s3cret+/ %&"
PROGRAM = Path(__file__).with_suffix(".mjs")


@contextlib.contextmanager
def oidc_provider(folder):
    """A running oidc-provider; its files go into an empty folder."""
    need("node", "npm")
    (folder / "node_modules").symlink_to(installed(NAME, _install) / "node_modules")
    program = shutil.copy(PROGRAM, folder)
    identities = Identities.make(folder)
    port, tls_port = free_ports(2)
    issuer, tls_issuer = f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}"
    tls = {
        "port": tls_port,
        "origin": tls_issuer,
        "key": str(identities.server.key),
        "certificate": str(identities.server.certificate),
        "ca": str(identities.authority.ca_file),
    }
    given = {"issuer": issuer, "port": port, "tls": tls, "lifetime": LIFETIME, "scopes": SCOPES, "api": API}
    (folder / "given.json").write_text(json.dumps(given | {"clients": _clients(identities)}))
    ready = f"{issuer}/.well-known/openid-configuration"
    with running("node", program, folder / "given.json", cwd=folder, ready=ready) as known:
        yield OAuthServer(
            issuer=issuer,
            token_url=known["token_endpoint"],
            introspection_url=known["introspection_endpoint"],
            tls_issuer=issuer,
            tls_token_url=f"{tls_issuer}/token",
            ca_file=identities.authority.ca_file,
            certificate=identities.certificate,
            stranger=identities.stranger,
            keys=identities.keys,
            secret=SECRET,
        )


def _install(scratch):
    (scratch / NAME).mkdir()
    run(
        "npm", "install", "--no-package-lock", "--no-audit", "--no-fund", f"oidc-provider@{VERSION}", cwd=scratch / NAME
    )


def _clients(identities):
    service = {
        "redirect_uris": [],
        "response_types": [],
        "grant_types": ["client_credentials"],
        "scope": " ".join(SCOPES),
    }
    mutual = {"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_subject_dn": "CN=batch-tls"}
    return [
        service | {"client_id": "batch-secret", "client_secret": SECRET},
        service | {"client_id": "batch-key", "token_endpoint_auth_method": "private_key_jwt", "jwks": identities.jwks},
        service | {"client_id": "batch-tls"} | mutual,
        service | {"client_id": API, "client_secret": API_SECRET, "grant_types": []},
    ]
