"""amqp:// addresses (https://www.rabbitmq.com/docs/uri-spec)."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, and who we are there. The password is not shown."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    encrypted: bool

    @classmethod
    def read(cls, url: str) -> Address:
        """Raises ``ValueError`` with a sentence that quotes nothing of the address."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("is no address; its host or port is wrong") from None
        if parts.scheme not in _PORTS or not host:
            raise ValueError("must be an amqp:// or amqps:// address: amqp://USER:PASSWORD@HOST:PORT/VHOST")
        if parts.query or parts.fragment:
            raise ValueError("must end with the virtual host; the rest has settings of its own in [amqp]")
        if "/" in parts.path[1:]:
            raise ValueError("names a virtual host with a / in it; write %2F for that")
        return cls(
            host,
            port or _PORTS[parts.scheme],
            unquote(parts.path[1:]) or "/",
            unquote(parts.username or "guest"),
            unquote("guest" if parts.password is None else parts.password),
            parts.scheme == "amqps",
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
