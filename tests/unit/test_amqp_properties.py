import math
from datetime import UTC, datetime
from decimal import Decimal

import pika
import pytest
from pika import frame, spec

from worker.amqp import Outgoing
from worker.amqp.codec import encoded, frames, readable
from worker.errors import DeliveryError

LONG = "x" * 255


def properties_of(outgoing):
    """As they go over the wire, in the second frame."""
    _, header, *_ = frames_of(frames(outgoing, encoded(outgoing), 1, 1000, mandatory=True))
    return header[7 + 12 : -1]


def frames_of(data):
    while data:
        size = 7 + int.from_bytes(data[3:7], "big") + 1
        yield data[:size]
        data = data[size:]


@pytest.mark.parametrize("body", [b"", b"x" * 10, b"y" * 1000, b"z" * 2001], ids=len)
def test_a_message_goes_over_the_wire_as_pika_would_send_it(body):
    outgoing = Outgoing("réplies", body, "m1", exchange="e", content_type="text/csv", headers={"a": 1})
    properties = spec.BasicProperties(content_type="text/csv", headers={"a": 1}, delivery_mode=2, message_id="m1")
    method = spec.Basic.Publish(exchange="e", routing_key="réplies", mandatory=True)
    theirs = [frame.Method(3, method), frame.Header(3, len(body), properties)]
    theirs += [frame.Body(3, body[at : at + 1000]) for at in range(0, len(body), 1000)]
    ours = frames(outgoing, encoded(outgoing), 3, 1000, mandatory=True)
    assert list(frames_of(ours)) == [each.marshal() for each in theirs]


def decoded(outgoing):
    return spec.BasicProperties().decode(properties_of(outgoing))


def test_what_is_encoded_is_what_pika_would_have_encoded():
    headers = {"n": 1, "big": 1 << 40, "on": True, "none": None, "list": ["a", {"b": b"c"}], "text": "ü"}
    given = {
        "message_id": "m",
        "correlation_id": LONG,
        "reply_to": "r",
        "content_type": "t",
        "content_encoding": "gzip",
        "type": "result",
    }
    ours = properties_of(Outgoing("q", b"", headers=headers, expiration=1.5, **given))
    theirs = pika.BasicProperties(headers=headers, delivery_mode=2, expiration="1500", **given).encode()
    assert ours == b"".join(theirs)


def test_what_is_not_there_is_not_sent():
    found = decoded(Outgoing("q", b"", "m"))
    assert (found.message_id, found.delivery_mode) == ("m", 2)
    assert {found.correlation_id, found.reply_to, found.headers, found.expiration, found.type} == {None}


@pytest.mark.parametrize(
    "name", ["routing_key", "exchange", "message_id", "correlation_id", "reply_to", "content_type", "type"]
)
@pytest.mark.parametrize(
    ("text", "what"),
    [
        (LONG + "x", "is longer than 255 bytes"),
        ("ü" * 128, "is longer than 255 bytes"),
        ("\ud800", "is no Unicode text"),
        ("a\0", "holds a zero character"),
        (7, "is int, not text"),
        (None, "is NoneType, not text"),
    ],
)
def test_a_text_that_would_break_the_connection_is_refused_by_its_place(name, text, what):
    with pytest.raises(DeliveryError, match=f"the {name} of the message to send {what}"):
        encoded(Outgoing(**{"routing_key": "q", "body": b"", "message_id": "m", name: text}))


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = {"deeper": value}
    return value


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (1.5, "headers.* hold a float; make it text"),
        (object(), "headers.* hold a object; make it text"),
        (1 << 63, "headers.* out of range"),
        (Decimal("NaN"), "headers.* out of range"),
        (Decimal(1) / 3, "headers.* out of range"),
        (Decimal(1 << 31), "headers.* out of range"),
        (datetime(1969, 12, 31, tzinfo=UTC), "headers.* out of range"),
        (nested(100), "headers .* nested too deeply"),
        (nested(5_000), "headers .* nested too deeply"),
        ({LONG + "x": 1}, "headers.* is longer than 255 bytes"),
        ({7: 1}, "headers.* is int, not text"),
        ("x" * 200_000, "headers .* too large for one frame"),
        (["\ud800"], "headers .* no Unicode text"),
    ],
)
def test_headers_that_would_break_the_connection_are_refused_without_their_values(value, what):
    with pytest.raises(DeliveryError, match=what) as refused:
        encoded(Outgoing("q", b"", "m", headers={"secret-name": value}))
    assert "secret-name" not in str(refused.value)


def test_headers_as_they_came_in_can_be_sent_again():
    headers = {
        "x-death": [{"count": 3, "time": datetime(2026, 11, 27, tzinfo=UTC), "queue": "q"}],
        b"\xff": b"\xfe",
        "price": Decimal("12.50"),
        "nothing": None,
    }
    assert decoded(Outgoing("q", b"", "m", headers=headers)).headers == headers


@pytest.mark.parametrize("expiration", [-1, math.nan, math.inf, 1e12])
def test_an_expiration_that_is_no_time_is_refused(expiration):
    with pytest.raises(DeliveryError, match="expiration that is out of range"):
        encoded(Outgoing("q", b"", "m", expiration=expiration))


def test_a_message_without_an_id_or_with_a_body_of_text_is_refused():
    with pytest.raises(DeliveryError, match="has no message_id"):
        encoded(Outgoing("q", b"", ""))
    with pytest.raises(DeliveryError, match="body of the message to send is str, not bytes"):
        encoded(Outgoing("q", "text", "m"))


def test_the_other_properties_are_read_where_the_headers_cannot_be():
    sent = pika.BasicProperties(content_type="t", headers={"a": {"b": "c"}}, message_id="m", reply_to="r").encode()
    found = readable(b"".join(sent).replace(b"F", b"?"))  # a type of field that there is not
    assert (found.content_type, found.message_id, found.reply_to, found.headers) == ("t", "m", "r", None)
    assert found.unreadable == "its headers cannot be read"


@pytest.mark.parametrize("content", [b"\xff\xf0", b"\xff\xf0\x09abc", b"\x20\x00\xff\xff\xff\xff"])
def test_nothing_is_read_from_properties_that_are_broken_off(content):
    found = readable(content)
    assert (found.message_id, found.headers, found.unreadable) == (None, None, "its headers cannot be read")
