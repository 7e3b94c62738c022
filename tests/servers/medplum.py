"""Medplum's FHIR server (Node.js), fetched once with npm, on its repository in memory."""

import contextlib
import shutil
from pathlib import Path

from servers.programs import free_ports, installed, need, run, running

VERSION = "5.2.13"
NAME = f"medplum-{VERSION}"
PACKAGES = ("core", "definitions", "fhir-router")
PROGRAM = Path(__file__).with_suffix(".mjs")


@contextlib.contextmanager
def medplum(folder):
    """The base address of a running server; its files go into an empty folder."""
    need("node", "npm")
    (folder / "node_modules").symlink_to(installed(NAME, _install) / "node_modules")
    program = shutil.copy(PROGRAM, folder)
    (port,) = free_ports(1)
    base = f"http://127.0.0.1:{port}/fhir"
    with running("node", program, port, cwd=folder, ready=f"{base}/metadata"):
        yield base


def _install(scratch):
    (scratch / NAME).mkdir()
    packages = [f"@medplum/{name}@{VERSION}" for name in PACKAGES]
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", *packages, cwd=scratch / NAME)
