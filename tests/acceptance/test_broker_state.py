"""What can be seen from outside of a worker's broker."""

import json
from contextlib import closing

import pika
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


def test_status_tells_of_a_queue_that_is_gone_until_it_is_consumed_again(tmp_path, broker_url):
    config, log = project(tmp_path, broker_url), tmp_path / "log"
    with longshore("--config", config, "run", "--once") as worker:  # makes the queues
        assert worker.wait(60) == 0
    config.write_text(f'{config.read_text()}\n[jobs.answer]\ndeclare = "passive"\n')
    with (
        longshore("--config", config, "run", log=log) as worker,
        closing(pika.BlockingConnection(pika.URLParameters(broker_url))) as operator,
    ):
        wait_for(lambda: "broker connected" in log.read_text(), alive=worker)
        queues = operator.channel()
        queues.queue_delete("q")
        wait_for(lambda: broker(tmp_path), alive=worker)
        (told,) = broker(tmp_path)
        assert told["reason"].startswith("has a queue that is not worked off: q: ")
        queues.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        wait_for(lambda: not broker(tmp_path), alive=worker)
