"""Conversations with a broker, written down in order though each answer arrives by a callback."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

Step = Callable[[Callable[[Any], None], Callable[[Exception], None]], None]
"""Asks for something; calls the first of its arguments with the answer, or the second with what went wrong."""

Steps = Generator[Step, Any, Any]
"""Yields steps, and is given their answers."""


def follow(steps: Steps, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
    """Take the steps, one after the other; at the end, call one of the two with the result or the exception."""
    _go_on(steps, done, failed, lambda: next(steps))


def _go_on(
    steps: Steps, done: Callable[[Any], None], failed: Callable[[Exception], None], resume: Callable[[], Step]
) -> None:
    try:
        step = resume()
        step(
            lambda answer: _go_on(steps, done, failed, lambda: steps.send(answer)),
            lambda error: _go_on(steps, done, failed, lambda: steps.throw(error)),
        )
    except StopIteration as end:
        done(end.value)
    except Exception as error:  # noqa: BLE001 - handed on
        failed(error)
