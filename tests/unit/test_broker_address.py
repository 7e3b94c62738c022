import pytest

from worker.broker_address import Address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://broker.example", ("broker.example", 5672, "/", "guest", "guest", False)),
        ("amqps://broker.example/", ("broker.example", 5671, "/", "guest", "guest", True)),
        ("amqp://me:se%2Fcret@broker:1/%2Fmine", ("broker", 1, "/mine", "me", "se/cret", False)),
        ("amqp://me@[::1]:2/mine", ("::1", 2, "mine", "me", "guest", False)),
        ("amqp://me:@broker/mine", ("broker", 5672, "mine", "me", "", False)),
    ],
)
def test_an_address_says_where_and_who(url, expected):
    found = Address.read(url)
    assert (found.host, found.port, found.vhost, found.user, found.password, found.encrypted) == expected


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://hunter2@broker", "must be an amqp:// or amqps:// address"),
        ("amqp:///hunter2", "must be an amqp:// or amqps:// address"),
        ("amqp://me:hunter2@broker:http/", "its host or port is wrong"),
        ("amqp://me:hunter2@broker:99999/", "its host or port is wrong"),
        ("amqp://me:hunter2@[broker/", "its host or port is wrong"),
        ("amqp://me:hunter2@broker/a/b", "write %2F for that"),
        ("amqp://me:hunter2@broker/?heartbeat=5", "has settings of its own"),
    ],
)
def test_a_wrong_one_is_explained_and_not_quoted(url, what):
    with pytest.raises(ValueError, match=what) as refused:
        Address.read(url)
    assert "hunter2" not in str(refused.value)


def test_the_password_is_not_shown():
    found = Address.read("amqp://me:hunter2@[::1]:5/mine")
    assert "hunter2" not in repr(found) + str(found)
    assert str(found) == "[::1]:5"
