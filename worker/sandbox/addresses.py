"""Where the sandbox is, who may ask it, and the settings of a worker that does."""

from __future__ import annotations

from dataclasses import dataclass

import requests

DEFAULT_PORTS = (8801, 8802, 8803)

CLIENT_ID = "batch-worker"
CLIENT_SECRET = "sandbox-secret"  # noqa: S105 - known to everybody, and opens nothing but the sandbox
RESOURCE_SERVER_ID = "fhir-api"
RESOURCE_SERVER_SECRET = "sandbox-fhir-secret"  # noqa: S105 - the same

SCOPES = ("billing.read", "billing.write", "system/*.read", "system/*.write")

_SETTINGS = """\
[auth.hospital]
type = "client_credentials"
token_url = "{token_url}"
client_id = "{client_id}"
client_secret = "{client_secret}"
scopes = [{scopes}]

[backends.billing]
type = "rest"
url = "{billing_url}"
auth = "hospital"

[backends.ehr]
type = "fhir"
url = "{fhir_url}"
auth = "hospital"
version = "R4"
"""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The URLs of the three servers, from their ports on loopback."""

    oauth_port: int
    billing_port: int
    fhir_port: int

    @property
    def oauth_url(self) -> str:
        """The OAuth server; also its issuer identifier (RFC 8414 section 2)."""
        return f"http://127.0.0.1:{self.oauth_port}"

    @property
    def token_url(self) -> str:
        """The OAuth server's token endpoint."""
        return f"{self.oauth_url}/token"

    @property
    def billing_url(self) -> str:
        """The base URL of the REST backend."""
        return f"http://127.0.0.1:{self.billing_port}/api"

    @property
    def fhir_url(self) -> str:
        """The base URL of the FHIR backend."""
        return f"http://127.0.0.1:{self.fhir_port}/fhir"

    def settings_toml(self) -> str:
        """The ``[auth.*]`` and ``[backends.*]`` tables of a longshore.toml that works against the sandbox."""
        return _SETTINGS.format(
            token_url=self.token_url,
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            scopes=", ".join(f'"{scope}"' for scope in SCOPES),
            billing_url=self.billing_url,
            fhir_url=self.fhir_url,
        )


def session() -> requests.Session:
    """Connections from one server to another: no proxy that the environment names could know where they are."""
    made = requests.Session()
    made.trust_env = False
    return made
