import pytest
from fake_backend import Time, answer, opened

from worker.backends.budget import FIRST, MOST, RetryBudget
from worker.errors import Unavailable


def spent(budget):
    """How many tokens there were."""
    return next(count for count in range(10_000) if not budget.spend())


def test_a_quiet_worker_may_try_again_a_few_times_and_then_once_a_second():
    time = Time()
    budget = RetryBudget(time)
    assert spent(budget) == FIRST
    time.now += 3
    assert spent(budget) == 3
    time.now += 3600
    assert spent(budget) == FIRST


def test_a_tenth_of_the_calls_that_went_well_may_be_repeated_later_up_to_a_hundred():
    budget = RetryBudget(Time())
    spent(budget)
    for _ in range(105):
        budget.earn()
    assert spent(budget) == 10
    for _ in range(10_000):
        budget.earn()
    assert spent(budget) == pytest.approx(MOST, abs=1)


def test_repetitions_do_not_multiply_the_calls_to_a_failing_backend():
    billing = opened(lambda _: answer(status=429), retries=4, threads=64)
    calls = 0
    for line in range(2, 202):
        with pytest.raises(Unavailable):
            billing.at(line).get("/plans")
        calls += 1
        billing.time.now -= sum(billing.time.slept)  # all rows at once
        billing.time.slept.clear()
    assert calls == 200
    assert billing.calls <= calls + FIRST + 8


def test_an_exhausted_budget_passes_the_error_on_at_once():
    billing = opened(lambda _: answer(status=429), retries=4)
    while billing.backend._http.budget.spend():
        pass
    with pytest.raises(Unavailable) as caught:
        billing.at().get("/plans")
    assert (caught.value.status, billing.calls, billing.time.slept) == (429, 1, [])
