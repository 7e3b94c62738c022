"""What the broker's client promises beyond what ``test_broker.py`` asks of its twin too, against a real RabbitMQ."""

import gc
import socket
import struct
import threading
import time
from contextlib import closing

import pika
import pytest
from contract.amqp import PATIENCE, Post, connected, inbox, settings
from pika.adapters.select_connection import EPollPoller
from servers.rabbitmq import PASSWORD
from structlog.testing import capture_logs

from worker.amqp import Broker, QueueTopology, Sent, probe
from worker.errors import ConfigError, Unavailable


@pytest.fixture
def broker_url(rabbitmq_server):
    """A broker without the queues of the tests before; a virtual host for each would take a second to make."""
    with rabbitmq_server.connect() as connection:
        channel = connection.channel()
        for name in ("q", "q.dead", "q.retry.1", "q.retry.5", "answers"):
            channel.queue_delete(name)
    return rabbitmq_server.url()


@pytest.fixture
def broker(broker_url):
    with connected(broker_url) as started:
        yield started


@pytest.fixture
def operator(rabbitmq_server, broker_url):
    """A channel of pika's, to see and do what others do."""
    with rabbitmq_server.connect(broker_url) as connection:
        yield connection.channel()


def depth(channel, queue="q"):
    return channel.queue_declare(queue, passive=True).method.message_count


def unacknowledged(server):
    found = server.ctl("list_queues", "name", "messages_unacknowledged")
    return next(each["messages_unacknowledged"] for each in found if each["name"] == "q")


def eventually(check):
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_broker_that_has_not_answered_yet_is_hung_up_on_at_the_close():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Broker.of(settings(f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}/"))
        client.start()
        client.consume(QueueTopology("q"), prefetch=1, receive=lambda _: None)
        with closing(server.accept()[0]) as connection:
            connection.settimeout(PATIENCE)
            assert connection.recv(8) == b"AMQP\0\0\x09\x01"
            client.close(goodbye=0.1)
            assert connection.recv(1) == b""


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
@pytest.mark.parametrize("milliseconds", range(12))
def test_a_broker_that_cannot_be_reached_yet_is_let_go_of_at_the_close(scheme, milliseconds):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Broker.of(settings(f"{scheme}://guest:guest@127.0.0.1:{server.getsockname()[1]}/"))
        client.start()
        client.consume(QueueTopology("q"), prefetch=1, receive=lambda _: None)
        time.sleep(milliseconds / 1000)
        client.close(goodbye=0)
        client._thread.join(PATIENCE)
        del client
        gc.collect()


# Publishing


def test_a_message_is_persistent_and_keeps_a_large_body(broker, operator):
    inbox(broker).consumption.cancel()
    post, body = Post(broker), bytes(range(256)) * 4_000
    post.send("q", body)
    assert post.end()[1] is Sent.CONFIRMED
    _, found, taken = operator.basic_get("q", auto_ack=True)
    assert (found.delivery_mode, taken) == (2, body)


def test_thousands_are_under_way_at_once_and_arrive_in_order(broker):
    requests, post = inbox(broker, prefetch=6_000), Post(broker)
    sent = [post.send("q") for _ in range(5_000)]
    assert {end for _, end in post.ends(5_000)} == {Sent.CONFIRMED}
    assert [message.message_id for message in requests.take(5_000)] == sent


def test_a_made_up_target_for_a_direct_reply_is_returned_and_touches_nothing_else(broker):
    requests, post = inbox(broker), Post(broker)
    forged = post.send("amq.rabbitmq.reply-to.x.y")
    assert post.end() == (forged, Sent.RETURNED)
    assert broker.state.up
    post.send("q")
    post.end()
    assert requests.next().generation == 1


def test_a_direct_reply_reaches_whoever_asked(broker, operator):
    requests, post = inbox(broker), Post(broker)
    answers = []
    operator.basic_consume("amq.rabbitmq.reply-to", lambda *found: answers.append(found[-1]), auto_ack=True)
    operator.basic_publish("", "q", b"question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    post.send(requests.next().reply_to, b"answer")
    assert post.end()[1] is Sent.CONFIRMED
    eventually(lambda: operator.connection.process_data_events() or answers)
    assert answers == [b"answer"]


def test_a_direct_reply_to_somebody_who_has_gone_is_returned(broker, operator, rabbitmq_server):
    requests, post = inbox(broker), Post(broker)
    with rabbitmq_server.connect() as asker:
        channel = asker.channel()
        channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
        channel.basic_publish("", "q", b"question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        target = requests.next().reply_to
    late = post.send(target)
    assert post.end() == (late, Sent.RETURNED)


def test_a_full_queue_is_asked_again_in_order_until_there_is_room(broker, operator):
    operator.queue_declare("q", durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    post = Post(broker)
    sent = [post.send("q") for _ in range(6)]
    assert {end for _, end in post.ends(2)} == {Sent.CONFIRMED}
    requests = inbox(broker, prefetch=1)
    arrived = []
    for _ in sent:
        message = requests.next()
        arrived.append(message.message_id)
        message.ack()
    assert arrived == sent
    assert {end for _, end in post.ends(4)} == {Sent.CONFIRMED}


def test_a_message_that_is_too_large_for_the_broker_is_told_as_that(broker_url, operator, rabbitmq_server):
    operator.queue_declare("q", durable=True)
    rabbitmq_server.ctl("eval", "application:set_env(rabbit, max_message_size, 1000).")
    try:
        with connected(broker_url) as broker:
            post = Post(broker)
            ends = {post.send("q", body=bytes(1001)): Sent.TOO_LARGE, post.send("q", bytes(1000)): Sent.CONFIRMED}
            assert dict(post.ends(2)) == ends
    finally:
        rabbitmq_server.ctl("eval", "application:unset_env(rabbit, max_message_size).")


def test_a_queue_that_was_full_is_told_from_one_whose_limit_was_taken_away(broker, operator, rabbitmq_server):
    """A quorum queue says no for ever to the channel that it once refused, until its limit is another one."""
    operator.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    limit = '{"max-length": 1, "overflow": "reject-publish"}'
    rabbitmq_server.ctl("set_policy", "limit", "^q$", limit, "--apply-to", "queues")
    post = Post(broker)

    def end():
        post.send("q", tries=1)
        return post.end()[1]

    eventually(lambda: end() is Sent.REFUSED)
    rabbitmq_server.ctl("clear_policy", "limit")
    eventually(lambda: end() is Sent.CONFIRMED)


def test_what_was_not_confirmed_when_the_connection_was_cut_is_sent_again_under_its_id(broker, rabbitmq_server):
    requests, post = inbox(broker, prefetch=6_000), Post(broker)
    sent = [post.send("q") for _ in range(2_000)]
    rabbitmq_server.close_connections()
    sent += [post.send("q") for _ in range(2_000)]
    assert dict(post.ends(4_000)) == dict.fromkeys(sent, Sent.CONFIRMED)
    arrived = set()
    while len(arrived) < 4_000:
        message = requests.next()
        arrived.add(message.message_id)
        message.ack()
    assert arrived == set(sent)


def test_a_broker_in_need_holds_up_what_is_published_and_no_acks(broker, operator, rabbitmq_server):
    requests, post = inbox(broker), Post(broker)
    post.send("q")
    post.end()
    with rabbitmq_server.alarm():
        held = post.send("q")
        eventually(lambda: broker.state.blocked)
        requests.next().ack()
        eventually(lambda: unacknowledged(rabbitmq_server) == 0)
        assert broker.state.up
        post.send("q")
    assert post.end() == (held, Sent.CONFIRMED)
    assert not broker.state.blocked


# The loop


def test_when_the_loop_itself_fails_all_is_begun_anew(broker, monkeypatch):
    requests, post = inbox(broker), Post(broker)
    poll, broken = EPollPoller.poll, []

    def fail_once(poller):
        poll(poller)
        if not broken and threading.current_thread().name == "broker":
            broken.append(poller)
            raise RuntimeError("a bug of the loop")

    monkeypatch.setattr(EPollPoller, "poll", fail_once)
    sent = post.send("q")
    assert post.end() == (sent, Sent.CONFIRMED)
    while requests.next().generation == 1:
        pass


# Properties that nobody should send


class Raw:
    """Properties as bytes."""

    INDEX = pika.BasicProperties.INDEX

    def __init__(self, content):
        self._content = content

    def encode(self):
        return [self._content]


def table(content):
    return struct.pack(">I", len(content)) + content


def field(name, content):
    return bytes((len(name),)) + name + content


def nested(depth):
    content = b""
    for _ in range(depth):
        content = field(b"d", b"F" + table(content))
    return content


OUT_OF_RANGE = field(b"when", b"T" + struct.pack(">Q", 1 << 62))


@pytest.mark.parametrize("content", [OUT_OF_RANGE, nested(3_000)], ids=["a time out of range", "nested deeply"])
def test_headers_that_cannot_be_read_cost_neither_the_connection_nor_the_rest_of_the_message(broker, operator, content):
    requests = inbox(broker)
    flags = 1 << 13 | 1 << 10 | 1 << 9 | 1 << 7
    rest = field(b"c-1", b"") + field(b"replies", b"") + field(b"m-1", b"")
    operator.basic_publish("", "q", b"bad", Raw(struct.pack(">H", flags) + table(content) + rest))
    operator.basic_publish("", "q", b"good", pika.BasicProperties(message_id="m-2"))
    bad, good = requests.take(2)
    assert (bad.body, bad.message_id, bad.correlation_id, bad.reply_to) == (b"bad", "m-1", "c-1", "replies")
    assert (bad.unreadable, bad.headers, bad.attempts) == ("its headers cannot be read", {}, 0)
    assert (good.body, good.message_id, good.generation) == (b"good", "m-2", 1)


def test_properties_that_are_no_text_are_named_and_left_out(broker, operator):
    requests = inbox(broker)
    operator.basic_publish(
        "", "q", b"", Raw(struct.pack(">H", 1 << 7 | 1 << 5) + field(b"\xff", b"") + field(b"t", b""))
    )
    message = requests.next()
    assert (message.message_id, message.type) == ("", "t")
    assert message.unreadable == "its properties are not UTF-8 text"


@pytest.mark.parametrize("attempts", [-1, 1 << 40, "3", [3], True])
def test_a_count_of_attempts_that_makes_no_sense_is_none(broker, operator, attempts):
    requests = inbox(broker)
    operator.basic_publish("", "q", b"", pika.BasicProperties(headers={"x-longshore-attempts": attempts}))
    assert requests.next().attempts == 0


# Topology


def test_a_message_in_a_retry_queue_comes_back(broker):
    requests, post = inbox(broker, retry_delays=(1,)), Post(broker)
    post.send("q.retry.1", headers={"x-longshore-attempts": 2})
    assert post.end()[1] is Sent.CONFIRMED
    assert requests.next().attempts == 2


def test_what_the_broker_itself_drops_goes_to_the_dead_letters(broker, operator):
    inbox(broker).consumption.cancel()
    Post(broker).send("q", expiration=0.05)
    eventually(lambda: depth(operator, "q.dead") == 1)


def test_queues_that_exist_are_taken_as_they_are(broker, operator):
    for name in ("q", "q.dead", "answers"):
        operator.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
    requests, post = inbox(broker, reply_queue="answers"), Post(broker)
    post.send("q")
    assert requests.next().generation == 1


def test_queues_that_exist_with_other_arguments_are_told_once_with_both_sides(broker, broker_url, operator):
    arguments = dict([*QueueTopology("q").queues()][-1].arguments) | {"x-dead-letter-routing-key": "elsewhere"}
    operator.queue_declare("q", durable=True, arguments=arguments)
    operator.queue_declare("answers", durable=False)
    topology = QueueTopology("q", reply_queue="answers")
    unlike = probe(settings(broker_url), [topology]).unlike
    assert [each.partition(";")[0] for each in unlike] == [
        "the broker's queue answers has durable false, and the worker declares true",
        "the broker's queue q has x-dead-letter-routing-key elsewhere, and the worker declares q.dead",
    ]
    with capture_logs() as logged:
        requests, post = inbox(broker, reply_queue="answers"), Post(broker)
        post.send("q")
        assert requests.next().generation == 1
        operator.queue_delete("q")
        eventually(lambda: [each["event"] for each in logged].count("queue consumed") == 2)
    (why,) = [each["reason"] for each in logged if each["event"] == "queue not consumed"]
    assert why == "the broker gives no more of it: it was deleted, or its node is gone"
    assert [each["reason"] for each in logged if each["event"] == "queue is another one"] == list(unlike)


def test_queues_that_exist_as_operations_made_them_are_told_by_nobody(broker_url, operator):
    for name in ("q", "q.dead"):
        operator.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
    assert probe(settings(broker_url), [QueueTopology("q", passive=True)]).unlike == ()


def test_a_retry_queue_of_another_kind_is_an_error_that_names_both_sides(broker, broker_url, operator):
    _, retry, _ = QueueTopology("q", retry_delays=(5,)).queues()
    made = dict(retry.arguments)
    operator.queue_declare("q.retry.5", durable=True, arguments={**made, "x-message-ttl": 7000})
    what = "the broker's queue q.retry.5 has x-message-ttl 7000, and the worker declares 5000; delete it, or"
    requests = inbox(broker, retry_delays=(5,), ready=False)
    eventually(lambda: what in requests.consumption.reason)
    with pytest.raises(ConfigError, match=what):
        probe(settings(broker_url), [QueueTopology("q", retry_delays=(5,))])


def test_a_look_says_what_is_missing_and_declares_nothing(broker_url, operator):
    topology = QueueTopology("q", reply_queue="answers", retry_delays=(5,))
    found = probe(settings(broker_url), [topology])
    assert found.product.startswith("RabbitMQ ")
    assert found.missing == ("q.dead", "q.retry.5", "answers", "q")
    assert probe(settings(broker_url), [topology]).missing == found.missing


def test_a_look_does_not_mind_that_a_queue_of_operations_is_not_there_yet(broker_url, operator):
    operator.queue_declare("q.dead", durable=True)
    assert probe(settings(broker_url), [QueueTopology("q", passive=True)]).missing == ("q",)


def test_a_look_refuses_a_queue_of_operations_that_has_no_dead_letters(broker_url, operator):
    operator.queue_declare("q", durable=True)
    with pytest.raises(ConfigError, match=r"q\.dead: the queue is not there; declare it"):
        probe(settings(broker_url), [QueueTopology("q", passive=True)])


def test_a_look_says_at_once_which_queues_of_operations_are_missing(broker_url, operator):
    both = [QueueTopology(name, retry_delays=(5,), passive=True) for name in ("q", "answers")]
    with pytest.raises(ConfigError) as refused:
        probe(settings(broker_url), both)
    said = [str(problem).partition(";")[0] for problem in refused.value.problems]
    assert said == [f"broker: {name}.dead, {name}.retry.5: the queues are not there" for name in ("q", "answers")]


def test_a_look_refuses_a_user_who_may_not_write(broker_url, operator, rabbitmq_server):
    rabbitmq_server.ctl("add_user", "reader", PASSWORD)
    rabbitmq_server.ctl("set_permissions", "-p", "/", "reader", ".*", "^$", ".*")
    url = rabbitmq_server.url(user="reader")
    with pytest.raises(ConfigError, match="this user may not write to queues; let it write to the default exchange"):
        probe(settings(url), [QueueTopology("q")])
    assert probe(settings(url)).product


def test_a_look_at_a_broker_that_takes_no_messages_just_now_finds_it_usable(broker_url, operator, rabbitmq_server):
    with rabbitmq_server.alarm():
        assert "q" in probe(settings(broker_url), [QueueTopology("q")]).missing


# Addresses


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"vhost": "no-such"}, "has no such virtual host, or not for this user"),
        ({"password": "hunter2"}, "does not take this user and password"),
    ],
)
def test_a_broker_that_does_not_let_us_in_is_told_without_the_password(rabbitmq_server, given, what):
    with capture_logs() as logged, connected(rabbitmq_server.url(**given)) as broker:
        eventually(lambda: what in broker.state.reason)
        assert not broker.state.up
    with pytest.raises(Unavailable, match=what) as refused:
        probe(settings(rabbitmq_server.url(**given)))
    assert "hunter2" not in f"{refused.value}{logged}"


def test_a_broker_that_takes_a_connection_and_says_nothing_holds_no_goodbye_up():
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, capture_logs() as logs:
        broker = Broker.of(settings(f"amqp://{silent.getsockname()[0]}:{silent.getsockname()[1]}"))
        broker.start()
        with closing(silent.accept()[0]) as asked:
            assert asked.recv(8) == b"AMQP\0\0\x09\x01"
            broker.close()
    assert logs == []


def test_the_next_node_is_tried_where_one_does_not_answer(broker_url, rabbitmq_server):
    with connected("amqp://127.0.0.1:1", other_urls=[broker_url]) as broker:
        inbox(broker)
        eventually(lambda: broker.state.up)


def test_the_brokers_own_tools_show_who_is_connected(broker, rabbitmq_server):
    inbox(broker)
    found = rabbitmq_server.ctl("list_connections", "client_properties")
    names = [value for each in found for name, _, value in each["client_properties"] if name == "connection_name"]
    assert any(name.startswith("longshore ") and name.endswith(" (consuming)") for name in names)
