"""`make compose-test`: the image is built, docker-compose.yml brought up and used, and all of it taken down again."""

import csv
import json
import sys
from pathlib import Path

import pytest
from compose.engine import engine
from compose.images import base_image, provide
from compose.stack import Stack
from documentation import ROOT, commands_with_docker, snippets

BIN = Path(sys.executable).parent
SAMPLES = ROOT / "sample_inbox"
CLIENTS = SAMPLES / "clients.csv"
with CLIENTS.open(newline="") as rows:
    MESSAGE = json.dumps(next(csv.DictReader(rows)))
MESSAGES = 300
PAGE = ROOT / "docs" / "how-to" / "run-in-containers.md"
IN_A_READ_ONLY_CONTAINER = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--workdir", "/tmp", "longshore")


@pytest.fixture(scope="module")
def stack(pytestconfig):
    with engine() as docker:
        stand_ins = provide(docker)
        with Stack(docker, Path(__file__).with_suffix(".yml")).up() as stack:
            with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print(f"\nstand-ins: {', '.join(stand_ins) or 'none'}\n{figures(stack)}")
            yield stack


def figures(stack):
    size, base = (megabytes(image, stack) for image in ("longshore", base_image()))
    return f"image: {size:.0f} MB, of which {size - base:.0f} MB come on top of Python's"


def megabytes(image, stack):
    return int(stack.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def test_the_image_says_its_version(stack):
    assert stack.docker("run", "--rm", "longshore", "--version").startswith("longshore ")


def test_the_demo_runs_in_a_container_whose_root_is_read_only(stack):
    done = json.loads(stack.docker(*IN_A_READ_ONLY_CONTAINER, "demo", "--json"))
    assert done["rows_in"] == 480
    assert len(done["deliveries"]) == 5


def test_a_container_without_a_project_says_what_is_missing(stack):
    done = stack.engine.docker("run", "--rm", "longshore")
    assert done.returncode == 2
    assert "longshore.toml: there is no such file" in done.stderr


def test_everything_is_as_it_should_be(stack):
    checks = json.loads(stack.inside("longshore", "check", "--json"))
    assert checks["ok"], checks


def test_the_worker_is_nobody_special_and_writes_to_its_project_only(stack):
    assert stack.inside("id", "-u").strip() == "10001"
    done = stack.engine.docker("exec", stack.workers()[0], "sh", "-c", "echo > /opt/longshore/file")
    assert "Read-only file system" in done.stderr


def test_a_file_that_is_dropped_comes_out_as_results(stack):
    stack.drop(SAMPLES / "clients-with-mistakes.csv")
    delivery = stack.settled("clients-with-mistakes.csv")
    manifest = stack.manifest(delivery)
    assert (delivery["state"], manifest["rows_in"], manifest["results"], manifest["rejected"]) == ("done", 40, 30, 10)


def test_a_message_is_answered(stack):
    said = stack.inside("longshore", "publish", "clients.summary", "-", "--wait", "--json", input=MESSAGE)
    answer = json.loads(said)
    assert answer["type"] == "result"
    assert json.loads(answer["reply"])["client_id"] == json.loads(MESSAGE)["client_id"]


def test_a_dead_containers_file_is_finished_by_another_one(stack):
    stack.scaled(3)
    stack.drop(CLIENTS, "clients-of-the-dead.csv")

    owner = stack.wait(lambda: owner_of("clients-of-the-dead.csv", stack))
    stack.docker("kill", owner)

    delivery = stack.settled("clients-of-the-dead.csv")
    assert (delivery["state"], delivery["attempts"]) == ("done", 2)
    manifest = stack.manifest(delivery)
    assert (manifest["rows_in"], manifest["results"]) == (300, 300)


def owner_of(source, stack):
    """The container that has taken the file, as its log says."""
    return next((each for each in stack.workers() if f"source={source}" in stack.log(each)), None)


def test_a_fleet_runs_each_of_many_files_once(stack):
    stack.scaled(3)
    names = [f"clients-{number}.csv" for number in range(12)]
    for name in names:
        stack.drop(SAMPLES / "clients-with-mistakes.csv", name)
    deliveries = [stack.settled(name) for name in names]
    assert [(each["state"], each["attempts"]) for each in deliveries] == [("done", 1)] * len(names)
    assert stack.inside("longshore", "verify")


def test_each_message_is_answered_once_though_a_container_dies_meanwhile(stack):
    unlucky, lucky, _ = stack.scaled(3)
    with stack.asking(lucky, MESSAGE, MESSAGES) as asker:
        replies = [json.loads(asker.stdout.readline())]
        stack.docker("kill", unlucky)
        replies += map(json.loads, asker.stdout)
    assert len({reply["correlation_id"] for reply in replies}) == len(replies) == MESSAGES
    assert {reply["type"] for reply in replies} == {"result"}


def test_a_container_that_is_stopped_ends_by_itself(stack):
    worker, *_ = stack.scaled(3)
    stack.docker("stop", worker)
    assert stack.docker("inspect", "--format", "{{.State.ExitCode}}", worker).strip() == "0"


def test_a_project_of_ones_own_goes_on_top_of_the_image(stack, tmp_path):
    stack.engine.run(BIN / "longshore", "init", tmp_path / "project", check=True)
    [dockerfile] = snippets(PAGE, "dockerfile")
    (tmp_path / "project" / "Dockerfile").write_text(dockerfile.text)

    stack.docker("build", "--tag", "longshore-project", tmp_path / "project")

    [job] = json.loads(stack.docker("run", "--rm", "longshore-project", "jobs", "--json"))
    stack.docker("image", "rm", "longshore-project")
    assert job["job"] == "client_summary"


def test_every_command_of_the_page_succeeds(stack):
    commands = commands_with_docker(PAGE)
    assert len(commands) > 5
    try:
        for command in commands:
            # Some seconds pass until the queue is there.
            stack.wait(lambda command=command: stack.as_written(command).returncode == 0)
    finally:
        stack.as_written("docker compose down --volumes")
