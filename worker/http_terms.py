"""Terms of HTTP that both the OAuth servers and the backends speak: addresses, origins, and how long to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHORTEST = len("http://h")  # an origin has no slash further on (RFC 3986 section 3.2)


def address(text: str) -> SplitResult:
    """The parts of an http or https URL; raises ``ValueError`` with a sentence that quotes nothing."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("must be an http or https address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user or a password: they belong in an [auth.NAME] table")
    if "#" in text:
        raise ValueError("must not have a fragment (#)")
    return parts


def is_loopback(address: SplitResult) -> bool:
    """Whether what is sent there stays on this machine: no proxy could know it, and none may read it."""
    host = address.hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def travels_open(address: SplitResult) -> bool:
    """Whether others on the network can read what is sent there."""
    return address.scheme == "http" and not is_loopback(address)


def origin_of(url: str) -> str:
    """``scheme://host:port`` in lower case, the port always written (RFC 6454); raises ``ValueError``."""
    path = url.find("/", _SHORTEST)
    return _origin(url if path < 0 else url[:path])


@lru_cache(maxsize=256)  # asked for every call, of a few origins
def _origin(url: str) -> str:
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in _DEFAULT_PORTS or not host:
        raise ValueError("it is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it carries a user name or a password")
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{parts.port or _DEFAULT_PORTS[scheme]}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds, given as seconds or as a date (RFC 9110 section 10.2.3); None where there is none.

    A date is compared with the answer's own ``Date``, so that the two clocks need not agree.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])  # 30 years; more digits would only overflow
    until, now = _date(value), _date(headers.get("Date", ""))
    if until is None or now is None:
        return None
    return float(max(0, math.ceil((until - now).total_seconds())))


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else None
