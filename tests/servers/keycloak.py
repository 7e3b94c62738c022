"""Keycloak, fetched once with Maven, on a database in memory."""

import contextlib
import json
import shutil
import zipfile

from documentation import ROOT
from servers.oauth import API, API_SECRET, LIFETIME, SCOPES, Identities, OAuthServer
from servers.programs import free_ports, installed, need, run, running

VERSION = "26.7.3"
NAME = f"keycloak-{VERSION}"
SECRET = "s3cret+/ %&é"
# Only the first compiler and the simplest collector: the server lives for a minute.
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xms256m", "-Xmx768m")
MAIN = "io.quarkus.bootstrap.runner.QuarkusEntryPoint"


@contextlib.contextmanager
def keycloak(folder):
    """A running Keycloak with the realms ``longshore`` and, from the compose file, ``hospital``, in an empty folder."""
    need("java", "mvn")
    distribution = installed(NAME, _install)
    for name in ("lib", "providers", "themes"):
        (folder / name).symlink_to(distribution / name)
    identities = Identities.make(folder)
    (folder / "data" / "import").mkdir(parents=True)
    (folder / "data" / "import" / "realm.json").write_text(json.dumps(_realm(identities)))
    shutil.copy(ROOT / "compose" / "keycloak.json", folder / "data" / "import")
    port, tls_port, management_port = free_ports(3)
    issuer, tls_issuer = f"http://127.0.0.1:{port}/realms/longshore", f"https://127.0.0.1:{tls_port}/realms/longshore"
    options = {
        "http-enabled": "true",
        "hostname-strict": "false",
        "cache": "local",
        "http-host": "127.0.0.1",
        "http-port": port,
        "https-port": tls_port,
        "http-management-port": management_port,
        "https-certificate-file": identities.server.certificate,
        "https-certificate-key-file": identities.server.key,
        "https-trust-store-file": identities.authority.ca_file,
    }
    command = ["java", *JVM, f"-Dkc.home.dir={folder}", "-cp", folder / "lib" / "quarkus-run.jar", MAIN, "start"]
    arguments = [f"--{name}={value}" for name, value in options.items()]
    ready = f"{issuer}/.well-known/openid-configuration"
    with running(*command, "--optimized", "--import-realm", *arguments, cwd=folder, ready=ready) as known:
        yield OAuthServer(
            issuer=issuer,
            token_url=known["token_endpoint"],
            introspection_url=known["introspection_endpoint"],
            tls_issuer=tls_issuer,
            tls_token_url=known["token_endpoint"].replace(issuer, tls_issuer),
            ca_file=identities.authority.ca_file,
            certificate=identities.certificate,
            stranger=identities.stranger,
            keys=identities.keys,
            secret=SECRET,
        )


def _install(scratch):
    artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
    run("mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={scratch}")
    with zipfile.ZipFile(next(scratch.glob("*.zip"))) as archive:
        archive.extractall(scratch)
    run("sh", "bin/kc.sh", "build", "--db=dev-mem", "--https-client-auth=request", cwd=scratch / NAME)


def _realm(identities):
    service = {
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "defaultClientScopes": [],
        "optionalClientScopes": list(SCOPES),
    }
    clients = [
        {"clientId": "batch-secret", "clientAuthenticatorType": "client-secret", "secret": SECRET},
        {
            "clientId": "batch-key",
            "clientAuthenticatorType": "client-jwt",
            "attributes": {"use.jwks.string": "true", "jwks.string": json.dumps(identities.jwks)},
        },
        {
            "clientId": "batch-tls",
            "clientAuthenticatorType": "client-x509",
            "attributes": {"x509.subjectdn": "CN=batch-tls"},
        },
        {"clientId": API, "clientAuthenticatorType": "client-secret", "secret": API_SECRET},
    ]
    return {
        "realm": "longshore",
        "enabled": True,
        "sslRequired": "none",
        "accessTokenLifespan": LIFETIME,
        "clientScopes": [_scope(name) for name in SCOPES],
        "clients": [service | client for client in clients],
    }


def _scope(name):
    """A scope that is shown, and that makes the API the token's audience: only that may introspect it."""
    audience = {
        "name": "audience",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.client.audience": API, "access.token.claim": "true", "introspection.token.claim": "true"},
    }
    shown = {"include.in.token.scope": "true"}
    return {"name": name, "protocol": "openid-connect", "attributes": shown, "protocolMappers": [audience]}
