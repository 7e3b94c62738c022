import inspect
from collections import Counter
from pathlib import Path

import pytest

import worker

MODULES = sorted(Path(worker.__file__).parent.rglob("*.py"))


def test_a_job_author_imports_these_names_and_no_others():
    assert worker.__all__ == ["Context", "DeliveryError", "Refused", "Reject", "Row", "Unavailable", "job"]


@pytest.mark.parametrize("name", worker.__all__)
def test_what_a_job_author_imports_is_documented(name):
    thing = getattr(worker, name)
    assert inspect.getdoc(thing)
    undocumented = [
        attribute
        for attribute, value in vars(thing).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]
    assert undocumented == []


def test_no_two_test_modules_have_the_same_name():
    names = Counter(path.name for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []  # pytest would collect neither


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_short_and_says_what_it_is_for(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    assert not lines or lines[0].startswith('"""')
