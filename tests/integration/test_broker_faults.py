"""The broker is killed, frozen, late, or behind TLS: what is published arrives, under its id."""

import itertools
import os
import signal
import time

import pytest
from certificates import Authority
from contract.amqp import PATIENCE, Post, connected, inbox, settings
from servers.rabbitmq import SETTLE_SECONDS, rabbitmq

from worker.amqp import Outgoing, QueueTopology, Sent, probe
from worker.errors import Unavailable

LONG = 90  # a broker that was killed takes its time to come back


def eventually(check, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Answering:
    """Answers each request on the queue q with a reply in the queue answers, and acks what is confirmed."""

    def __init__(self, broker):
        self._broker = broker
        self.ends = []
        self.topology = QueueTopology("q", reply_queue="answers")
        self.consumption = broker.consume(self.topology, prefetch=50, receive=self._receive)
        assert self.consumption.begun.wait(PATIENCE)

    def _receive(self, messages):
        for message in messages:
            reply = Outgoing("answers", message.body, f"{message.message_id}-reply")
            self._broker.publish(reply, lambda sent, message=message: self._answered(message, sent))

    def _answered(self, message, sent):
        self.ends.append(sent)
        if sent is Sent.CONFIRMED:
            message.ack()


def drained(server, queue):
    """The message ids in a queue, which is empty then."""
    with server.connect() as connection:
        channel = connection.channel()
        arriving = channel.consume(queue, auto_ack=True, inactivity_timeout=1)
        return [properties.message_id for _, properties, _ in itertools.takewhile(lambda found: found[0], arriving)]


def left(server, queue):
    with server.connect() as connection:
        return connection.channel().queue_declare(queue, passive=True).method.message_count


def test_whatever_happens_to_the_broker_every_request_gets_its_reply_and_none_is_left(own_rabbitmq):
    with connected(own_rabbitmq.url(), heartbeat=5) as asking, connected(own_rabbitmq.url(), heartbeat=5) as answering:
        answers, post = Answering(answering), Post(asking)
        sent = [post.send("q") for _ in range(1_000)]
        post.ends(1_000)
        time.sleep(SETTLE_SECONDS)  # see RabbitMQ.kill

        sent += [post.send("q") for _ in range(2_000)]
        own_rabbitmq.close_connections()
        sent += [post.send("q") for _ in range(2_000)]
        own_rabbitmq.kill()
        eventually(lambda: not answering.state.up and not asking.state.up)
        sent += [post.send("q") for _ in range(500)]
        own_rabbitmq.start()
        assert {end for _, end in post.ends(4_500)} == {Sent.CONFIRMED}

        os.killpg(own_rabbitmq.group, signal.SIGSTOP)
        sent += [post.send("q") for _ in range(10)]
        eventually(lambda: "silent" in asking.state.reason)
        os.killpg(own_rabbitmq.group, signal.SIGCONT)
        assert {end for _, end in post.ends(10)} == {Sent.CONFIRMED}

        eventually(lambda: len(answers.ends) >= len(sent) and left(own_rabbitmq, "q") == 0)
        answering.close(grace=PATIENCE)
        assert set(answers.ends) == {Sent.CONFIRMED}
        assert left(own_rabbitmq, "q") == 0
        assert set(drained(own_rabbitmq, "answers")) == {f"{each}-reply" for each in sent}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_broker(authority):
    with rabbitmq(tls=(authority.ca_file, authority.pair("broker"))) as server:
        yield server


def test_a_broker_that_comes_later_is_waited_for(tls_broker):
    tls_broker.stop()
    with connected(tls_broker.url()) as broker:
        requests, post = inbox(broker, ready=False), Post(broker)
        eventually(lambda: broker.state.reason == "Connection refused")
        tls_broker.start()
        eventually(requests.consumption.begun.is_set)
        early = post.send("q")
        message = requests.next()
        assert (message.message_id, post.end()[1]) == (early, Sent.CONFIRMED)
        message.ack()


def test_amqps_takes_a_private_authority_and_shows_a_certificate(tls_broker, authority):
    client = authority.pair("worker")
    secured = {"ca_file": authority.ca_file, "client_cert": client.certificate, "client_key": client.key}
    with connected(tls_broker.tls_url(), **secured) as broker:
        requests, post = inbox(broker), Post(broker)
        body = os.urandom(300_000)
        post.send("q", body)
        assert requests.next().body == body


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("client_cert", "client_key"), "its certificate is not trusted: self-signed certificate"),
        (("ca_file",), "does not take our certificate"),
    ],
)
def test_a_broker_that_is_not_trusted_or_does_not_trust_us_is_said_to_be(tls_broker, authority, given, what):
    client = authority.pair("worker")
    secured = {"ca_file": authority.ca_file, "client_cert": client.certificate, "client_key": client.key}
    with pytest.raises(Unavailable, match=what):
        probe(settings(tls_broker.tls_url(), **{name: secured[name] for name in given}))


def test_tls_to_a_port_that_speaks_none_is_said_to_have_failed(tls_broker, authority):
    url = tls_broker.tls_url().replace(str(tls_broker.tls_port), str(tls_broker.port))
    with pytest.raises(Unavailable, match=r"TLS failed|cut|no answer"):
        probe(settings(url, ca_file=authority.ca_file))
