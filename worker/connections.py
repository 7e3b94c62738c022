"""What leads out of the process, opened from the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from worker import auth, backends, log
from worker.auth import Credential
from worker.config import Settings
from worker.errors import ConfigError
from worker.ledger import Ledger
from worker.sockets import Backend


@dataclass(frozen=True, slots=True)
class Connections:
    """The ledger, every ``[auth.NAME]``, and every ``[backends.NAME]`` with its auth."""

    ledger: Ledger
    credentials: Mapping[str, Credential]
    backends: Mapping[str, Backend]

    def reload(self) -> bool:
        """Read secrets, keys and certificates anew, as they were rotated; False where some cannot be: logged."""
        auths = [_reloaded(f"auth.{name}", each) for name, each in self.credentials.items()]
        return all(auths + [_reloaded(f"backends.{name}", each) for name, each in self.backends.items()])

    def cut_off(self) -> None:
        """End the calls that backends are being sent, and let none begin."""
        for backend in self.backends.values():
            backend.cut_off()


def _reloaded(name: str, each: Credential | Backend) -> bool:
    try:
        each.reload()
    except ConfigError as error:
        log.get_logger().warning("not read anew, goes on as before", what=name, reason=error.detail)
        return False
    return True


@contextmanager
def connect(settings: Settings, owner: str) -> Iterator[Connections]:
    """Open all connections; nothing is sent yet. Raises ``ConfigError``."""
    with ExitStack() as closing:
        ledger = Ledger(settings.worker.state, owner=owner, lease=settings.worker.lease_seconds)
        closing.callback(ledger.close)
        credentials = {
            name: auth.open_credential(name, each, ledger.tokens, owner=owner) for name, each in settings.auth.items()
        }
        opened: dict[str, Backend] = {}
        for name, each in settings.backends.items():
            credential = credentials[each.auth] if each.auth else None
            opened[name] = backends.open_backend(name, each, credential, threads=settings.worker.threads)
            closing.callback(opened[name].close)
        yield Connections(ledger, credentials, opened)
