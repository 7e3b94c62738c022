"""How a backend is reached: whose certificates are trusted, which one is shown, and by which proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import requests

from worker.config import BackendSettings
from worker.http_terms import is_loopback
from worker.pem import read_authorities, read_pair


@dataclass(frozen=True, slots=True)
class Route:
    """What an adapter of ``requests`` takes beside a request; ``material`` is what stands in the files.

    Two routes that are equal lead the same way: connections of the one may be used for the other.
    """

    verify: str | bool
    cert: tuple[str, str] | None
    proxies: Mapping[str, str] = field(repr=False)  # with passwords
    material: str = field(repr=False)
    chosen: bool = False
    """Whether the settings name the proxy; else the environment may name another one for another address."""

    def proxies_to(self, url: str) -> Mapping[str, str]:
        """By which proxies an address elsewhere is asked, such as that of an export's file."""
        return self.proxies if self.chosen else environment_proxies(url)

    @classmethod
    def read(cls, name: str, settings: BackendSettings) -> Self:
        """Read it for ``[backends.NAME]``; raises ``ConfigError`` where that cannot be done.

        What the settings leave out is taken from the environment, as curl and ``requests`` do, but for loopback hosts.
        """
        table, material, cert = f"backends.{name}", "", None
        if settings.ca_file:
            material = read_authorities(table, settings.ca_file)
        if settings.client_cert and settings.client_key:
            material += read_pair(table, settings.client_cert, settings.client_key)
            cert = str(settings.client_cert), str(settings.client_key)
        authorities = settings.ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        if settings.proxy:
            proxies: Mapping[str, str] = {"all": settings.proxy.reveal()}
        else:
            proxies = environment_proxies(settings.url)
        return cls(str(authorities) if authorities else True, cert, proxies, material, bool(settings.proxy))


def environment_proxies(url: str) -> Mapping[str, str]:
    """The proxies that the environment names for a URL."""
    return {} if is_loopback(urlsplit(url)) else requests.utils.get_environ_proxies(url)
