"""Everything that may befall messages, brokers and workers, each for real; afterwards, every message has one reply."""

import json
import signal
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
from acceptance.order_server import OrderServer
from message_worker import Asker, MessageWorker, stopped, wait_for
from servers.programs import free_ports
from servers.rabbitmq import SETTLE_SECONDS

MESSAGES = 80
THREADS = 16


@pytest.fixture
def orders():
    with OrderServer(delay=0.03) as server:
        yield server


@pytest.fixture
def asker(broker_url):
    asker = Asker(broker_url)
    asker.declare("replies", "orders")
    return asker


@pytest.fixture
def worker(tmp_path, broker_url, orders):
    return lambda **options: MessageWorker(tmp_path / "project", broker_url, orders.url, **options)


@contextmanager
def fleet(project, workers, **how):
    """So many workers of a project, consuming; the first one's log is the project's."""
    with ExitStack() as running:
        yield [running.enter_context(project.running(name, **how)) for name in ("worker", "other")[:workers]]


def clients(number=MESSAGES, first=1000):
    """Requests whose job makes a call each."""
    return [{"client": f"{client}0"} for client in range(first, first + number)]


def check_calls(orders, *, repeated=0):
    """Each request was made with a key of its own, and no more than so many were made twice."""
    assert len(orders.orders) == len(set(orders.orders.values()))
    assert orders.times_sent.total() - len(orders.times_sent) <= repeated


def clients_served(orders):
    """The clients for whom a request was made, under one key or under several."""
    return set(orders.orders.values())


def check_queues(asker, *, dead=0):
    lengths = {queue: asker.length(queue) for queue in ("orders", "orders.dead", "replies")}
    assert lengths == {"orders": 0, "orders.dead": dead, "replies": 0}


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_worker_was_killed_only_the_calls_under_way_are_made_again(worker, asker, orders, workers, request):
    """One on SQLite, two on PostgreSQL."""
    state = request.getfixturevalue("postgresql_server").new_schema() if workers == 2 else ""
    project = worker(state=state)
    asker.ask(*clients())
    with ExitStack() as others, project.running("killed") as process:
        if workers == 2:
            others.enter_context(project.running("other"))
        wait_for(lambda: orders.times_sent.total() > 20, process)
        process.kill()
        process.wait()
        with project.running("next") as process:
            wait_for(asker.all_answered, process)
            assert stopped(process) == 0
    asker.check()
    check_calls(orders, repeated=THREADS)
    check_queues(asker)


@pytest.mark.parametrize(("named_by", "workers"), [("message_id", 1), ("message_id", 2), ("correlation_id", 1)])
def test_closed_connections_make_no_call_twice(worker, asker, orders, rabbitmq_server, named_by, workers):
    """With a ``correlation_id`` alone, messages have no id by which they could be known again elsewhere."""
    project = worker()
    with fleet(project, workers) as processes:
        asker.ask(*clients(), named_by=named_by)
        for calls in (10, 30, 50):
            wait_for(lambda calls=calls: orders.times_sent.total() > calls, processes[0])
            rabbitmq_server.close_connections()
        wait_for(asker.all_answered, processes[0])
        assert [stopped(process) for process in processes] == [0] * workers
    assert project.run_once()[0] == 0  # what was answered while its ack had nowhere to go comes once more
    asker.check()
    check_calls(orders)
    check_queues(asker)


def test_a_broker_that_is_not_there_yet_is_waited_for_and_one_that_is_killed_makes_no_call_twice(
    own_rabbitmq, tmp_path, orders
):
    asker = Asker(own_rabbitmq.url())
    project = MessageWorker(tmp_path / "project", own_rabbitmq.url(), orders.url)
    with fleet(project, 2):
        pass
    asker.declare("replies")
    time.sleep(SETTLE_SECONDS)
    for workers in (1, 2):
        own_rabbitmq.stop()
        before = orders.times_sent.total()
        with fleet(project, workers, ready="worker started") as processes:
            own_rabbitmq.start()
            asker.ask(*clients(first=1000 * workers))
            wait_for(lambda before=before: orders.times_sent.total() > before + 20, processes[0])
            own_rabbitmq.kill()
            own_rabbitmq.start()
            wait_for(asker.all_answered, processes[0])
            assert [stopped(process) for process in processes] == [0] * workers
        assert project.run_once()[0] == 0  # what was answered while its ack had nowhere to go comes once more
        asker.check()
        check_calls(orders)
        check_queues(asker)


def test_a_stopped_worker_finishes_what_it_has_begun_and_leaves_the_rest_in_the_queue(worker, asker, orders):
    project = worker()
    asker.ask(*clients())
    with project.running() as process:
        wait_for(lambda: orders.times_sent.total() > 20, process)
        assert stopped(process) == 0
    asker.collect()
    assert len(asker.answers) == orders.times_sent.total()
    assert len(asker.answers) + asker.length("orders") == MESSAGES
    with project.running("next") as process:
        wait_for(asker.all_answered, process)
    asker.check()
    check_calls(orders)


def test_what_a_stopped_worker_leaves_another_one_finishes(worker, asker, orders):
    with fleet(worker(), 2) as (leaving, staying):
        asker.ask(*clients())
        wait_for(lambda: orders.times_sent.total() > 20, leaving)
        assert stopped(leaving) == 0
        wait_for(asker.all_answered, staying)
        assert stopped(staying) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


@pytest.mark.parametrize("form", ["one row", "many rows"])
def test_a_message_that_does_not_end_goes_back_when_its_worker_stops(worker, asker, orders, form):
    project = worker(stop_seconds=1)
    (project.folder / "stuck").touch()
    many = [{"client": "1"}, {"client": "stuck"}]
    asker.ask({"client": "stuck"} if form == "one row" else many)
    with project.running() as process:
        wait_for((project.folder / "begun").exists, process)
        assert stopped(process) == 0
    assert asker.length("orders") == 1
    (entry,) = project.entries()
    assert (entry.state, entry.owner) == ("waiting", "")
    (project.folder / "stuck").unlink()
    with project.running("next") as process:
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


def test_a_second_signal_leaves_what_is_under_way_unacked(worker, asker, orders):
    project = worker()
    (project.folder / "stuck").touch()
    asker.ask({"client": "stuck"}, *clients(5))
    with project.running() as process:
        wait_for(lambda: (project.folder / "begun").exists() and len(asker.collect().answers) == 5, process)
        process.terminate()
        time.sleep(1.5)
        assert process.poll() is None, "it waits for the row"
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
    wait_for(lambda: asker.length("orders") == 1)
    (project.folder / "stuck").unlink()
    with project.running("next") as process:
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


def test_an_outage_of_a_backend_is_waited_for_and_makes_no_dead_letters(tmp_path, broker_url, asker):
    (port,) = free_ports(1)
    project = MessageWorker(tmp_path / "project", broker_url, f"http://127.0.0.1:{port}")
    asker.ask(*clients(10))
    with project.running() as process:
        wait_for(lambda: asker.length("orders.retry.4"), process)
        with OrderServer(delay=0, port=port) as orders:
            wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


def test_a_message_is_given_up_after_max_attempts_where_the_job_says_so(tmp_path, broker_url, asker):
    (port,) = free_ports(1)
    project = MessageWorker(tmp_path / "project", broker_url, f"http://127.0.0.1:{port}", options="max_attempts=2")
    asker.ask({"client": "1"})
    with project.running() as process:
        wait_for(lambda: asker.length("orders.dead"), process)
    ((_, properties, body),) = asker.drain("orders.dead")
    assert properties.headers["x-longshore-error"] == "Unavailable"
    assert json.loads(body) == {"client": "1"}


@pytest.mark.parametrize("named_by", ["message_id", "correlation_id"])
def test_a_message_that_kills_its_worker_takes_no_other_with_it(worker, asker, orders, named_by):
    project = worker(options="max_attempts=2")
    innocent = clients(30)
    asker.ask(*innocent[:15], {"client": "poison"}, *innocent[15:], named_by=named_by)
    asker.asked.discard("request-15")
    deaths = 0
    while not deaths or not asker.all_answered() or not asker.length("orders.dead"):
        assert deaths < 4
        with project.running(ready="") as process:
            wait_for(lambda: process.poll() is not None or (asker.all_answered() and asker.length("orders.dead")))
            deaths += process.poll() is not None
    ((_, properties, body),) = asker.drain("orders.dead")
    assert json.loads(body) == {"client": "poison"}
    assert "died 2 times" in properties.headers["x-longshore-detail"]
    assert deaths == 2
    assert {entry.state for entry in project.entries()} == {"done", "failed"}
    if named_by == "message_id":
        asker.check()
        check_calls(orders, repeated=THREADS * deaths)
    else:  # the next worker does not know it again: one that was answered, and not acked yet, is made and answered anew
        asker.collect()
        assert asker.answers.keys() == asker.asked
        assert orders.times_sent.total() - len(clients_served(orders)) <= THREADS * deaths


@pytest.mark.parametrize("name", ["correlation_id", "reply_to"])
def test_a_message_that_cannot_be_answered_takes_no_other_with_it(worker, asker, orders, name):
    asker.ask(*clients(20))
    asker.ask({"client": "1"}, **{name: "zero\0character"})
    asker.asked -= {"request-20", "zero\0character"}
    asker.ask(*clients(20, first=2000))
    with worker().running() as process:
        wait_for(lambda: asker.all_answered() and asker.length("orders.dead"), process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    ((_, properties, body),) = asker.drain("orders.dead")
    assert properties.headers[f"x-longshore-{name.replace('_', '-')}"] == b"zero\0character"
    assert json.loads(body) == {"client": "1"}
    check_queues(asker)


def test_replies_that_a_full_queue_refuses_are_sent_until_there_is_room(worker, asker, orders):
    with asker.channel() as channel:
        channel.queue_delete("replies")
        full = {"x-max-length": 5, "x-overflow": "reject-publish"}
        channel.queue_declare("replies", durable=True, arguments=full)
    asker.ask(*clients(30))
    with worker().running() as process:
        wait_for(lambda: orders.times_sent.total() == 30, process)
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


def test_a_broker_in_need_blocks_replies_only_for_as_long_as_it_takes(worker, asker, orders, rabbitmq_server):
    asker.ask(*clients())
    with worker().running() as process:
        wait_for(lambda: orders.times_sent.total() > 10, process)
        with rabbitmq_server.alarm():
            wait_for(lambda: orders.times_sent.total() == MESSAGES, process)
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


@pytest.mark.parametrize("workers", [1, 2])
def test_queues_that_are_deleted_are_declared_again_and_an_askers_queue_that_is_gone_makes_dead_letters(
    worker, asker, orders, workers
):
    project = worker()
    with fleet(project, workers) as processes:
        with asker.channel() as channel:
            channel.queue_delete("orders")
        names = ("worker", "other")[:workers]
        wait_for(lambda: all(project.log(name).count("queue consumed") == 2 for name in names), processes[0])
        with asker.channel() as channel:
            for gone in ("replies", "orders.dead", "orders.retry.1"):
                channel.queue_delete(gone)
        asker.ask(*clients(10))
        wait_for(lambda: asker.length("orders.dead") == 10, processes[0])
        asker.declare()
        assert [stopped(process) for process in processes] == [0] * workers
    check_calls(orders)
    check_queues(asker, dead=10)
    reasons = Counter(properties.headers["x-longshore-error"] for _, properties, _ in asker.drain("orders.dead"))
    assert reasons == {"Unroutable": 10}


def test_run_once_says_why_there_is_no_broker_and_what_to_do(tmp_path):
    (port,) = free_ports(1)
    project = MessageWorker(tmp_path / "project", f"amqp://127.0.0.1:{port}", "http://127.0.0.1:1")
    code, said = project.run_once()
    assert code == 1
    assert "there is no connection to the broker (Connection refused); start it, or correct [amqp] url" in said


def test_run_once_ends_where_the_queue_for_dead_letters_has_gone_and_is_not_the_workers_to_declare(worker, asker):
    project = worker(options='declare="passive", retry_delay=30')
    asker.declare("orders.dead", "orders.retry.30")
    (project.folder / "stuck").touch()
    asker.ask({"client": "stuck"})
    with project.running("once", "--once") as process:
        wait_for((project.folder / "begun").exists, process)
        with asker.channel() as channel:
            channel.queue_delete("orders.dead")
        asker.ask({"client": "useless"})
        (project.folder / "stuck").unlink()
        assert process.wait(60) == 1
    assert "there is no queue orders.dead, which its message has to go to; declare it" in project.log("once")
    assert "a queue cannot be emptied" in project.log("once")
    assert asker.length("orders") == 1


@pytest.fixture
def impatient(rabbitmq_server):
    """A broker that closes the channel of a message that is not acked for some seconds."""
    patience = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    rabbitmq_server.ctl("eval", patience.format(2_000, 1_000))
    yield
    rabbitmq_server.ctl("eval", patience.format(1_800_000, 60_000))


@pytest.mark.usefixtures("impatient")
def test_a_job_that_outlives_heartbeats_and_the_brokers_patience_is_joined_by_the_redelivery(
    tmp_path, broker_url, asker
):
    with OrderServer(delay=9) as orders:
        project = MessageWorker(tmp_path / "project", broker_url, orders.url)
        asker.ask({"client": "1"})
        with project.running() as process:
            wait_for(asker.all_answered, process)
            assert project.log().count("queue consumed") > 1
            assert stopped(process) == 0
    asker.check()
    check_calls(orders)
    check_queues(asker)


def test_a_message_of_many_rows_goes_on_with_the_rows_that_it_has(worker, asker, orders):
    project = worker()
    table = "client\n" + "".join(f"{number}0\n" for number in range(1000, 1400))
    (request,) = asker.ask(table.encode(), content_type="text/csv")
    with project.running() as process:
        wait_for(lambda: orders.times_sent.total() > 100, process)
        process.kill()
        process.wait()
    with project.running("next") as process:
        wait_for(asker.all_answered, process)
        assert stopped(process) == 0
    asker.check()
    check_calls(orders, repeated=2 * THREADS)  # those under way, and those on their way to the part file
    rows = asker.answers[request][0][2].decode().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [f"{number}0" for number in range(1000, 1400)]
    assert list((project.folder / ".longshore" / "work").iterdir()) == []
    check_queues(asker)


def test_a_double_that_two_workers_get_is_run_by_one_and_answered_by_both(worker, asker, orders):
    project = worker()
    for number in range(20):
        asker.ask({"client": f"{number}0"}, message_id=f"double-{number}", correlation_id=f"{number}-first")
        asker.ask({"client": f"{number}0"}, message_id=f"double-{number}", correlation_id=f"{number}-second")
    with project.running("one") as one, project.running("two"):
        wait_for(lambda: len(asker.collect().answers) == 40, one)
    check_calls(orders)
    for number in range(20):
        first, second = (asker.answers[f"{number}-{which}"][0] for which in ("first", "second"))
        assert first[:3] == second[:3]


def test_run_once_empties_the_queues_and_ends(worker, asker, orders):
    project = worker()
    asker.ask(*clients(20))
    assert project.run_once()[0] == 0
    asker.check()
    asker.ask({"client": "useless"})
    code, said = project.run_once()
    assert (code, "1 delivery failed" in said) == (1, True)
    check_queues(asker, dead=1)
