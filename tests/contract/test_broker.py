"""What queues may count on is the same over RabbitMQ and over the broker in memory that their tests use."""

import pytest
from contract.brokers import InMemory, Side, WithRabbitMQ

from worker.amqp import Outgoing, Sent
from worker.errors import DeliveryError


@pytest.fixture(params=["twin", "rabbitmq"])
def side(request):
    """A started broker, without queues."""
    if request.param == "twin":
        kind = InMemory()
    else:
        server = request.getfixturevalue("rabbitmq_server")
        kind = WithRabbitMQ(server, request.getfixturevalue("broker_url"))
    kind.broker.start()
    yield Side(kind)
    kind.close()


# Publishing


def test_what_is_published_to_a_queue_is_confirmed_and_arrives_with_its_properties(side):
    requests = side.inbox()
    given = {
        "message_id": "m-1",
        "correlation_id": "c-1",
        "reply_to": "replies",
        "content_type": "application/json",
        "content_encoding": "gzip",
        "type": "result",
    }
    assert side.post().sent("q", b"\x00body", headers={"x-count": 3}, **given) is Sent.CONFIRMED
    message = requests.next()
    assert {name: getattr(message, name) for name in given} == given
    assert (message.body, message.headers, message.queue) == (b"\x00body", {"x-count": 3}, "q")
    assert (message.redelivered, message.attempts, message.unreadable, message.is_live) == (False, 0, "", True)


def test_what_others_send_without_properties_has_empty_ones(side):
    requests = side.inbox()
    side.operator.put("q", b"bare")
    message = requests.next()
    texts = message.message_id, message.correlation_id, message.reply_to, message.content_type, message.type
    assert (message.body, message.headers, set(texts)) == (b"bare", {}, {""})


def test_messages_arrive_in_order_and_each_has_one_end(side):
    requests, post = side.inbox(prefetch=300), side.post()
    sent = [post.send() for _ in range(200)]
    assert [message.message_id for message in requests.take(200)] == sent
    assert post.all_ended() == [(each, Sent.CONFIRMED) for each in sent]


def test_what_is_published_together_arrives_in_order_also_if_that_ends_early(side):
    requests, post, sent = side.inbox(prefetch=300), side.post(), []
    with pytest.raises(ValueError, match="early"), side.broker.gathered():
        sent += [post.send() for _ in range(100)]
        raise ValueError("early")
    sent.append(post.send())
    assert [message.message_id for message in requests.take(101)] == sent
    assert post.all_ended() == [(each, Sent.CONFIRMED) for each in sent]


def test_more_than_a_socket_takes_at_once_arrives_whole_and_in_order(side):
    requests, post = side.inbox(prefetch=300), side.post()
    bodies = [bytes([number]) * size for number, size in enumerate([5_000_000, 10] * 8)]
    sent = [post.send("q", body) for body in bodies]
    assert [message.body == body for message, body in zip(requests.take(16), bodies, strict=True)] == [True] * 16
    assert post.all_ended() == [(each, Sent.CONFIRMED) for each in sent]


def test_what_no_queue_takes_is_returned_and_the_others_are_not(side):
    side.inbox()
    post, expected = side.post(), {}
    for _ in range(20):
        expected[post.send("q")] = Sent.CONFIRMED
        expected[post.send("no-such-queue")] = Sent.RETURNED
    assert dict(post.all_ended()) == expected


def test_an_exchange_that_is_not_there_takes_no_other_message_with_it(side):
    side.inbox()
    post, expected = side.post(), {}
    for _ in range(2):
        expected[post.send("q", exchange="no-such-exchange")] = Sent.RETURNED
        expected[post.send("q")] = Sent.CONFIRMED
    assert dict(post.all_ended()) == expected


def test_a_queue_that_is_full_refuses(side):
    side.operator.declare_full("full")
    assert side.post().sent("full", tries=1) is Sent.REFUSED


@pytest.mark.parametrize(
    "wrong",
    [{"headers": {"weight": 0.5}}, {"correlation_id": "c" * 300}, {"message_id": ""}],
    ids=["a float in the headers", "a long text", "no message id"],
)
def test_what_cannot_be_sent_is_told_at_once_and_has_no_end(side, wrong):
    side.inbox()
    post = side.post()
    with pytest.raises(DeliveryError):
        side.broker.publish(Outgoing("q", b"", **{"message_id": "m", **wrong}), lambda _: post.ends.append("an end"))
    assert post.sent() is Sent.CONFIRMED
    assert len(post.ends) == 1


def test_a_bug_in_what_is_told_of_the_end_costs_no_channel(side):
    requests, post = side.inbox(), side.post()
    side.broker.publish(Outgoing("q", b"", "m"), lambda _: 1 / 0)
    assert post.sent() is Sent.CONFIRMED
    assert {message.generation for message in requests.take(2)} == {1}


def test_what_is_published_before_the_close_is_confirmed_and_what_comes_later_has_an_end_too(side):
    side.inbox()
    post = side.post()
    sent = [post.send() for _ in range(100)]
    side.broker.close(grace=30)
    assert dict(post.ends) == dict.fromkeys(sent, Sent.CONFIRMED)
    assert post.sent() is Sent.UNKNOWN


# Consuming


def test_no_more_come_than_the_prefetch_allows(side):
    requests, post = side.inbox(prefetch=3), side.post()
    for _ in range(5):
        post.send()
    first, *_ = requests.take(3)
    side.until(lambda: side.operator.depth("q") == 2)
    assert requests.empty
    first.ack()
    requests.next()
    side.until(lambda: side.operator.depth("q") == 1)


def test_one_that_takes_long_holds_back_no_others_and_is_all_that_is_left_by_a_close(side):
    requests, post = side.inbox(), side.post()
    for _ in range(10):
        post.send()
    long, *others = requests.take(10)
    for message in others:
        message.ack()
    side.broker.close()
    side.until(lambda: side.operator.depth("q") == 1)
    assert not long.is_live


def test_what_is_given_back_comes_again_on_the_same_channel(side):
    requests = side.inbox()
    side.operator.put("q", b"", message_id="one")
    first = requests.next()
    first.give_back()
    again = requests.next()
    assert (again.message_id, again.redelivered, again.generation) == ("one", True, first.generation)


def test_a_message_is_settled_once(side):
    requests, post = side.inbox(), side.post()
    for _ in range(3):
        post.send()
    first, second, _third = requests.take(3)
    for _ in range(2):
        first.ack()
        second.give_back()
    assert requests.next().message_id == second.message_id
    side.broker.close()
    side.until(lambda: side.operator.depth("q") == 2)
    assert requests.empty


def test_an_ack_for_a_connection_that_is_gone_takes_no_other_message_off_the_queue(side):
    requests, post = side.inbox(), side.post()
    sent = [post.send() for _ in range(3)]
    old = requests.take(3)
    side.operator.cut()
    new = requests.take(3)
    assert {message.message_id for message in new} == set(sent)
    assert {message.generation for message in new}.isdisjoint({old[0].generation})
    assert [message.redelivered for message in new] == [True] * 3
    assert ([message.is_live for message in old], [message.is_live for message in new]) == ([False] * 3, [True] * 3)
    for message in old:
        message.ack()
        message.give_back()
    new[0].ack()
    side.broker.close()
    side.until(lambda: side.operator.depth("q") == 2)


def test_messages_that_could_not_be_taken_come_again(side):
    troubles = [ValueError("a bug")]

    def fail_once(messages):
        while troubles:
            raise troubles.pop()

    requests = side.inbox(receive=fail_once)
    sent = side.post().send()
    again = requests.next()
    assert (again.message_id, again.redelivered) == (sent, True)
    assert again.generation > 1


def test_after_a_cancel_nothing_comes_and_what_came_can_still_be_settled(side):
    requests, post = side.inbox(prefetch=2), side.post()
    for _ in range(3):
        post.send()
    taken = requests.take(2)
    requests.consumption.cancel(timeout=0)
    side.until(lambda: requests.consumption.is_idle)
    for message in taken:
        assert message.is_live
        message.ack()
    side.broker.close(grace=30)
    side.until(lambda: side.operator.depth("q") == 1)
    assert requests.empty


# Queues


def test_what_is_missing_is_declared_and_what_exists_keeps_its_messages(side):
    side.operator.declare("q.dead")
    side.operator.put("q.dead", b"an older one")
    side.inbox(retry_delays=(1, 4), reply_queue="answers").consumption.cancel()
    expected = {"q": 0, "q.retry.1": 0, "q.retry.4": 0, "answers": 0, "q.dead": 1}
    assert side.until(lambda: {queue: side.operator.depth(queue) for queue in expected}) == expected


def test_a_queue_that_was_deleted_is_declared_and_consumed_again(side):
    requests, post = side.inbox(), side.post()
    side.operator.delete("q")
    side.until(lambda: post.sent() is Sent.CONFIRMED)
    assert requests.next().generation > 1


def test_queues_that_have_gone_are_declared_again_on_request(side):
    requests, post, restored = side.inbox(retry_delays=(1, 4), reply_queue="answers"), side.post(), []
    for gone in ("q.dead", "q.retry.4", "answers"):
        side.operator.delete(gone)
        assert post.sent(gone) is Sent.RETURNED
    for number in range(3):
        requests.consumption.restore(lambda number=number: restored.append(number))
    side.until(lambda: restored == [0, 1, 2])
    assert [post.sent(queue) for queue in ("q.dead", "q.retry.4", "answers", "q")] == [Sent.CONFIRMED] * 4
    assert requests.next().generation == 1


def test_queues_of_somebody_elses_are_waited_for(side):
    requests, post = side.inbox(passive=True, ready=False), side.post()
    side.until(lambda: "not there" in requests.consumption.reason)
    assert "q.dead, q: " in requests.consumption.reason
    assert not requests.consumption.begun.is_set()
    assert post.sent() is Sent.RETURNED
    for name in ("q.dead", "q"):
        side.operator.declare(name)
    side.until(requests.consumption.begun.is_set)
    assert requests.consumption.reason == ""
    sent = post.send()
    assert requests.next().message_id == sent
