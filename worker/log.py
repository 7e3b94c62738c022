"""One line an event; delivery id and job are bound by context. No line can be forged by what is written into it."""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

_Event = MutableMapping[str, Any]

_FRAMES = 20
# What they say is of the code. UserWarning, the usual one, may be of a row: pydantic's quotes the value that is amiss.
_ABOUT_CODE = frozenset({RuntimeWarning, SyntaxWarning, DeprecationWarning, PendingDeprecationWarning})
_WORD = re.compile(r'[^\s"=\\]+')
_PHRASE = re.compile(r'[^"=\\]+')
_IN_ADDRESSES = re.compile(r"(?<=\?)[^\s'\"<>)]+|(?<=://)[^\s'\"/@]+@")  # queries and credentials


def configure(
    level: str,
    *,
    stream: TextIO,
    json: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Write events from ``level`` on (debug, info, warning, error) to ``stream``, as ``key=value`` lines or JSON.

    Other libraries' log records take the same way, but from warnings on only: what urllib3 and requests say at DEBUG
    holds addresses.
    """
    structlog.configure(
        processors=[
            _name_errors,
            _in_order(clock),
            structlog.processors.JSONRenderer() if json else _line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [old for old in root.handlers if isinstance(old, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(logging.WARNING))


def tell_what_python_prints() -> None:
    """From now on, log what Python would print by itself: what ends a thread of a job's, or is raised where nobody can
    catch it, and warnings. Without their messages, which may quote a row."""
    threading.excepthook = sys.unraisablehook = _tell
    warnings.showwarning = _tell_warning


def _tell(seen: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
    if seen.exc_type is not SystemExit:
        where = location(seen.exc_value) if seen.exc_value else ""
        get_logger().error("error outside of any row", error=seen.exc_type.__name__, where=where)


def _tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the library's signature
    line: str | None = None,  # noqa: ARG001
) -> None:
    text = {"text": str(message)} if category in _ABOUT_CODE else {}
    get_logger().warning("python warns", warning=category.__name__, where=f"{filename}:{lineno}", **text)


def get_logger() -> FilteringBoundLogger:
    """A logger; its events are short lower-case phrases, with values as keywords."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


class _Here(threading.local):  # with a context variable, a message took a microsecond more
    bound: Mapping[str, object] = {}


_here = _Here()


def bind(values: dict[str, object]) -> Mapping[str, object]:
    """Add values, and what joins them later, to every event, until ``unbind`` is given what this gives.

    A new thread begins without them.
    """
    before = _here.bound
    if before:
        own = values.copy()
        values.clear()
        values |= {**before, **own}
    _here.bound = values
    return before


def unbind(before: Mapping[str, object]) -> None:
    """Have the values that were bound before."""
    _here.bound = before


def lend(values: Mapping[str, object]) -> Mapping[str, object]:
    """On a thread that works for another: have what is bound there, until ``unbind`` is given what this gives."""
    before, _here.bound = _here.bound, values
    return before


@contextmanager
def bound(**values: object) -> Iterator[None]:
    """Add values to every event inside the ``with``."""
    before = bind(values)
    try:
        yield
    finally:
        unbind(before)


def context() -> Mapping[str, object]:
    """What is bound here."""
    return _here.bound


def location(error: BaseException) -> str:
    """Where a bug is, innermost last: ``file:line in function, ...``, at most the last 20 frames.

    Without the error's message, which may quote a row.
    """
    frames = [
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return ", ".join(frames[-_FRAMES:])


def _name_errors(_logger: object, _method: str, event: _Event) -> _Event:
    """Put an error's type and place where a traceback would quote its message."""
    given = event.pop("exc_info", None)
    error = sys.exception() if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event.setdefault("error", type(error).__name__)
        event.setdefault("location", location(error))
    return event


def _in_order(clock: Callable[[], datetime]) -> Callable[[object, str, _Event], _Event]:
    def in_order(_logger: object, method: str, event: _Event) -> _Event:
        time = clock().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        ours = {"time": time, "level": method, "event": event["event"]}
        return {**ours, **context(), **event, **ours}  # no value may pose as one of ours

    return in_order


def _line(_logger: object, _method: str, event: _Event) -> str:
    time, level, phrase = event.pop("time"), event.pop("level"), event.pop("event")
    values = (f"{_quoted(key, _WORD)}={_quoted(value, _WORD)}" for key, value in event.items())
    return " ".join([f"{time} {level:<5}", _quoted(phrase, _PHRASE), *values])


def _quoted(value: object, plain: re.Pattern[str]) -> str:
    text = str(value)
    if plain.fullmatch(text) and text.isprintable():
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class _Lines:
    """Writes whole lines. What a full disk does not take is counted and said later: it must not stop a delivery."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._lost = 0

    def __call__(self, *_names: object) -> _Lines:
        return self

    def write(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # full, gone, or closed
                self._lost += 1
                return
            lost, self._lost = self._lost, 0
        if lost:
            get_logger().warning("log could not be written", lines=lost)

    debug = info = warning = error = critical = write


class _Bridge(logging.Handler):
    """Takes other libraries' log records into ours, without what their addresses carry."""

    def emit(self, record: logging.LogRecord) -> None:
        say = get_logger().error if record.levelno >= logging.ERROR else get_logger().warning
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = "a message that its values do not fit"
        say(_IN_ADDRESSES.sub("***", message), logger=record.name, exc_info=record.exc_info)
