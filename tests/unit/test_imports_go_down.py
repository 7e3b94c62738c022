"""The shape of the program, read from its imports; those under TYPE_CHECKING and inside functions count too."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import worker

ROOT = Path(worker.__file__).parent

# Lowest first. A part is a module or a package; it imports only parts of the layers below its own.
LAYERS = [
    "errors exact_json http_terms log files cores cron held forks lane",
    "records secret fhirpath pem sandbox broker_address stopping",
    "sockets settings owner declare decoding pool",
    "config lines",
    "jobs tables ledger auth amqp",
    "spill",
    "backends outputs triggers",
    "context fakes",
    "execution",
    "runner testing",
    "crew fleet hands second_look connections project",
    "queues",
    "app",
    "commands",
    "cli",
    "__main__",
]
LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer.split()}

SOCKETS = {"triggers", "backends", "outputs"}
ABOVE_THE_SOCKETS = {part for part, layer in LAYER_OF.items() if layer > LAYER_OF["outputs"]}

HOMES = {  # where a library is at home: its errors are translated there, and nobody else knows it
    "watchdog": {"worker.triggers.inbox"},
    "pandas": {"worker.tables"},
    "fhir.resources": {"worker.backends.models"},
    "sqlalchemy": {"worker.ledger"},
    "pika": {"worker.amqp"},
    "apscheduler": {"worker.triggers.schedule"},
    "structlog": {"worker.log"},
}


def name_of(path: Path) -> str:
    names = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if "examples" not in path.parts}


@cache
def imports(module: str) -> frozenset[str]:
    """Full names of what a module imports: modules of ours where it is one, else what the statement says."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return frozenset(found)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def parts_imported_by(module: str) -> set[str]:
    return {part_of(name) for name in imports(module) if name in MODULES} - {part_of(module)}


def importers_of(part: str) -> set[str]:
    return {part_of(module) for module in MODULES if part in parts_imported_by(module)}


def test_every_part_has_its_layer():
    assert {part_of(module) for module in MODULES} - {""} == LAYER_OF.keys()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"worker"}))
def test_imports_only_go_down(module):
    own = LAYER_OF[part_of(module)]
    upward = {part for part in parts_imported_by(module) if not part or LAYER_OF[part] >= own}
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {name for name in imports(module) if name in MODULES} for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("part", sorted(SOCKETS))
def test_a_socket_knows_neither_another_socket_nor_the_runner(part):
    known = set().union(*(parts_imported_by(module) for module in MODULES if part_of(module) == part))
    assert known & (SOCKETS | ABOVE_THE_SOCKETS) == set()


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library):
    users = {
        module
        for module in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imports(module))
    }
    strangers = {user for user in users for home in HOMES[library] if user != home and not user.startswith(f"{home}.")}
    assert strangers == set()


def test_the_sandbox_stands_alone():
    known = set().union(*(parts_imported_by(module) for module in MODULES if part_of(module) == "sandbox"))
    assert known <= {"exact_json"}
    assert importers_of("sandbox") <= {"cli", "commands", "fakes"}


def test_nothing_in_the_worker_needs_the_test_doubles():
    assert importers_of("fakes") == {"testing"}
    assert importers_of("testing") == set()
