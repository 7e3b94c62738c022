"""The functions that a path may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.fhirpath.steps import Collection, Expression, holds, text


@dataclass(frozen=True, slots=True)
class Function:
    """How many arguments it takes, from ``least`` to ``most``, and what makes a step of them."""

    least: int
    most: int
    make: Callable[..., Expression]


def _where(condition: Expression) -> Expression:
    return lambda items: [item for item in items if holds(condition([item]))]


def _exists(*conditions: Expression) -> Expression:
    filtered: Sequence[Expression] = [_where(condition) for condition in conditions]

    def step(items: Collection) -> Collection:
        for keep in filtered:
            items = keep(items)
        return [bool(items)]

    return step


def _join(*separators: Expression) -> Expression:
    def step(items: Collection) -> Collection:
        between = "".join(text(value) for separator in separators for value in separator(items))
        return [between.join(map(text, items))] if items else []

    return step


FUNCTIONS = {
    "first": Function(0, 0, lambda: lambda items: items[:1]),
    "last": Function(0, 0, lambda: lambda items: items[-1:]),
    "count": Function(0, 0, lambda: lambda items: [len(items)]),
    "empty": Function(0, 0, lambda: lambda items: [not items]),
    "not": Function(0, 0, lambda: lambda items: [not holds(items)] if items else []),
    "exists": Function(0, 1, _exists),
    "where": Function(1, 1, _where),
    "join": Function(0, 1, _join),
}
"""By name; ``ofType(Quantity)`` and ``extension('http://...')`` belong to the grammar, as they look at the element."""
