"""Columns by FHIRPath: compiled once, then run over what a job returns.

The common part of the language (https://hl7.org/fhirpath/N1/): paths, ``[0]``, ``|``, ``=``, ``!=``, ``and``, ``or``,
``ofType()``, ``extension()`` and ``FUNCTIONS``. Everything else is refused when the job is loaded, with its position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worker.errors import Reject
from worker.fhirpath.functions import FUNCTIONS
from worker.fhirpath.grammar import parse
from worker.fhirpath.steps import Expression
from worker.fhirpath.tokens import PathError

__all__ = ["FUNCTIONS", "Columns", "Expression", "PathError", "compile_columns", "parse"]

Columns = Mapping[str, Callable[[Any], Any]]
"""What stands in each column, by its name: a function of a result."""


def compile_columns(paths: Mapping[str, str]) -> Columns:
    """The columns of these paths; raises ``PathError`` with every mistake in any of them."""
    columns: dict[str, Callable[[Any], Any]] = {}
    mistakes = []
    for name, path in paths.items():
        try:
            columns[name] = _column(name, parse(path))
        except PathError as error:
            mistakes.append(f"the path of {name!r}: {error}")
    if mistakes:
        raise PathError("; ".join(mistakes))
    return columns


def _column(name: str, path: Expression) -> Callable[[Any], Any]:
    """The value at a path, None where there is none; raises ``Reject`` where there are several."""

    def value(result: Any) -> Any:
        found = path([result])
        if len(found) > 1:
            raise Reject(
                f"{len(found)} values for the column {name!r}: choose with first() or where(), or join(', ') them"
            )
        return found[0] if found else None

    return value
