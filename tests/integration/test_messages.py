"""Messages through a real broker and a real worker: what is asked is answered."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from acceptance.order_server import OrderServer
from message_worker import Asker, MessageWorker, stopped, wait_for


@pytest.fixture(scope="module")
def orders():
    with OrderServer(delay=0.01) as server:
        yield server


@pytest.fixture
def asker(broker_url):
    asker = Asker(broker_url)
    asker.declare()
    return asker


@pytest.fixture
def worker(tmp_path, broker_url, orders):
    return lambda **options: MessageWorker(tmp_path / "project", broker_url, orders.url, **options)


def test_an_object_is_answered_with_the_result_a_rejection_or_nothing(worker, asker):
    with worker().running() as process:
        done, rejected, skipped = asker.ask({"client": "1"}, {"client": "7"}, {"client": "8"})
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    assert asker.body(done) == {"client": "1", "order": "order of 1"}
    assert asker.body(rejected) == {"error": "Reject", "detail": "this client orders nothing"}
    assert asker.body(skipped) == {}
    assert asker.types() == {"result": 1, "rejected": 1, "skipped": 1}
    assert asker.length("orders") == asker.length("orders.dead") == 0


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system does not place threads")
@pytest.mark.usefixtures("asker")
def test_the_threads_that_messages_pass_through_are_placed_with_those_that_run_them(worker):
    def placed(process):
        threads = [int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()]
        return sum(os.sched_getscheduler(thread) == os.SCHED_BATCH for thread in threads)

    with worker().running() as process:
        wait_for(lambda: placed(process) >= len(("broker", "messages")), process)


def test_many_rows_are_answered_at_once_and_counted(worker, asker):
    array = [{"client": "1"}, {"client": "7"}, {"client": "8"}, "nonsense", {"client": "2"}]
    with worker().running() as process:
        (listed,) = asker.ask(array)
        (table,) = asker.ask(b"client\n1\n7\n8\n2\n", content_type="text/csv; charset=utf-8")
        (packed,) = asker.ask(gzip.compress(json.dumps(array).encode()), content_encoding="gzip")
        (nothing,) = asker.ask([])
        wait_for(asker.all_answered, process)
    assert asker.body(listed) == asker.body(packed)
    assert [row["client"] for row in asker.body(listed)["results"]] == ["1", "2"]
    assert [row["row"] for row in asker.body(listed)["rejected"]] == [2, 4]
    assert asker.body(listed)["skipped"] == 1
    assert asker.body(nothing) == {"results": [], "rejected": [], "skipped": 0}
    *_, body, properties = asker.answers[table][0]
    assert (body, properties.content_type) == (b"client,order\n1,order of 1\n2,order of 2\n", "text/csv")
    names = ("rows-in", "results", "rejected", "skipped")
    assert [properties.headers[f"x-longshore-{name}"] for name in names] == [4, 2, 1, 1]


def test_what_can_never_work_goes_to_the_dead_letters_as_it_came_with_the_reason(worker, asker):
    bad = {
        b"": "its body is empty",
        b"3": "a single JSON value",
        b'{"client": ': "its body is not JSON (line 1, character",
        b'{"client": "\xff"}': "its body is not UTF-8",
        json.dumps({"client": "useless"}).encode(): "nothing can be done about it",
        b"x" * 2_000: "its body has 2000 bytes, and this queue takes 1000",
    }
    with worker(options="max_message_bytes=1000").running() as process:
        asker.ask(*bad)
        asker.ask(b"packed", content_encoding="gzip")
        asker.ask(b"<x/>", content_type="application/xml")
        wait_for(lambda: asker.length("orders.dead") == len(bad) + 2, process)
        assert stopped(process) == 0
    dead = {body: properties for _, properties, body in asker.drain("orders.dead")}
    for body, reason in (bad | {b"packed": "no gzip data", b"<x/>": "its content type is application/xml"}).items():
        assert reason in dead[body].headers["x-longshore-detail"]
        assert dead[body].headers["x-longshore-error"] == "DeliveryError"
        assert dead[body].headers["x-longshore-job"] == "order"
        assert (dead[body].delivery_mode, dead[body].reply_to) == (2, "replies")
    assert dead[b"packed"].content_encoding == "gzip"
    assert asker.length("orders") == asker.length("replies") == 0


def test_a_message_seen_again_gets_the_same_reply_without_a_call_and_with_another_body_none(worker, asker, orders):
    with worker().running() as process:
        asker.ask({"client": "again"}, message_id="one")
        wait_for(asker.all_answered, process)
        calls = orders.times_sent.total()
        asker.ask({"client": "again"}, message_id="one", correlation_id="second")
        wait_for(lambda: "second" in asker.collect().answers, process)
        asker.ask({"client": "another"}, message_id="one")
        wait_for(lambda: asker.length("orders.dead") == 1, process)
    assert orders.times_sent.total() == calls
    assert asker.answers["one"][0][:3] == asker.answers["second"][0][:3]
    ((_, properties, _),) = asker.drain("orders.dead")
    assert properties.headers["x-longshore-error"] == "Conflict"


def test_two_messages_with_one_body_are_two_requests(worker, asker, orders):
    calls = orders.times_sent.total()
    with worker().running() as process:
        asker.ask({"client": "twin"}, {"client": "twin"})
        wait_for(asker.all_answered, process)
    asker.check()
    assert orders.times_sent.total() == calls + 2
    assert set(orders.times_sent.values()) == {1}


def test_a_reply_that_no_queue_takes_makes_a_dead_letter_which_is_answered_without_a_call_once_it_is_replayed(
    worker, asker, orders
):
    calls = orders.times_sent.total()
    project = worker()
    with project.running() as process:
        asker.ask({"client": "1"}, reply_to="nowhere")
        wait_for(lambda: asker.length("orders.dead") == 1, process)
        ((_, letter, body),) = asker.drain("orders.dead")
        told = json.loads(project.longshore("show", letter.headers["x-longshore-delivery"], "--json").stdout)
        asker.declare("nowhere")
        with asker.channel() as channel:
            channel.basic_publish("", "orders", body, letter)
        wait_for(lambda: asker.length("nowhere") == 1, process)
        assert stopped(process) == 0
    assert (json.loads(body), letter.headers["x-longshore-error"]) == ({"client": "1"}, "Unroutable")
    assert (told["state"], told["job"]) == ("done", "order")
    ((_, reply, body),) = asker.drain("nowhere")
    assert (reply.correlation_id, json.loads(body)["order"]) == (letter.message_id, "order of 1")
    assert orders.times_sent.total() == calls + 1


def test_a_job_may_have_a_queue_for_replies_that_have_no_other_place(worker, asker):
    with worker(options='reply_queue="fallback"').running() as process:
        asker.ask({"client": "1"}, reply_to="nowhere")
        asker.ask({"client": "2"}, reply_to=None)
        wait_for(lambda: asker.length("fallback") == 2, process)
        assert stopped(process) == 0
    assert asker.length("orders.dead") == asker.length("orders") == 0


def test_a_message_that_wants_no_reply_is_run_and_acked(worker, asker, orders):
    with worker().running() as process:
        asker.ask({"client": "quiet"}, reply_to=None)
        wait_for(lambda: "quiet" in orders.orders.values(), process)
        assert stopped(process) == 0
    assert asker.length("orders") == asker.length("orders.dead") == 0


def test_where_operations_declares_the_queues_no_worker_starts_without_a_place_for_dead_letters(worker, asker):
    project = worker(options='declare="passive"')
    asker.declare("orders", *(f"orders.retry.{seconds}" for seconds in (1, 4, 16, 30)))
    refused = project.longshore("run")
    assert (refused.returncode, "orders.dead" in refused.stderr) == (2, True)
    asker.declare("orders.dead")
    with project.running() as process:
        asker.ask({"client": "1"})
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0


def test_status_and_show_tell_of_messages_and_retry_says_where_a_failed_one_lies(worker, asker):
    project = worker()
    asker.declare("orders")
    asker.ask({"client": "1"}, {"client": "useless"})
    project.run_once()
    status = json.loads(project.longshore("status", "--json").stdout)
    assert status["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 1}
    (failed,) = [each for each in status["deliveries"] if each["state"] == "failed"]
    assert (failed["trigger"], failed["source"], failed["job"]) == ("queue", "orders", "order")
    assert failed["error"] == "nothing can be done about it"
    assert "nothing can be done about it" in project.longshore("show", failed["delivery"]).stdout
    again = project.longshore("retry", failed["delivery"])
    assert (again.returncode, "orders.dead" in again.stderr) == (2, True)


def test_the_demo_shows_a_message_and_its_reply_where_there_is_a_broker(tmp_path, broker_url):
    environment = {**os.environ, "LONGSHORE_AMQP__URL": broker_url}
    demo = [sys.executable, "-m", "worker", "demo"]
    done = subprocess.run(demo, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    reply = next(line for line in done.stdout.splitlines() if line.startswith("was answered:"))
    assert json.loads(reply.removeprefix("was answered:"))["client_id"] == "000001"
