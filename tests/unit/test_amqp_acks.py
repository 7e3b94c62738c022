import random

from worker.amqp.acks import Acks


def test_what_is_settled_from_the_first_on_takes_one_ack():
    assert list(Acks().settle([3, 1, 2])) == [(3, True)]


def test_what_comes_after_one_that_takes_long_is_settled_singly():
    acks = Acks()
    assert list(acks.settle([2, 3, 5])) == [(2, False), (3, False), (5, False)]
    assert list(acks.settle([1])) == [(1, False)]
    assert list(acks.settle([4])) == [(4, False)]
    assert list(acks.settle([6, 7, 9])) == [(7, True), (9, False)]


def test_nothing_is_settled_twice_as_the_broker_closes_the_channel_for_that():
    acks = Acks()
    assert list(acks.settle([1, 1, 3])) == [(1, False), (3, False)]
    assert list(acks.settle([1, 3])) == []
    assert acks.put_back([1, 2, 2, 3]) == [2]
    assert list(acks.settle([2])) == []


def test_what_was_put_back_is_not_waited_for():
    acks = Acks()
    assert acks.put_back([2]) == [2]
    assert list(acks.settle([1, 3])) == [(3, True)]


def test_in_whatever_order_messages_are_settled_each_is_settled_once_and_none_too_early():
    chance = random.Random(7)
    for _ in range(200):
        acks, delivered, finished = Acks(), 0, set()
        outstanding, settled = set(), []
        while len(settled) < 50:
            delivered = min(50, delivered + chance.randrange(6))
            outstanding = set(range(1, delivered + 1)) - finished
            batch = {tag for tag in outstanding if chance.random() < 0.4}
            back = {tag for tag in batch if chance.random() < 0.2}
            finished |= batch
            for tag, multiple in acks.settle(batch - back):
                below = set(range(1, tag)) - set(settled) if multiple else set()
                settled += [*below, tag]
            settled += acks.put_back(back)
            assert set(settled) == finished
        assert sorted(settled) == list(range(1, 51))
