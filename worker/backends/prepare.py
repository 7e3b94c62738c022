"""From a call to a request that can be sent: what ``requests.Session`` would do of it, at a tenth of the cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus

import requests

from worker.backends.calls import Call
from worker.backends.headers import Headers

_COMMON = Headers([("User-Agent", "longshore"), ("Accept", "application/json, */*;q=0.1")])
# Without a character that would have to be quoted, or a host that would have to be encoded.
_QUOTED = re.compile(r"https?://[a-z0-9.:\[\]-]+/[\w$.~/-]*", re.ASCII)
_PLAIN = (dict, list, type(None))
_MAPPING = (dict, Mapping)  # in this order: the second takes long to ask
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_TEXT = (str, bytes)
_UNRESERVED = re.compile(r"[\w.~-]*", re.ASCII)
_METHOD = re.compile(r"[A-Z]+(?:-[A-Z]+)*", re.ASCII)
# RFC 9110 sections 5.1 and 5.5, each a line of its own so that a name cannot end early.
_FIELD = re.compile(r"[\w!#$%&'*+.^`|~-]+\n(?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?", re.ASCII)


class Unsendable(ValueError):
    """What of a call cannot be sent, and why, without quoting it."""


class _Request(requests.PreparedRequest):
    """One that is prepared here: without the parent's hooks and cookies, which nobody asks for."""

    def __init__(self, method: str, headers: Headers, body: bytes | None) -> None:
        self.method, self.headers, self.body = method, headers, body
        self.url = self._cookies = self._body_position = None
        self.hooks = {}


def prepare(call: Call, url: str) -> requests.PreparedRequest:
    """The request for a call whose path means ``url``.

    Raises ``Unsendable``, or another ``ValueError`` or a ``TypeError``, which may quote what is wrong.
    """
    if call.method not in _METHODS and not _METHOD.fullmatch(call.method):
        raise Unsendable("the request's method is none that could be sent")
    request = _Request(call.method, _COMMON.copy(), call.body)
    if call.headers:
        for name, value in call.headers.items():
            request.headers[name] = value
        _check_headers(call.headers)
    if _QUOTED.fullmatch(url) and isinstance(call.params, _PLAIN):
        query = [f"{_quoted_name(name)}={_quoted(value)}" for name, value in pairs(call.params or {})]
        request.url = f"{url}?{'&'.join(query)}" if query else url
    else:
        request.prepare_url(url, call.params)
    if call.body is not None or call.method not in ("GET", "HEAD"):
        request.prepare_content_length(call.body)
    return request


def _check_headers(headers: Mapping[str, str]) -> None:
    try:
        sendable = all(map(_FIELD.fullmatch, map("\n".join, headers.items())))
    except TypeError:
        sendable = False
    if not sendable:
        what = "each name has to be a token of ASCII, each value a text of one line in Latin-1, with no blank before it"
        raise Unsendable(f"a header cannot be sent: {what}")


def _quoted(value: Any) -> str:
    """As ``urlencode`` does it, which looks at each value five times."""
    if type(value) is str and value.isascii() and value.isalnum():
        return value
    text = value if isinstance(value, _TEXT) else str(value)
    return text if isinstance(text, str) and _UNRESERVED.fullmatch(text) else quote_plus(text)


_quoted_name = lru_cache(maxsize=256, typed=True)(_quoted)  # the same few again and again


def pairs(params: Mapping[str, Any] | list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Names and single values as ``requests`` takes them: a list is repeated, None left out."""
    for name, given in params.items() if isinstance(params, _MAPPING) else params:
        if type(given) is str:
            yield name, given
        else:
            for value in [given] if isinstance(given, _TEXT) or not hasattr(given, "__iter__") else given:
                if value is not None:
                    yield name, value
