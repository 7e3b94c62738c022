"""Deliveries and confirms as they are read from bytes, beside what pika reads from the same bytes."""

import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from worker.amqp import codec, incoming

TEXT = st.text(max_size=60)
NAMES = st.text(max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.decimals(-1000, 1000, places=3)
    | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
        lambda time: time.replace(microsecond=0)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PROPERTIES = st.builds(
    spec.BasicProperties,
    content_type=st.none() | TEXT,
    content_encoding=st.none() | TEXT,
    headers=st.none() | st.dictionaries(NAMES, VALUES, max_size=3),
    delivery_mode=st.none() | st.integers(1, 2),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | TEXT,
    reply_to=st.none() | TEXT,
    expiration=st.none() | TEXT,
    message_id=st.none() | TEXT,
    timestamp=st.none() | st.integers(0, (1 << 64) - 1),
    type=st.none() | TEXT,
    user_id=st.none() | TEXT,
    app_id=st.none() | TEXT,
    cluster_id=st.none() | TEXT,
)
METHODS = st.builds(
    spec.Basic.Deliver,
    consumer_tag=TEXT,
    delivery_tag=st.integers(1, (1 << 64) - 1),
    redelivered=st.booleans(),
    exchange=TEXT,
    routing_key=TEXT,
)
USUAL = {"message_id": "m1", "content_type": "application/json", "headers": {"a": 1}, "type": "order"}


def wire(method, properties, body, *, channel=7, pieces=1):
    """A delivery as a broker sends it, its body in so many frames."""
    size = -(-len(body) // pieces) or 1
    frames = [frame.Method(channel, method), frame.Header(channel, len(body), properties)]
    frames += [frame.Body(channel, body[at : at + size]) for at in range(0, len(body), size)]
    return b"".join(each.marshal() for each in frames)


def deliver(tag=1, *, redelivered=False):
    return spec.Basic.Deliver("consumer", tag, redelivered, "", "orders")


def read_by_pika(data):
    """The method, the properties, and where the body begins."""
    at, method = frame.decode_frame(data)
    size, header = frame.decode_frame(data[at:])
    return method.method, header.properties, at + size


@given(METHODS, PROPERTIES, st.binary(max_size=200), st.binary(max_size=30))
def test_a_delivery_is_read_as_pika_reads_it(method, properties, body, following):
    data = wire(method, properties, body)
    end, channel, arrived = incoming.read(data + following, 0)
    theirs, unreadable = codec.arrived(*read_by_pika(data)[:2], body)
    assert (end, channel, arrived, unreadable) == (len(data), 7, theirs, "")


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_deliveries_are_read_one_after_the_other(bodies):
    data = b"".join(wire(deliver(tag), spec.BasicProperties(**USUAL), body) for tag, body in enumerate(bodies, 1))
    at, found = 0, []
    while delivery := incoming.read(data, at):
        at, _, (tag, _, _, _, body) = delivery
        found.append((tag, body))
    assert at == len(data)
    assert found == list(enumerate(bodies, 1))


@given(st.integers(0, 200))
def test_one_that_is_not_all_there_is_left_to_pika(size):
    data = wire(deliver(), spec.BasicProperties(**USUAL), b"x" * 40)
    assert incoming.read(data[: min(size, len(data) - 1)], 0) is None


@given(st.data())
def test_bytes_that_make_no_sense_are_left_to_pika_or_read_as_it_reads_them(draw):
    data = bytearray(wire(deliver(), spec.BasicProperties(**USUAL), b"x" * 40))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    found = incoming.read(bytes(data), 0)
    try:
        method, properties, start = read_by_pika(bytes(data))
    except (KeyError, IndexError, struct.error):  # in what nobody asks for, such as the routing key
        return
    except Exception:  # noqa: BLE001 - no frame, not all of one, or headers that nobody can read
        assert found is None
    else:
        if found:
            end, _, arrived = found
            assert codec.arrived(method, properties, bytes(data[start + 7 : end - 1])) == (arrived, "")


@given(st.integers(0, (1 << 64) - 1), st.booleans(), st.integers(1, 65_535), st.binary(max_size=30))
def test_an_ack_is_read_as_it_was_sent(number, multiple, channel, following):
    data = frame.Method(channel, spec.Basic.Ack(number, multiple)).marshal()
    assert incoming.read_ack(data + following, 0) == (len(data), channel, number, multiple)


@pytest.mark.parametrize("data", [frame.Method(7, each).marshal() for each in (spec.Basic.Nack(1), deliver())])
def test_no_other_method_is_taken_for_an_ack(data):
    assert incoming.read_ack(data + data, 0) is None


@given(st.integers(0, 20))
def test_an_ack_that_is_not_all_there_is_left_to_pika(size):
    assert incoming.read_ack(frame.Method(7, spec.Basic.Ack(1)).marshal()[:size], 0) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(frame.Heartbeat().marshal(), id="a heartbeat"),
        pytest.param(frame.Method(7, spec.Basic.Ack(1)).marshal() * 4, id="an ack"),
        pytest.param(
            wire(spec.Basic.Return(312, "NO_ROUTE", "", "replies"), spec.BasicProperties(**USUAL), b"x"), id="a return"
        ),
        pytest.param(wire(deliver(), spec.BasicProperties(**USUAL), b"x" * 10, pieces=2), id="a body in two frames"),
        pytest.param(
            wire(deliver(), spec.BasicProperties(message_id="m1"), b"x").replace(b"m1", b"m\xff"), id="text not UTF-8"
        ),
        pytest.param(
            frame.Method(7, deliver()).marshal() + wire(deliver(), spec.BasicProperties(), b"x", channel=8)[40:],
            id="a header of another channel",
        ),
    ],
)
def test_what_is_no_usual_delivery_is_left_to_pika(data):
    assert incoming.read(data, 0) is None


def test_headers_with_a_time_out_of_range_are_left_to_pika():
    good = wire(deliver(), spec.BasicProperties(headers={"at": datetime(2026, 1, 1, tzinfo=UTC)}), b"x")
    time = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()).to_bytes(8, "big")
    assert incoming.read(good, 0)
    assert incoming.read(good.replace(time, b"\xff" * 8), 0) is None


def test_decimals_keep_their_digits():
    data = wire(deliver(), spec.BasicProperties(headers={"price": Decimal("1.10")}), b"x")
    _, _, (_, _, _, headers, _) = incoming.read(data, 0)
    assert headers == {"price": Decimal("1.10")}
