"""What can be seen from outside of a worker's broker."""

import json

import pytest
from orders import wait_for
from prepared import longshore
from servers.programs import free_ports

JOBS = """
from worker import job

@job(queue="q")
def answer(row, ctx):
    return row
"""


@pytest.fixture
def free_port():
    (port,) = free_ports(1)
    return port


def project(folder, url):
    (folder / "longshore.toml").write_text(f'[amqp]\nurl = "{url}"\n')
    (folder / "jobs").mkdir()
    (folder / "jobs" / "answers.py").write_text(JOBS)
    return folder / "longshore.toml"


def said(folder, *options):
    out = folder / "said"
    out.unlink(missing_ok=True)
    with longshore("--config", folder / "longshore.toml", "status", *options, out=out) as process:
        assert process.wait(30) == 0
    return out.read_text()


def broker(folder):
    return json.loads(said(folder, "--json"))["broker"]


def test_status_tells_that_a_worker_has_no_broker_and_why(tmp_path, free_port):
    url = f"amqp://longshore:hunter2@127.0.0.1:{free_port}/"
    with longshore("--config", project(tmp_path, url), "run") as worker:
        wait_for(lambda: broker(tmp_path), alive=worker)
        (away,) = broker(tmp_path)
        text = said(tmp_path)
    assert "is not connected since 2" in away["reason"]
    assert away["reason"].endswith("Connection refused; start it, or correct [amqp] url")
    assert f"the broker {away['reason']} (told by {away['worker']})" in text
    assert "hunter2" not in text


def test_status_says_nothing_of_a_broker_that_is_there(tmp_path, broker_url):
    log = tmp_path / "log"
    with longshore("--config", project(tmp_path, broker_url), "run", log=log) as worker:
        wait_for(lambda: "broker connected" in log.read_text(), alive=worker)
        wait_for(lambda: not broker(tmp_path), alive=worker)
