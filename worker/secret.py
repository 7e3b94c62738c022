"""Secrets of the configuration: never shown, and read anew each time so that they may be rotated."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from worker.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table stands, which is what its checks need to know beside its values.

    ``root`` is the folder that relative paths start from, ``where`` and ``key`` name the table in errors, and ``auths``
    are the names of the ``[auth.NAME]`` tables.
    """

    root: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    where: str = ""
    key: str = ""
    auths: frozenset[str] | None = None

    @classmethod
    def of(cls, info: ValidationInfo) -> Place:
        """The place that a validator was called at; a model made by hand stands in the current folder."""
        return info.context if isinstance(info.context, cls) else cls()


def sentence(what: str) -> PydanticCustomError:
    """A mistake that has its advice with it, where an example of the setting would say nothing."""
    return PydanticCustomError("sentence", "{what}", {"what": what})


class Secret:
    """A text that is never shown: ``repr``, ``str`` and dumps give ``***``.

    ``source`` is the text itself, ``{"env": NAME}`` or ``{"file": PATH}``; raises ``ValueError`` for anything else.
    """

    __slots__ = ("_key", "_read", "_where")

    def __init__(self, source: object, place: Place | None = None, key: str = "") -> None:
        place = place or Place()
        self._read = _reader(source, place, self._usable)
        self._where = place.where
        self._key = f"{place.key}.{key}" if place.key else key

    def reveal(self) -> str:
        """The text, read anew from its variable or file so that it may be rotated while the worker runs.

        A file's one trailing newline is not part of it. Raises ``ConfigError`` where it cannot be read any more.
        """
        try:
            return self._read()
        except ValueError as unreadable:
            raise self.mistake(str(unreadable)) from None

    def usable(self) -> str:
        """The text, for a validator: what is wrong with it is a mistake in the setting."""
        try:
            return self._read()
        except ValueError as unreadable:
            raise sentence(str(unreadable)) from None

    def mistake(self, what: str) -> ConfigError:
        """The error for somebody who read it and can make nothing of it."""
        return ConfigError([Problem(self._where, self._key, what)])

    @staticmethod
    def _usable(text: str, where: str) -> str:
        if not text:
            raise ValueError(f"{where} is empty; put the secret there")
        if not text.isprintable():
            raise ValueError(f"{where} must hold the secret as one line of printable UTF-8 text")
        return text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.reveal())

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def _validate(cls, value: object, info: core_schema.ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        secret = cls(value, Place.of(info), info.field_name or "")
        secret.usable()
        return secret


class SecretDocument(Secret):
    """A secret of several lines, such as a private key in PEM."""

    __slots__ = ()

    @staticmethod
    def _usable(text: str, where: str) -> str:
        for line in text.splitlines() or [text]:
            Secret._usable(line, where)
        return text


class BearerToken(Secret):
    """A secret that is sent behind the word Bearer."""

    __slots__ = ()

    @staticmethod
    def _usable(text: str, where: str) -> str:
        if text[:7].lower() == "bearer ":
            raise ValueError(f"{where} must hold the token alone; remove the word Bearer, which is put before it")
        return Secret._usable(text, where)


def _reader(source: object, place: Place, usable: Callable[[str, str], str]) -> Callable[[], str]:
    match source:
        case str():
            return lambda: usable(source, "the text")
        case {"env": str(name), **rest} if not rest:
            return lambda: usable(_in_environment(name, place.environ), f"the environment variable {name}")
        case {"file": str(name), **rest} if not rest:
            path = place.root / name
            return lambda: usable(_in_file(path), str(path))
    raise ValueError('must be a text, { env = "NAME" } or { file = "PATH" }')


def _in_environment(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ValueError(f"the environment variable {name} is not set; set it where the worker is started")
    return environ[name]


def _in_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; put the secret there") from None
    text = content.decode(errors="surrogateescape")  # a strict decoder's error would carry the secret along
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
