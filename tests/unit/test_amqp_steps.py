import pytest

from worker.amqp.steps import follow


class Told:
    """Keeps how it ended."""

    def __init__(self):
        self.ends = []

    def done(self, result):
        self.ends.append(("done", result))

    def failed(self, error):
        self.ends.append(("failed", str(error)))

    def follow(self, steps):
        follow(steps, self.done, self.failed)
        return self


def answer(value):
    return lambda done, _failed: done(value)


def refuse(error):
    return lambda _done, failed: failed(error)


def test_each_step_is_given_its_answer_and_the_end_its_result():
    def steps():
        first = yield answer(1)
        second = yield answer(2)
        return first, second

    assert Told().follow(steps()).ends == [("done", (1, 2))]


def test_a_step_waits_for_its_answer():
    waiting = []

    def steps():
        return (yield lambda done, _failed: waiting.append(done))

    told = Told().follow(steps())
    assert told.ends == []
    waiting[0]("late")
    assert told.ends == [("done", "late")]


def test_a_failure_can_be_caught_and_gone_on_from():
    def steps():
        with pytest.raises(ValueError, match="no"):
            yield refuse(ValueError("no"))
        return (yield answer("yes"))

    assert Told().follow(steps()).ends == [("done", "yes")]


def test_a_failure_that_nobody_catches_is_the_end():
    def steps():
        yield refuse(ValueError("no"))

    def bug():
        yield answer(1)
        raise KeyError("bug")

    assert Told().follow(steps()).ends == [("failed", "no")]
    assert Told().follow(bug()).ends == [("failed", "'bug'")]
