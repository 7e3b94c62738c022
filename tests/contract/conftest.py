"""Ledgers on each kind of database, with a clock of the test's own."""

import pytest

from worker.ledger import Ledger


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql_server").new_schema()
    return f"sqlite:///{tmp_path / 'state' / 'state.db'}"


@pytest.fixture
def opened(url, clock):
    """Opens the ledger for an owner."""
    ledgers = []

    def open_ledger(owner="one", **options):
        ledgers.append(Ledger(url, **{"owner": owner, "lease": 30, "clock": clock, **options}))
        return ledgers[-1]

    yield open_ledger
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(opened):
    return opened()


@pytest.fixture
def other(opened, ledger):
    return opened("other")
