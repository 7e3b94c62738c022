"""What FHIR costs in Python: a column by path beside the code for it, and what is validated before a write.

    .venv/bin/python benchmarks/columns.py

The resources are those of the tests. Each figure is the median over rounds of processor time, in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker import exact_json
from worker.backends import models
from worker.fhirpath import compile_columns

LINES = (Path(__file__).parents[1] / "tests" / "data" / "fhir-r4.ndjson").read_bytes().splitlines()
PATIENT = {
    "resourceType": "Patient",
    "birthDate": "1970-03",
    "deceasedDateTime": "2020",
    "name": [{"use": "usual", "given": ["Honza"]}, {"use": "official", "family": "Novak", "given": ["Jan", "Karel"]}],
}
GETTERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "birthDate": lambda patient: patient.get("birthDate"),
    "deceased": lambda patient: patient.get("deceasedBoolean", patient.get("deceasedDateTime")),
    "name.first().given.first()": lambda patient: patient["name"][0]["given"][0],
    "name.where(use = 'official').family": lambda patient: next(
        (name.get("family") for name in patient["name"] if name.get("use") == "official"), None
    ),
}
ROUNDS = 15
CALLS = 20_000


def microseconds(function: Callable[[Any], Any], arguments: list[Any], calls: int) -> float:
    """The processor time of one call."""
    started = time.process_time()
    for _ in range(calls):
        for argument in arguments:
            function(argument)
    return (time.process_time() - started) / calls / len(arguments) * 1e6


def compare(contenders: dict[str, Callable[[Any], Any]], arguments: list[Any], calls: int) -> dict[str, float]:
    """The medians of the contenders, which take turns."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, function in contenders.items():
            found[name].append(microseconds(function, arguments, calls))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Print a line for each path, and one for validation."""
    for path, getter in GETTERS.items():
        column = compile_columns({"column": path})["column"]
        costs = compare({"code": getter, "path": column}, [PATIENT], CALLS)
        ratio = costs["path"] / costs["code"]
        print(f"{path:38} {costs['path']:6.2f} us, {ratio:4.1f} times the code for it ({costs['code']:.2f} us)")
    resources = [exact_json.loads(line) for line in LINES]
    for resource in resources:
        models.problems("R4", resource)  # the models are built at first use
    lines = {"parse": lambda place: exact_json.loads(LINES[place])}
    validate = {"validate": lambda place: models.problems("R4", resources[place])}
    costs = compare(lines | validate, list(range(len(LINES))), 1)
    ratio = costs["validate"] / costs["parse"]
    print(
        f"validating a resource before a write: {costs['validate']:.0f} us, {ratio:.1f} times its parsing, in the mean"
    )


if __name__ == "__main__":
    main()
