import pytest

from worker.amqp.loop import Bell, Loop


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


def stop_soon(loop):
    loop.later(0.01, loop.stop)


def test_what_is_woken_before_the_loop_runs_and_by_itself_is_called_in_order(loop):
    called = []

    def first():
        loop.wake(lambda: called.append("third"))
        called.append("first")

    loop.wake(first)
    loop.wake(lambda: called.append("second"))
    stop_soon(loop)
    loop.run()
    assert called == ["first", "second", "third"]


def fail():
    raise RuntimeError("a timer of the client library's")


def test_a_bell_that_rang_as_the_loop_failed_is_answered_when_it_runs_again(loop):
    answered = []
    bell = Bell(loop, lambda: answered.append(len(answered)))

    def ring_and_fail():
        loop.io.call_later(0, fail)
        bell.ring()

    loop.wake(ring_and_fail)
    with pytest.raises(RuntimeError, match="client library"):
        loop.run()
    stop_soon(loop)
    loop.run()
    bell.ring()
    stop_soon(loop)
    loop.run()
    assert answered == [0, 1]


def test_what_waits_as_the_loop_fails_is_called_once_when_it_runs_again(loop):
    called = []
    loop.io.call_later(0, fail)
    loop.later(0, lambda: called.append("was due"))
    loop.later(0.02, lambda: called.append("not due yet"))
    loop.later(0.03, loop.stop)
    with pytest.raises(RuntimeError, match="client library"):
        loop.run()
    loop.run()
    assert called == ["was due", "not due yet"]


def test_a_loop_that_has_ended_is_woken_in_vain_also_by_a_thread_with_the_number_of_its_own(loop):
    called = []
    stop_soon(loop)
    loop.run()
    loop.close()
    loop.wake(lambda: called.append("too late"))
    assert not called
