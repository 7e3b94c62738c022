"""@job: makes a plain function a job, with its triggers and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic import AliasChoices, BaseModel, ValidationError

from worker.errors import Reject
from worker.fhirpath import Columns, compile_columns
from worker.records import Row

P = ParamSpec("P")
R = TypeVar("R")
Misfire = Literal["once", "skip", "all"]
Declare = Literal["active", "passive"]
Overlap = Literal["skip", "queue"]
Source = Callable[..., Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[P, R]):
    """A function that turns one row (or one frame of rows) into a result, with its triggers and its settings.

    Calling it calls the function. ``model`` is the pydantic model that the function's first parameter is annotated
    with; ``paths`` what makes the columns of a result, None where its keys do; ``concurrency`` how many rows may be in
    flight at once, None for as many as the worker has threads.
    """

    function: Callable[P, R]
    name: str
    doc: str
    place: str  # file:line
    model: type[BaseModel] | None = None
    files: tuple[str, ...] = ()
    queue: str | None = None
    reply_queue: str | None = None
    prefetch: int | None = None
    max_attempts: int | None = None
    retry_delay: int = 1
    max_message_bytes: int | None = None
    declare: Declare = "active"
    schedule: str | None = None
    timezone: str | None = None
    misfire: Misfire = "once"
    overlap: Overlap = "skip"
    source: Source | None = None
    columns: tuple[str, ...] | None = None
    paths: Columns | None = None
    frame: bool = False
    encoding: str | None = None
    delimiter: str | None = None
    done_suffix: str | None = None
    spreadsheet_safe: bool = False
    concurrency: int | None = None
    enabled: bool = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def bind(self, row: Row) -> Row | BaseModel:
        """What the function gets for a row: the row itself, or an instance of the model made from it.

        A blank string stays one, except where the field allows None, as CSV cannot say None otherwise. Raises
        ``Reject`` with the reason for each field, without its value, if the row does not validate.
        """
        if self.model is None:
            return row
        blank = [column for column in _optional(self.model) if row.get(column) == ""]
        try:
            return self.model.model_validate({**row, **dict.fromkeys(blank)} if blank else row)
        except ValidationError as error:
            reasons = error.errors(include_url=False, include_context=False, include_input=False)
        # Out here, as pydantic's own error would quote the row in a traceback.
        raise Reject("; ".join(f"{'.'.join(map(str, at['loc'])) or 'row'}: {at['msg']}" for at in reasons))


@cache
def _optional(model: type[BaseModel]) -> tuple[str, ...]:
    """The columns, by any of their names, that may be None."""
    names: list[object] = []
    for name, field in model.model_fields.items():
        if type(None) in get_args(field.annotation):
            alias = field.validation_alias
            names += [name, *(alias.choices if isinstance(alias, AliasChoices) else [alias])]
    return tuple(name for name in names if isinstance(name, str))


_declared: ContextVar[list[Job[..., Any]] | None] = ContextVar("declared", default=None)


@contextmanager
def collected() -> Iterator[list[Job[..., Any]]]:
    """A list that each job declared meanwhile is appended to."""
    declared: list[Job[..., Any]] = []
    token = _declared.set(declared)
    try:
        yield declared
    finally:
        _declared.reset(token)


def job(
    *,
    files: str | Sequence[str] = (),
    queue: str | None = None,
    reply_queue: str | None = None,
    prefetch: int | None = None,
    max_attempts: int | None = None,
    retry_delay: int = 1,
    max_message_bytes: int | None = None,
    declare: Declare = "active",
    schedule: str | None = None,
    timezone: str | None = None,
    misfire: Misfire = "once",
    overlap: Overlap = "skip",
    source: Source | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    frame: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
    done_suffix: str | None = None,
    spreadsheet_safe: bool = False,
    concurrency: int | None = None,
) -> Callable[[Callable[P, R]], Job[P, R]]:
    """Make a function of ``(row, ctx)`` a job, named after it; it stays callable as it was.

    ``columns`` are the results' names or, by name, FHIRPaths that make them out of what the function returns.

    Raises ``TypeError`` if the function is not a plain one that takes two arguments and returns its results,
    ``PathError`` for a wrong path.
    """
    if isinstance(columns, str):  # a sequence of texts, too: of its characters
        raise TypeError('columns are a list of names; write e.g. columns=["client_id", "plan"]')
    paths = compile_columns(columns) if isinstance(columns, Mapping) else None

    def decorate(function: Callable[P, R]) -> Job[P, R]:
        plain = _plain(function)
        made = Job(
            function=function,
            name=plain.__name__,
            doc=inspect.getdoc(plain) or "",
            place=f"{plain.__code__.co_filename}:{plain.__code__.co_firstlineno}",
            model=_row_model(plain),
            files=(files,) if isinstance(files, str) else tuple(files),
            queue=queue,
            reply_queue=reply_queue,
            prefetch=prefetch,
            max_attempts=max_attempts,
            retry_delay=retry_delay,
            max_message_bytes=max_message_bytes,
            declare=declare,
            schedule=schedule,
            timezone=timezone,
            misfire=misfire,
            overlap=overlap,
            source=source,
            columns=None if columns is None else tuple(columns),
            paths=paths,
            frame=frame,
            encoding=encoding,
            delimiter=delimiter,
            done_suffix=done_suffix,
            spreadsheet_safe=spreadsheet_safe,
            concurrency=concurrency,
        )
        if (declared := _declared.get()) is not None:
            declared.append(made)
        return made

    return decorate


def _plain(function: Callable[..., Any]) -> FunctionType:
    plain = inspect.unwrap(function)
    if not isinstance(plain, FunctionType) or inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError("@job goes above a plain function, neither async nor a class")
    if inspect.isgeneratorfunction(plain):
        raise TypeError(f"a job returns its results, it does not yield them; return a list in {plain.__name__}")
    try:
        inspect.signature(plain).bind("row", "ctx")
    except TypeError:
        raise TypeError(f"a job takes two arguments, row and ctx; change {plain.__name__}") from None
    return plain


def _row_model(function: FunctionType) -> type[BaseModel] | None:
    name = next(iter(inspect.signature(function).parameters))
    row = SimpleNamespace(__annotations__={name: function.__annotations__.get(name)})
    try:
        kind = get_type_hints(row, function.__globals__)[name]
    except NameError as error:
        raise TypeError(f"the annotation of {name!r}: {error}; import it outside `if TYPE_CHECKING`") from error
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
