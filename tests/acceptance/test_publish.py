"""`longshore publish` against a real broker, with an answering worker played by the test."""

import gzip
import json
import re
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from contract.amqp import connected, inbox
from servers.rabbitmq import PASSWORD

from worker.amqp import Outgoing
from worker.ledger import Claim, Ledger, Note

REQUEST = '{"client_id": "000001"}'


@pytest.fixture
def queue_project(tmp_path, broker_url):
    (tmp_path / "longshore.toml").write_text(f'[amqp]\nurl = "{broker_url}"\n')
    (tmp_path / "client.json").write_text(REQUEST)
    return tmp_path


@contextmanager
def answering(broker_url, kind="result", encode=lambda body: (body, ""), times=1, **reply_properties):
    """Whoever asks on the queue q gets the request back."""
    with connected(broker_url) as broker:

        def receive(messages):
            for message in messages:
                body, encoding = encode(message.body)
                properties = {"correlation_id": message.message_id, "type": kind, "content_encoding": encoding}
                properties |= reply_properties
                reply = Outgoing(message.reply_to, body, f"{message.message_id}-reply", **properties)
                for _ in range(times - 1):
                    broker.publish(reply, lambda _: None)
                broker.publish(reply, lambda _, message=message: message.ack())

        requests = inbox(broker)
        requests.consumption.cancel()
        broker.consume(requests.topology, prefetch=10, receive=receive)
        yield


@pytest.mark.parametrize("name", ["clients.csv.gz", "CLIENTS.CSV.GZ"])
def test_a_file_is_sent_with_its_type_and_an_id(longshore, queue_project, broker_url, name):
    (queue_project / name).write_bytes(gzip.compress(b"client_id\n1\n"))
    with connected(broker_url) as broker:
        requests = inbox(broker)
        done = longshore("publish", "q", name, cwd=queue_project)
        message = requests.next()
    assert (done.returncode, done.stdout) == (0, "q has the message\n")
    assert (message.content_type, message.content_encoding, message.reply_to) == ("text/csv", "gzip", "")
    assert gzip.decompress(message.body) == b"client_id\n1\n"
    assert len(message.message_id) == 32


def test_each_of_several_has_an_id_of_its_own(longshore, queue_project, broker_url):
    with connected(broker_url) as broker:
        requests = inbox(broker, prefetch=2000)
        done = longshore("publish", "q", "client.json", "--count", 1500, "--json", cwd=queue_project)
        assert len({message.message_id for message in requests.take(1500)}) == 1500
    assert json.loads(done.stdout) == {"queue": "q", "sent": 1500}


def test_the_reply_is_printed(longshore, queue_project, broker_url):
    with answering(broker_url, encode=lambda body: (gzip.compress(body), "gzip")):
        done = longshore("publish", "q", "client.json", "--wait", cwd=queue_project)
    assert (done.returncode, done.stdout) == (0, f"{REQUEST}\n")


def test_a_reply_that_a_crash_let_come_twice_counts_once(longshore, queue_project, broker_url):
    with answering(broker_url, times=2):
        done = longshore("publish", "q", "client.json", "--wait", "--json", "--count", 20, cwd=queue_project)
    replies = [json.loads(line)["correlation_id"] for line in done.stdout.splitlines()]
    assert len(set(replies)) == len(replies) == 20


def test_a_rejection_is_printed_and_exits_with_1(longshore, queue_project, broker_url):
    with answering(broker_url, kind="rejected"):
        done = longshore("publish", "q", "client.json", "--wait", "--json", cwd=queue_project)
    assert done.returncode == 1
    assert (json.loads(done.stdout)["type"], json.loads(done.stdout)["reply"]) == ("rejected", REQUEST)


@pytest.mark.parametrize(
    ("name", "content", "headers", "code"),
    [
        ("rows.json", '{"results": [{"id": 1}], "rejected": [{"row": 2}], "skipped": 0}', {}, 1),
        ("rows.json", '{"results": [{"id": 1}], "rejected": [], "skipped": 1}', {}, 0),
        ("rows.csv", "id\n1\n", {"x-longshore-rejected": 2}, 1),
        ("rows.csv", "id\n1\n", {"x-longshore-rejected": 0}, 0),
    ],
)
def test_a_reply_with_rejected_rows_exits_with_1(longshore, queue_project, broker_url, name, content, headers, code):
    (queue_project / name).write_text(content)
    kind = "application/json" if name.endswith("json") else "text/csv"
    with answering(broker_url, kind="results", content_type=kind, headers=headers):
        done = longshore("publish", "q", name, "--wait", cwd=queue_project)
    assert (done.returncode, done.stdout) == (code, content.strip() + "\n")


def test_standard_input_is_sent_as_json(queue_project, broker_url):
    with connected(broker_url) as broker:
        requests = inbox(broker)
        command = [sys.executable, "-m", "worker", "publish", "q", "-"]
        subprocess.run(command, cwd=queue_project, input=REQUEST.encode(), check=True, capture_output=True, timeout=60)
        message = requests.next()
    assert (message.body, message.content_type) == (REQUEST.encode(), "application/json")


def test_what_goes_wrong_is_said_with_what_to_do(longshore, queue_project, broker_url):
    with connected(broker_url) as broker:
        inbox(broker).consumption.cancel()
    wrong = {
        ("nowhere", "client.json"): (1, "there is no queue named nowhere; `longshore run` declares those of its jobs"),
        ("q", "client.json", "--wait", "--timeout", "0.5"): (1, "nothing came back for 0.5 s; what was sent"),
        ("q", "client.json", "--wait", "--timeout", "0.6"): (1, "or is a dead letter by now, in q.dead"),
        ("q", "client.xml"): (2, "client.xml: its name must end in .json or .csv"),
        ("q", "client.json", "--timeout", "inf"): (2, "86400"),
        ("q", "missing.json"): (2, "missing.json: cannot be read: No such file or directory"),
    }
    for arguments, (code, what) in wrong.items():
        done = longshore("publish", *arguments, cwd=queue_project)
        assert (done.returncode, what in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


def test_an_asker_who_may_not_do_all_of_it_is_told_at_once_what_is_missing(
    longshore, queue_project, rabbitmq_server, broker_url
):
    with connected(broker_url) as broker:
        inbox(broker).consumption.cancel()
    rabbitmq_server.ctl("add_user", "asker", PASSWORD)
    rabbitmq_server.ctl("set_permissions", "-p", rabbitmq_server.vhost, "asker", "", ".*", "")
    url = rabbitmq_server.url(rabbitmq_server.vhost, user="asker")
    (queue_project / "longshore.toml").write_text(f'[amqp]\nurl = "{url}"\n')
    assert longshore("publish", "q", "client.json", cwd=queue_project).returncode == 0
    done = longshore("publish", "q", "client.json", "--wait", "--timeout", 3600, cwd=queue_project)
    assert done.returncode == 1
    assert "let this user declare it and read it, or leave --wait out" in done.stderr
    rabbitmq_server.ctl("set_permissions", "-p", rabbitmq_server.vhost, "asker", "", "", "")
    done = longshore("publish", "q", "client.json", cwd=queue_project)
    assert done.returncode == 1
    assert "it may be full, or this user may not write" in done.stderr


def test_what_failed_is_said_to_be_a_dead_letter_and_why(longshore, queue_project, broker_url):
    """The project's ledger knows, as its worker wrote it down."""
    with connected(broker_url) as broker, closing(Ledger(f"sqlite:///{queue_project}/.longshore/state.db")) as ledger:

        def receive(messages):
            (message,) = messages
            claim = Claim("q", message.message_id, "3f9a1c2b", "job", "sha", 2)
            ledger.messages.record([claim], [], lambda _: False)
            failed = {"error": "DeliveryError", "detail": "its plan is of another year"}
            ledger.messages.record([], [Note(claim, 1, "failed", **failed)], lambda _: False)
            message.ack()

        requests = inbox(broker)
        requests.consumption.cancel()
        broker.consume(requests.topology, prefetch=10, receive=receive)
        done = longshore("publish", "q", "client.json", "--wait", "--timeout", "2", cwd=queue_project)
    assert done.returncode == 1
    assert "failed, and is a dead letter in q.dead: its plan is of another year" in done.stderr
    assert "for a worker" not in done.stderr


def test_a_wrong_password_is_advised_on_as_such(longshore, queue_project, broker_url):
    wrong = re.sub("//[^@]*@", "//longshore:hunter2@", broker_url)
    (queue_project / "longshore.toml").write_text(f'[amqp]\nurl = "{wrong}"\n')
    done = longshore("publish", "q", "client.json", cwd=queue_project)
    assert done.returncode == 1
    assert "does not take this user and password); correct user and password in [amqp] url" in done.stderr
    assert "start it" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_broker_that_does_not_answer_is_named_without_its_password(longshore, queue_project):
    (queue_project / "longshore.toml").write_text('[amqp]\nurl = "amqp://longshore:hunter2@127.0.0.1:1/"\n')
    done = longshore("publish", "q", "client.json", cwd=queue_project)
    assert done.returncode == 1
    assert "no broker can be used (127.0.0.1:1: Connection refused); start it, or correct [amqp] url" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    (queue_project / "longshore.toml").write_text("")
    assert longshore("publish", "q", "client.json", cwd=queue_project).returncode == 2


def test_check_says_which_broker_answers(longshore, project, broker_url):
    with (project / "longshore.toml").open("a") as settings:
        settings.write(f'\n[amqp]\nurl = "{broker_url}"\n')
    said = json.loads(longshore("check", "--json", cwd=project).stdout)["checks"]
    (line,) = [each for each in said if each["what"] == "broker"]
    assert line["ok"]
    assert line["detail"].startswith("RabbitMQ 3")


JOB = """
from worker import job

@job(queue="q", retry_delay=5, declare="{declare}")
def echo(row, ctx):
    return dict(row)
"""


def test_check_says_which_queues_will_be_declared(longshore, queue_project):
    (queue_project / "jobs").mkdir()
    (queue_project / "jobs" / "echo.py").write_text(JOB.format(declare="active"))
    assert "`longshore run` will declare q.dead, q.retry.5, " in longshore("check", cwd=queue_project).stdout


def test_check_warns_of_a_queue_that_is_another_one(longshore, queue_project, rabbitmq_server, broker_url):
    (queue_project / "jobs").mkdir()
    (queue_project / "jobs" / "echo.py").write_text(JOB.format(declare="active"))
    with rabbitmq_server.connect(broker_url) as connection:
        connection.channel().queue_declare("q", durable=False)
        said = json.loads(longshore("check", "--json", cwd=queue_project).stdout)["checks"]
    (line,) = [each for each in said if each["name"] == "warning"]
    assert line["ok"]
    assert line["detail"].startswith("the broker's queue q has durable false, and the worker declares true;")


def test_a_worker_refuses_to_start_with_a_queue_that_has_no_dead_letters(longshore, queue_project):
    (queue_project / "jobs").mkdir()
    (queue_project / "jobs" / "echo.py").write_text(JOB.format(declare="passive"))
    for command in (["run"], ["check"]):
        done = longshore(*command, cwd=queue_project)
        assert done.returncode == 2
        assert (
            "q.dead, q.retry.5, q.retry.20, q.retry.30: the queues are not there; declare them"
            in done.stdout + done.stderr
        )
