"""The sandbox: an OAuth server, a REST backend and a FHIR backend on loopback, for the demo and the tests."""

from worker.sandbox.addresses import DEFAULT_PORTS, Addresses
from worker.sandbox.server import Sandbox

__all__ = ["DEFAULT_PORTS", "Addresses", "Sandbox"]
