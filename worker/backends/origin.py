"""Where a backend is, and the guard that nothing meant for it goes anywhere else."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from worker.http_terms import address, origin_of, travels_open

# No scheme, no host, nothing to quote and no segment of dots: it cannot lead away, and nearly every path is like that.
_HARMLESS = re.compile(r"/?[\w$~-][\w$.~-]*(?:/[\w$~-][\w$.~-]*)*/?", re.ASCII)
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*://|//", re.IGNORECASE)
# A backslash or a tab is read as a slash or dropped by some parsers: two readings of one URL are one too many.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\#]")


def locate(base: str, path: str) -> str:
    """The URL of ``path`` below ``base``; a whole URL is taken if its origin is that of ``base``.

    Raises ``ValueError``, whose text does not quote the path: it may have come from a row.
    """
    if _HARMLESS.fullmatch(path):
        return f"{base.rstrip('/')}/{path.lstrip('/')}"
    if _AMBIGUOUS.search(path):
        raise ValueError("it has a blank, a control character, '#' or a backslash in it")
    whole = bool(_ABSOLUTE.match(path))
    url = path if whole else (f"{base.rstrip('/')}/{path.lstrip('/')}" if path.strip("/") else base)
    if origin_of(url) != origin_of(base):
        raise ValueError(f"it leads away from {origin_of(base)}")
    if any(segment in (".", "..") for segment in re.split(r"[/\\]", unquote(urlsplit(path).path))):
        raise ValueError("it has a '.' or '..' segment")
    return url


def elsewhere(url: str) -> str:
    """A URL of whatever origin, if what comes from there cannot be changed on its way; raises ``ValueError``."""
    if travels_open(address(url)):
        raise ValueError("what it leads to would travel unencrypted")
    return url
