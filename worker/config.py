"""longshore.toml and the environment -> frozen ``Settings``; every mistake is reported at once."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from worker.errors import ConfigError, Problem
from worker.secret import Place, Secret
from worker.settings import (
    AmqpSettings,
    ApiKeySettings,
    AuthSettings,
    BackendSettings,
    BasicSettings,
    BearerSettings,
    ClientCredentialsSettings,
    FhirSettings,
    JobSettings,
    RestSettings,
    WorkerSettings,
    nearest,
)

__all__ = [
    "AmqpSettings",
    "ApiKeySettings",
    "AuthSettings",
    "BackendSettings",
    "BasicSettings",
    "BearerSettings",
    "ClientCredentialsSettings",
    "FhirSettings",
    "JobSettings",
    "RestSettings",
    "Secret",
    "Settings",
    "WorkerSettings",
    "load",
    "load_jobs",
    "mistakes",
    "nearest",
]

_Key = tuple[str | int, ...]
_Table = TypeVar("_Table", bound=BaseModel)

_PREFIX = "LONGSHORE_"
_NOT_SETTINGS = {"LONGSHORE_CONFIG"}  # it names the file, for the command line
_NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "text",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
}
_GIVEN: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    tuple: "a list",
    dict: "a table",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """All that one longshore.toml says; ``path`` is the file itself, absolute."""

    path: Path
    worker: WorkerSettings
    auth: Mapping[str, AuthSettings]
    backends: Mapping[str, BackendSettings]
    amqp: AmqpSettings | None
    jobs: Mapping[str, JobSettings]

    @property
    def root(self) -> Path:
        """The project's folder, which relative paths start from."""
        return self.path.parent

    @property
    def jobs_folder(self) -> Path:
        """Where the job files are."""
        return self.root / "jobs"

    @property
    def home(self) -> Path:
        """What the worker keeps for itself."""
        return self.root / ".longshore"

    @property
    def work(self) -> Path:
        """Where deliveries are while they are worked on."""
        return self.home / "work"

    @property
    def ledger_file(self) -> Path | None:
        """Where the ledger is, if it is a file and not a server's."""
        kind, _, file = self.worker.state.partition(":///")
        return Path(file.partition("?")[0]) if kind == "sqlite" else None  # without options of the driver's

    @property
    def lacks_ledger(self) -> bool:
        """Whether the ledger is a file that is not there: opening it would make an empty one."""
        try:
            return self.ledger_file is not None and not self.ledger_file.exists()
        except OSError:  # which is told when it is opened
            return False


_WORKER = "worker"
_SECTIONS = {section.name for section in fields(Settings)} - {"path"}


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of a project; without a ``path`` those of the current folder.

    ``LONGSHORE_BACKENDS__BILLING__URL`` and the like in ``environ`` go before the file. Raises ``ConfigError`` with
    every mistake in both.
    """
    file = path or Path("longshore.toml")
    tree = _parse(file)
    reading = _Reading(file, environ)
    reading.override(tree)
    return reading.settings(tree)


def load_worker(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """What ``[worker]`` says, as if there were nothing else in the file; raises ``ConfigError`` with its mistakes.

    For who only looks at what became of deliveries, and may not have the secrets of the rest.
    """
    file = path or Path("longshore.toml")
    reading = _Reading(file, environ)
    tree = {name: table for name, table in _parse(file).items() if name == _WORKER}
    reading.override(tree)
    return reading.settings({name: table for name, table in tree.items() if name == _WORKER})


def load_jobs(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Mapping[str, JobSettings]:
    """The tables of ``[jobs.NAME]`` that have no mistake, whatever is wrong with the rest; none of a file without TOML.

    For who wants to tell the jobs' mistakes beside those of the settings, and none that there are not.
    """
    file = path or Path("longshore.toml")
    reading = _Reading(file, environ)
    try:
        tree = _parse(file)
    except ConfigError:
        return {}
    reading.override(tree)
    return reading.jobs(tree)


def mistakes(model: type[BaseModel], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Key and sentence for each value, given by Python code, that does not fit its place in a table.

    A number that is written as text, which the environment cannot do without, is one of them.
    """
    try:
        model.model_validate(values, strict=True)
    except ValidationError as error:
        return [(_dotted(each["loc"]), _what(each, model)) for each in error.errors(include_url=False)]
    return []


def _parse(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        what = "there is no such file; make a project with `longshore init NAME`, or name its file with --config PATH"
    except OSError as error:
        what = f"cannot be read: {error.strerror}; name a readable TOML file with --config PATH"
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text: byte {error.start + 1} is wrong; save it as UTF-8"
    except (ValueError, RecursionError) as error:
        end = f"at line {len(text.splitlines())}, the end of the file"
        what = f"is not TOML: {str(error).replace('at end of document', end)}"
    raise ConfigError([Problem(str(file), "", what)])  # out here: the errors above carry the file's text along


class _Reading:
    """Turns tables into settings, gathering every mistake on the way."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self._file = file
        self._environ = environ
        self._variables: dict[_Key, str] = {}
        self._problems: list[Problem] = []

    def override(self, tree: dict[str, Any]) -> None:
        """Put the values that the environment gives into the tree, whole tables before what is in them."""
        for variable in sorted(self._environ):
            if variable.startswith(_PREFIX) and variable not in _NOT_SETTINGS:
                self._put(tree, variable)

    def _put(self, tree: dict[str, Any], variable: str) -> None:
        *above, last = variable.removeprefix(_PREFIX).split("__")
        table: Any = tree
        key: tuple[str, ...] = ()
        for part in above:
            name = _as_written(part, table)
            key = (*key, name)
            if name not in table:
                table[name] = {}
                self._variables[key] = variable
            table = table[name]
            if not isinstance(table, dict):
                what = "is not a table, so nothing can be set in it"
                self._problems.append(Problem(f"environment variable {variable}", _dotted(key), what))
                return
        name = _as_written(last, table)
        table[name] = _value(self._environ[variable])
        self._variables[(*key, name)] = variable

    def settings(self, tree: dict[str, Any]) -> Settings:
        """All of them; raises ``ConfigError`` if there was any mistake."""
        for section in sorted(tree.keys() - _SECTIONS):
            self._complain((section,), f"unknown key{nearest(section, _SECTIONS)}")
        auths = self._tables(tree, "auth")
        place = self._place(frozenset(auths))
        worker = self._read(WorkerSettings, tree.get("worker", {}), ("worker",), place)
        amqp = self._read(AmqpSettings, tree["amqp"], ("amqp",), place) if "amqp" in tree else None
        auth = self._read_named(get_args(AuthSettings), auths, "auth", place, usual="client_credentials")
        backends = self._read_named(get_args(BackendSettings), self._tables(tree, "backends"), "backends", place)
        jobs = self.jobs(tree)
        if worker is None or self._problems:
            raise ConfigError(self._problems)
        return Settings(self._file.absolute(), worker, auth, backends, amqp, jobs)

    def jobs(self, tree: Mapping[str, Any]) -> Mapping[str, JobSettings]:
        """Those that have no mistake."""
        return self._read_named((JobSettings,), self._tables(tree, "jobs"), "jobs", self._place())

    def _place(self, auths: frozenset[str] | None = None) -> Place:
        return Place(self._file.parent.absolute(), self._environ, str(self._file), auths=auths)

    def _tables(self, tree: Mapping[str, Any], section: str) -> dict[str, Any]:
        tables = tree.get(section, {})
        if isinstance(tables, dict):
            return tables
        self._complain((section,), f"must be tables, each with a name; write [{section}.NAME]")
        return {}

    def _read_named(
        self, models: tuple[type[_Table], ...], tables: Mapping[str, Any], section: str, place: Place, usual: str = ""
    ) -> dict[str, _Table]:
        found = {}
        for name, table in tables.items():
            model = self._model(models, table, (section, name), usual)
            if model and (settings := self._read(model, table, (section, name), place)):
                found[name] = settings
        return found

    def _model(self, models: tuple[type[_Table], ...], table: Any, key: _Key, usual: str) -> type[_Table] | None:
        if len(models) == 1 or not isinstance(table, dict):
            return models[0]
        kinds = {model.model_fields["type"].default: model for model in models}
        kind = table.get("type", usual)
        if isinstance(kind, str) and kind in kinds:
            return kinds[kind]
        choice = nearest(str(kind), kinds)
        self._complain((*key, "type"), f"is no known type{choice}" if kind else f"is missing{choice}")
        return None

    def _read(self, model: type[_Table], table: Any, key: _Key, place: Place) -> _Table | None:
        try:
            return model.model_validate(table, context=replace(place, key=_dotted(key)))
        except ValidationError as error:
            for mistake in error.errors(include_url=False):
                self._complain((*key, *mistake["loc"]), _what(mistake, model))
        return None

    def _complain(self, key: _Key, what: str) -> None:
        given_by = [self._variables[key[:end]] for end in range(1, len(key) + 1) if key[:end] in self._variables]
        where = f"environment variable {given_by[-1]}" if given_by else str(self._file)
        self._problems.append(Problem(where, _dotted(key), what))


def _as_written(part: str, table: Mapping[str, Any]) -> str:
    """The table's own name for a part of a variable's name, which knows neither case nor hyphens."""
    spoken = part.casefold()
    return next((name for name in table if re.sub(r"\W", "_", name.casefold()) == spoken), spoken)


def _value(text: str) -> Any:
    """Lists and tables are written in JSON or TOML; pydantic makes numbers out of text by itself."""
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    for parse in (json.loads, lambda toml: tomllib.loads(f"value = {toml}")["value"]):
        with suppress(ValueError):
            return parse(text)
    return text


def _dotted(key: _Key) -> str:
    """The key as TOML writes it, positions in lists as [0]."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_bare_or_quoted(part)}" for part in key)
    return "".join(parts).removeprefix(".")


def _bare_or_quoted(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part)


def _what(mistake: ErrorDetails, model: type[BaseModel]) -> str:
    name = str(mistake["loc"][0]) if mistake["loc"] else ""
    if mistake["type"] == "sentence":
        return mistake["msg"]
    if mistake["type"] == "extra_forbidden":
        return f"unknown key{nearest(name, model.model_fields)}"
    field = model.model_fields.get(name)
    if field is None:
        return _complaint(mistake)
    example = field.examples[0] if field.examples else json.dumps(field.default, default=str)
    return f"{_complaint(mistake)}; write e.g. {name} = {example}"


def _complaint(mistake: ErrorDetails) -> str:
    kind, given = mistake["type"], mistake["input"]
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(mistake["ctx"]["error"])
    if kind == "string_pattern_mismatch":
        return "holds a character that is not allowed there"
    if wrong_type := re.fullmatch(r"([a-z]+)_(type|parsing)", kind):
        return f"must be {_NOUNS[wrong_type[1]]}; got {_GIVEN.get(type(given), 'something else')}"
    what = re.sub("^(Input|String|Tuple) should", "must", mistake["msg"])
    return f"{what}; got {given}" if isinstance(given, int | float) else what
