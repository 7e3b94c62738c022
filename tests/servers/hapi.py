"""HAPI FHIR (Java), fetched once with Maven: the reference server, on a database in memory."""

import contextlib
from pathlib import Path

from servers.programs import free_ports, installed, need, run, running

VERSION = "8.8.0"
NAME = f"hapi-{VERSION}"
SOURCE = Path(__file__).with_suffix("")
# Only the first compiler and the simplest collector: the server lives for a minute.
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx768m")


@contextlib.contextmanager
def hapi(folder):
    """The base address of a running HAPI FHIR; its files go into an empty folder."""
    need("java", "javac", "mvn")
    libraries = installed(NAME, _install)
    run("javac", "-proc:none", "-cp", f"{libraries}/*", "-d", folder, SOURCE / "HapiServer.java")
    (port,) = free_ports(1)
    base = f"http://127.0.0.1:{port}/fhir"
    log_settings = f"-Dlogback.configurationFile={SOURCE / 'logback.xml'}"
    command = ["java", *JVM, log_settings, "-cp", f"{folder}:{libraries}/*", "HapiServer", port]
    with running(*command, cwd=folder, ready=f"{base}/Patient?_summary=count"):
        yield base


def _install(scratch):
    pom, folder = SOURCE / "pom.xml", scratch / NAME
    options = (f"-Dhapi.version={VERSION}", f"-DoutputDirectory={folder}")
    run("mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", *options, cwd=scratch)
