"""The commands in the documentation are run, against a sandbox, in a project that `longshore init` made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT, name, pages_with, snippets

from worker.sandbox import Sandbox

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def environment():
    """Leads every project to this sandbox, which has free ports, instead of the one with the usual ports."""
    with Sandbox() as sandbox:
        yield {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LONGSHORE_AUTH__HOSPITAL__TOKEN_URL": sandbox.token_url,
            "LONGSHORE_BACKENDS__BILLING__URL": sandbox.billing_url,
            "LONGSHORE_BACKENDS__EHR__URL": sandbox.fhir_url,
        }


@pytest.mark.parametrize("page", pages_with("console"), ids=name)
def test_every_command_does_what_the_page_needs_it_for(page, tmp_path, environment):
    folder = tmp_path
    for snippet in snippets(page, "console", "python", "csv"):
        if snippet.comment == "in a project" and folder == tmp_path:
            run("longshore init project", tmp_path, environment)
            folder = tmp_path / "project"
            run("longshore run --once", folder, environment)  # so that there is a ledger
        if snippet.file:
            (folder / snippet.file).parent.mkdir(exist_ok=True)
            (folder / snippet.file).write_text(snippet.text)
        for command in snippet.commands:
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
            else:
                run(command, folder, environment)


def run(command, folder, environment):
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_the_documented_manifest_and_error_have_the_fields_of_real_ones(tmp_path, environment):
    run("longshore init project", tmp_path, environment)
    project = tmp_path / "project"
    (project / "inbox" / "clients.csv").write_text("client_id,practitioner_id\n000001,\n")
    (project / "inbox" / "unwanted.csv").write_text("a\n1\n")

    subprocess.run(["longshore", "run", "--once"], cwd=project, env=environment, capture_output=True)

    manifest, error = snippets(ROOT / "docs" / "reference" / "files.md", "json")
    assert shape(json.loads(manifest.text)) == shape(read(project / "outbox", "*.manifest.json"))
    assert shape(json.loads(error.text)) == shape(read(project / "failed", "unwanted.csv.error.json"))


def read(folder, pattern):
    return json.loads(next(folder.glob(pattern)).read_text())


def shape(value):
    """The fields of a JSON value in their order, without their values; names of backends are values."""
    if isinstance(value, dict):
        return {key: shape(held) if key != "calls" else {} for key, held in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)
