"""What is documented is there, what is there is documented, and every snippet is what it says."""

import inspect
import json
import re
import sys

import pytest
import typer.main
from documentation import PAGES, ROOT, name, pages_with, snippets

from worker import cli, config, errors
from worker.backends.bulk.export import Export
from worker.backends.fhir import Fhir
from worker.backends.pages import SearchSet
from worker.backends.rest import Rest
from worker.context import Context
from worker.declare import job

REFERENCE = ROOT / "docs" / "reference"
SECRETS = {
    **dict.fromkeys(("HOSPITAL_SECRET", "BILLING_PASSWORD", "BILLING_KEY"), "made up"),
    "AMQP_URL": "amqp://broker.example",
}
COMMANDS = typer.main.get_command(cli.app).commands


def public(kind):
    return [member for member in vars(kind) if not member.startswith("_")]


def documented(page):
    """What stands first in the rows of a page's tables, up to an opening bracket."""
    return set(re.findall(r"^\| `([\w.]+)[`(]", (REFERENCE / page).read_text(), re.MULTILINE))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, whose job files can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in [module for module in sys.modules if module.partition(".")[0] == "jobs"]:
        del sys.modules[module]


@pytest.mark.parametrize("page", pages_with("python"), ids=name)
def test_every_python_snippet_runs_and_every_test_in_it_passes(page, project):
    namespace = {"__name__": "snippets"}
    for snippet in snippets(page, "python"):
        file = project / (snippet.file or "snippet.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(snippet.text)
        exec(compile(snippet.text, file, "exec"), namespace)
    for test in [value for key, value in namespace.items() if key.startswith("test_")]:
        test()


@pytest.mark.parametrize("page", pages_with("toml"), ids=name)
def test_every_toml_snippet_is_a_configuration(page, tmp_path):
    (tmp_path / "secret").write_text("made up")
    for snippet in snippets(page, "toml"):
        text = re.sub(r'"/run/secrets/\w+"', '"secret"', snippet.text)
        (tmp_path / "longshore.toml").write_text(text)
        config.load(tmp_path / "longshore.toml", SECRETS)


@pytest.mark.parametrize("page", pages_with("json"), ids=name)
def test_every_json_snippet_is_json(page):
    for snippet in snippets(page, "json"):
        json.loads(snippet.text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not heading or heading in headings(linked), target


def headings(page):
    """The fragments that the headings of a page can be linked by."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_test_that_stands_for_a_promise_is_there():
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"\btest_\w+\.py\b", (ROOT / "docs" / "operations.md").read_text()))
    assert named
    assert named <= there


def test_every_page_is_linked_from_the_index():
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index())}
    assert {page for page in PAGES if page.parent != ROOT and page.name != "index.md"} <= linked


def index():
    return (ROOT / "docs" / "index.md").read_text()


def test_every_command_is_documented_and_no_other():
    sections = set(re.findall(r"^## longshore (\w+)", (REFERENCE / "command-line.md").read_text(), re.MULTILINE))
    assert sections == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_with_its_command(command):
    page = (REFERENCE / "command-line.md").read_text()
    everywhere, *parts = re.split(r"^## longshore (\w+)", page, flags=re.MULTILINE)
    text = everywhere + dict(zip(parts[::2], parts[1::2], strict=True))[command]
    options = [option for parameter in COMMANDS[command].params for option in parameter.opts if option.startswith("-")]
    assert [option for option in options if f"`{option}" not in text] == []


def test_every_argument_of_a_job_is_documented():
    assert set(inspect.signature(job).parameters) <= documented("jobs.md")


@pytest.mark.parametrize("kind", [Context, Rest, Fhir, SearchSet, Export])
def test_everything_that_a_job_can_call_is_documented(kind):
    assert set(public(kind)) <= documented("jobs.md")


def test_every_error_is_documented():
    kinds = {key for key, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert kinds <= documented("errors.md")


def test_the_examples_of_manifest_and_error_have_a_line_for_each_of_their_fields():
    for snippet in snippets(REFERENCE / "files.md", "json"):
        assert set(json.loads(snippet.text)) <= documented("files.md")


def test_the_repository_says_under_which_licence_it_is():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
