"""What every token store promises, whether in memory or in the ledger."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from worker.auth import MemoryTokenStore
from worker.ledger import Ledger

KEY = "a" * 64


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request, clock, tmp_path):
    if request.param == "memory":
        yield MemoryTokenStore(clock)
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'state.db'}"
    else:
        url = request.getfixturevalue("postgresql_server").new_schema()
    with closing(Ledger(url, clock=clock)) as ledger:
        yield ledger.tokens


def saved(store, sealed=b"sealed", lifetime=300.0):
    version = store.lead(KEY, "one", 15)
    assert store.save(KEY, version, sealed, lifetime)
    return store.read(KEY)


def test_nothing_is_known_at_first(store):
    assert store.read(KEY) is None


def test_one_leads_at_a_time(store):
    assert store.lead(KEY, "one", 15) is not None
    assert store.lead(KEY, "other", 15) is None
    assert store.lead(KEY, "one", 15) is None


def test_of_many_at_once_one_leads(store):
    together = threading.Barrier(8)

    def lead(owner):
        together.wait()
        return store.lead(KEY, owner, 15)

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lead, "abcdefgh"))
    assert len([version for version in versions if version is not None]) == 1


def test_a_lease_shows_its_leader_and_what_is_left_of_it(store, clock):
    version = store.lead(KEY, "one", 15)
    clock.now += 5
    entry = store.read(KEY)
    assert (entry.version, entry.leader, entry.sealed) == (version, "one", None)
    assert entry.lease_left == pytest.approx(10)


def test_a_lease_that_ran_out_goes_to_the_next(store, clock):
    first = store.lead(KEY, "one", 15)
    clock.now += 15
    assert store.read(KEY).lease_left == 0
    assert store.lead(KEY, "other", 15) > first


def test_leases_of_different_keys_are_independent(store):
    assert store.lead(KEY, "one", 15) is not None
    assert store.lead("b" * 64, "other", 15) is not None


def test_a_saved_token_is_there_until_long_after_its_end(store, clock):
    entry = saved(store, b"\x00\xff", 300)
    assert (entry.sealed, entry.lease_left, entry.failure, entry.retry_in) == (b"\x00\xff", 0, "", 0)
    assert entry.expires_in == pytest.approx(300)
    clock.now += 301
    assert store.read(KEY).expires_in == pytest.approx(-1)


def test_saving_ends_the_lease(store):
    saved(store)
    assert store.lead(KEY, "other", 15) is not None


def test_every_change_has_a_version_of_its_own(store):
    versions = [store.lead(KEY, "one", 15)]
    store.save(KEY, versions[-1], b"sealed", 300)
    versions.append(store.read(KEY).version)
    store.forget(KEY, versions[-1])
    versions.append(store.read(KEY).version)
    versions.append(store.lead(KEY, "one", 15))
    store.fail(KEY, versions[-1], "", 0)
    versions.append(store.read(KEY).version)
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    "change",
    [
        lambda store, version: store.save(KEY, version, b"late", 300),
        lambda store, version: store.fail(KEY, version, "late", 30),
        lambda store, version: store.forget(KEY, version),
    ],
)
def test_whoever_is_late_changes_nothing(store, clock, change):
    late = store.lead(KEY, "late", 15)
    clock.now += 15
    entry = saved(store)
    assert not change(store, late)
    assert store.read(KEY) == entry


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.save(KEY, 1, b"sealed", 300),
        lambda store: store.fail(KEY, 1, "why", 30),
        lambda store: store.forget(KEY, 1),
    ],
)
def test_nothing_can_be_changed_where_nobody_leads(store, change):
    assert not change(store)
    assert store.read(KEY) is None


def test_a_failure_is_told_and_holds_everyone_off(store, clock):
    version = store.lead(KEY, "one", 15)
    assert store.fail(KEY, version, "Unavailable: no answer", 30)
    entry = store.read(KEY)
    assert (entry.failure, entry.lease_left) == ("Unavailable: no answer", 0)
    assert entry.retry_in == pytest.approx(30)
    assert store.lead(KEY, "other", 15) is None
    clock.now += 30
    assert store.lead(KEY, "other", 15) is not None


def test_a_failure_without_a_wait_just_gives_the_lease_back(store):
    store.fail(KEY, store.lead(KEY, "one", 15), "", 0)
    assert store.read(KEY).retry_in == 0
    assert store.lead(KEY, "other", 15) is not None


def test_a_failure_leaves_an_older_token(store):
    saved(store)
    store.fail(KEY, store.lead(KEY, "one", 15), "Unavailable: no answer", 30)
    assert store.read(KEY).sealed == b"sealed"


def test_a_new_token_ends_the_failure(store, clock):
    store.fail(KEY, store.lead(KEY, "one", 15), "Unavailable: no answer", 30)
    clock.now += 30
    entry = saved(store)
    assert (entry.failure, entry.retry_in) == ("", 0)


def test_a_token_is_forgotten_by_version(store):
    entry = saved(store)
    assert store.forget(KEY, entry.version)
    assert store.read(KEY).sealed is None
    assert not store.forget(KEY, entry.version)
