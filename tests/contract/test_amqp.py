"""What the broker's client promises, against a real RabbitMQ."""

import pytest
from contract.amqp import Post, connected, inbox

from worker.amqp import Sent


@pytest.fixture
def broker(broker_url):
    with connected(broker_url) as started:
        yield started


def test_what_is_published_to_a_queue_is_confirmed_and_arrives_with_its_properties(broker):
    requests, post = inbox(broker), Post(broker)
    given = {
        "message_id": "m-1",
        "correlation_id": "c-1",
        "reply_to": "replies",
        "content_type": "application/json",
        "content_encoding": "gzip",
        "type": "result",
    }
    post.send("q", b"\x00body", headers={"x-count": 3}, **given)
    assert post.end() == ("m-1", Sent.CONFIRMED)
    message = requests.next()
    assert {name: getattr(message, name) for name in given} == given
    assert (message.body, message.headers, message.queue) == (b"\x00body", {"x-count": 3}, "q")
    assert (message.redelivered, message.attempts, message.unreadable) == (False, 0, "")


def test_what_no_queue_takes_is_returned(broker):
    post = Post(broker)
    lost = post.send("no-such-queue")
    assert post.end() == (lost, Sent.RETURNED)
