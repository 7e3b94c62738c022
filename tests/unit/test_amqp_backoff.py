from worker.amqp.backoff import Backoff


def test_waits_double_up_to_the_longest():
    backoff = Backoff(lambda: 1.0, longest=1.5)
    assert [backoff.wait() for _ in range(5)] == [0.25, 0.5, 1.0, 1.5, 1.5]


def test_a_wait_is_at_least_half_of_what_it_could_be():
    assert Backoff(lambda: 0.0).wait() == 0.125


def test_after_a_success_they_begin_anew():
    backoff = Backoff(lambda: 1.0)
    backoff.wait()
    backoff.wait()
    backoff.reset()
    assert backoff.wait() == 0.25
