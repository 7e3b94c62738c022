"""The sandbox as a whole: three servers on loopback, each with its own threads, started and stopped together."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

import flask
import waitress
import waitress.wasyncore

from worker.sandbox import billing, fhir, introspection, oauth
from worker.sandbox.addresses import Addresses
from worker.sandbox.gate import Gate

Name = Literal["oauth", "billing", "fhir"]

THREADS = 48
MAX_CONNECTIONS = 4000


class Server:
    """One WSGI application behind waitress on a bound socket, in a thread of its own."""

    def __init__(self, name: str, app: flask.Flask, listener: socket.socket) -> None:
        self._connections: dict[int, Any] = {}
        self._server = waitress.create_server(
            app,
            map=self._connections,
            sockets=[listener],
            threads=THREADS,
            connection_limit=MAX_CONNECTIONS,
            max_request_body_size=2 * fhir.MAX_BODY,
            asyncore_use_poll=True,
        )
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"sandbox-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer what is being worked on, close every connection and return."""
        self._stopping = True
        self._server.pull_trigger()
        self._thread.join()

    def _serve(self) -> None:
        # waitress's own run() ends only with an exception in the main thread; closing from another one is a race.
        while not self._stopping:
            waitress.wasyncore.loop(timeout=1, map=self._connections, use_poll=True, count=1)
        self._server.task_dispatcher.shutdown()
        waitress.wasyncore.close_all(self._connections)


class Sandbox:
    """An OAuth server, a REST backend and a FHIR backend, as a context manager or with ``start`` and ``stop``.

    ``ports`` are those of the three in this order, 0 for a free one; ``latency`` is in seconds a request,
    ``token_seconds`` the lifetime of a token. Raises ``OSError`` with the port where one is taken.
    """

    def __init__(
        self, ports: tuple[int, int, int] = (0, 0, 0), *, latency: float = 0.0, token_seconds: int = 300
    ) -> None:
        self.addresses = Addresses(*ports)
        self._ports = ports
        self._gates: dict[Name, Gate] = {"oauth": Gate(latency), "billing": Gate(latency), "fhir": Gate(latency)}
        self._mint = oauth.Mint(token_seconds)
        self._servers: list[Server] = []
        self._stopped = threading.Event()

    @property
    def oauth_url(self) -> str:
        """The OAuth server; also its issuer identifier."""
        return self.addresses.oauth_url

    issuer = oauth_url

    @property
    def token_url(self) -> str:
        """The OAuth server's token endpoint."""
        return self.addresses.token_url

    @property
    def billing_url(self) -> str:
        """The base URL of the REST backend."""
        return self.addresses.billing_url

    @property
    def fhir_url(self) -> str:
        """The base URL of the FHIR backend."""
        return self.addresses.fhir_url

    def settings_toml(self) -> str:
        """The ``[auth.*]`` and ``[backends.*]`` tables of a longshore.toml that works against this sandbox."""
        return self.addresses.settings_toml()

    def start(self) -> Self:
        """Bind the ports and serve; returns when all three can be asked."""
        # waitress says "Task queue depth" for every request that waits for a thread: that is no news here.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        listeners = _bind(self._ports)
        self.addresses = Addresses(*(listener.getsockname()[1] for listener in listeners))
        self._billing_check = billing.TokenCheck(self.addresses)
        self._fhir_check = introspection.TokenCheck(self.addresses)
        apps = (
            oauth.create_app(self.addresses, self._mint, self._gates["oauth"]),
            billing.create_app(self._billing_check, self._gates["billing"]),
            fhir.create_app(self.addresses, self._fhir_check, self._gates["fhir"]),
        )
        self._servers = [Server(*parts) for parts in zip(self._gates, apps, listeners, strict=True)]
        return self

    def stop(self) -> None:
        """Stop all three, the backends first, since they ask the OAuth server."""
        if not self._servers:
            return
        for server in reversed(self._servers):
            server.stop()
        self._servers = []
        self._fhir_check.close()
        self._stopped.set()

    def wait(self) -> None:
        """Return when the sandbox is stopped (by another thread or a signal handler)."""
        self._stopped.wait()

    def counts(self) -> dict[Name, dict[str, int]]:
        """Requests up to now: server -> route -> how many."""
        return {name: gate.counts() for name, gate in self._gates.items()}

    def fail(
        self,
        app: Name,
        times: int = 1,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        route: str | None = None,
    ) -> None:
        """Let a server answer its next requests (of one route, or any) with a failure."""
        self._gates[app].fail(times, status, headers, route)

    def heal(self, app: Name) -> None:
        """Let a server answer as it should again."""
        self._gates[app].heal()

    def revoke_tokens(self) -> None:
        """Make every token issued so far invalid, at once and everywhere."""
        self._mint.revoke()
        self._billing_check.forget()
        self._fhir_check.forget()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _bind(ports: tuple[int, int, int]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for port in ports:
            listeners.append(socket.create_server(("127.0.0.1", port)))
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise OSError(error.errno, f"port {port} on 127.0.0.1 cannot be used; choose another one") from error
    return listeners
