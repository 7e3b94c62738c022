import threading
import time

import pytest
from token_server import ORIGIN, SECRET, Fleet, answer, on_threads, token_of, wait_for_refreshes

from worker.errors import Paused, Unauthorized, Unavailable
from worker.records import Meter

OVERLOADED = {"status": 503, "headers": {"Retry-After": "120"}}


@pytest.fixture
def fleet():
    return Fleet()


def test_fifty_threads_that_start_without_a_token_send_one_request(fleet):
    worker = fleet.worker()
    assert len(set(on_threads(50, lambda: token_of(worker)))) == 1
    assert len(fleet.server.requests) == 1


def test_fifty_threads_at_expiry_send_one_request_and_none_gets_the_expired_token(fleet):
    worker = fleet.worker()
    expired = token_of(worker)
    fleet.clock.now += 300
    tokens = on_threads(50, lambda: token_of(worker))
    assert len(set(tokens)) == 1
    assert expired not in tokens
    assert len(fleet.server.requests) == 2


def test_every_process_of_a_fleet_gets_the_one_token(fleet):
    workers = [fleet.worker() for _ in range(4)]
    assert len({token_of(worker) for worker in workers}) == 1
    assert len(fleet.server.requests) == 1


def test_processes_that_start_together_send_one_request(fleet):
    workers = iter([fleet.worker(sleep=lambda _: time.sleep(0)) for _ in range(8)])  # others run, no time passes
    assert len(set(on_threads(8, lambda: token_of(next(workers))))) == 1
    assert len(fleet.server.requests) == 1


def test_only_the_call_that_sends_the_request_counts_it(fleet):
    first, second, other = Meter(), Meter(), Meter()
    worker = fleet.worker()
    worker.token(first)
    worker.token(second)
    fleet.worker().token(other)
    assert [meter.read()[1] for meter in (first, second, other)] == [1, 0, 0]


@pytest.mark.parametrize(("lifetime", "margin"), [(3600, 60), (300, 45), (30, 4.5)])
def test_a_token_is_not_used_in_the_last_part_of_its_lifetime(fleet, lifetime, margin):
    fleet.server.expires_in = lifetime
    fleet.server.script = [fleet.server.grant, answer(500), answer(500)]
    worker = fleet.worker()
    old = token_of(worker)
    fleet.clock.now += lifetime - margin - 0.01
    assert token_of(worker) == old
    wait_for_refreshes()
    fleet.clock.now += 0.02
    with pytest.raises(Unavailable):
        token_of(worker)


def test_the_lifetime_counts_from_before_the_request_was_sent(fleet):
    def slow(request):
        fleet.clock.now += 9
        return fleet.server.grant(request)

    fleet.server.script = [slow]
    assert fleet.worker().token(Meter()).left(fleet.clock()) == 291
    other = fleet.worker().token(Meter())
    assert other.left(fleet.clock()) == pytest.approx(291)
    assert other.age(fleet.clock()) == pytest.approx(9)


def test_an_old_token_serves_while_one_new_one_is_fetched_behind(fleet):
    may_answer = threading.Event()

    def when_allowed(request):
        assert may_answer.wait(10)
        return fleet.server.grant(request)

    fleet.server.script = [fleet.server.grant, when_allowed]
    worker = fleet.worker()
    old = token_of(worker)
    fleet.clock.now += 241
    assert set(on_threads(50, lambda: token_of(worker))) == {old}
    may_answer.set()
    wait_for_refreshes()
    assert token_of(worker) != old
    assert len(fleet.server.requests) == 2


def test_one_process_refreshes_for_the_fleet(fleet):
    workers = [fleet.worker() for _ in range(4)]
    old = {token_of(worker) for worker in workers}
    fleet.clock.now += 241
    for worker in workers:
        token_of(worker)
        wait_for_refreshes()
    new = {token_of(worker) for worker in workers}
    assert (len(old), len(new), len(old | new)) == (1, 1, 2)
    assert len(fleet.server.requests) == 2


def test_processes_refresh_a_little_apart(fleet):
    early, late = fleet.worker(random=lambda: 1.0), fleet.worker(random=lambda: 0.0)
    token_of(early), token_of(late)
    fleet.clock.now += 230
    token_of(late)
    wait_for_refreshes()
    assert len(fleet.server.requests) == 1
    token_of(early)
    wait_for_refreshes()
    assert len(fleet.server.requests) == 2


def test_a_failed_refresh_leaves_the_old_token_in_use_and_is_tried_again_later(fleet, capture_log):
    worker = fleet.worker()
    old = token_of(worker)
    fleet.server.script = [answer(500)]
    fleet.clock.now += 241
    for _ in range(20):
        assert token_of(worker) == old
        wait_for_refreshes()
    assert len(fleet.server.requests) == 2
    assert [entry["log_level"] for entry in capture_log] == ["warning"]
    fleet.clock.now += 1.1
    token_of(worker)
    wait_for_refreshes()
    assert token_of(worker) != old


def test_a_call_that_finds_the_token_expired_joins_the_refresh_under_way(fleet):
    asked, may_answer = threading.Event(), threading.Event()

    def when_allowed(request):
        asked.set()
        assert may_answer.wait(10)
        return fleet.server.grant(request)

    worker = fleet.worker()
    old = token_of(worker)
    fleet.server.script = [when_allowed]
    fleet.clock.now += 241
    token_of(worker)
    assert asked.wait(10)
    fleet.clock.now += 60
    threading.Timer(0.01, may_answer.set).start()
    assert token_of(worker) != old
    assert len(fleet.server.requests) == 2


def test_those_who_wait_share_the_leaders_failure_each_as_an_exception_of_its_own(fleet):
    fleet.server.script = [answer(503)]
    worker = fleet.worker()
    errors = on_threads(20, lambda: token_of(worker))
    assert {type(error) for error in errors} == {Unavailable}
    assert len({id(error) for error in errors}) == 20
    assert len(fleet.server.requests) == 1


def test_after_failures_nobody_asks_before_a_backoff_that_doubles_up_to_thirty_seconds(fleet):
    fleet.server.script = [answer(503)] * 20
    worker = fleet.worker()
    waits = []
    for _ in range(7):
        with pytest.raises(Unavailable) as raised:
            token_of(worker)
        with pytest.raises(Unavailable):
            token_of(fleet.worker())
        waits.append(raised.value.retry_after)
        fleet.clock.now += raised.value.retry_after
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert len(fleet.server.requests) == 7


def test_the_whole_fleet_waits_as_long_as_the_server_says(fleet):
    fleet.server.script = [answer(**OVERLOADED)]
    with pytest.raises(Unavailable):
        token_of(fleet.worker())
    fleet.clock.now += 100
    with pytest.raises(Unavailable, match="hospital: the token endpoint answered 503") as raised:
        token_of(fleet.worker())
    assert raised.value.retry_after == pytest.approx(20)
    fleet.clock.now += 20.1
    token_of(fleet.worker())
    assert len(fleet.server.requests) == 2


def test_a_waiting_process_takes_the_token_that_the_leader_saves(fleet):
    waiting, leader = fleet.worker(), fleet.worker()
    version = fleet.store.lead(fleet.key(), "elsewhere", 30)

    def leader_comes_back():
        fleet.clock.on_sleep = lambda: None
        fleet.store.fail(fleet.key(), version, "", 0)
        token_of(leader)

    fleet.clock.on_sleep = leader_comes_back
    assert token_of(waiting) == token_of(leader)
    assert len(fleet.server.requests) == 1


def test_a_token_saved_just_before_the_lease_was_taken_is_used(fleet):
    class Overtaken:
        read, fail = fleet.store.read, fleet.store.fail

        def lead(self, *lease):
            token_of(quicker)
            return fleet.store.lead(*lease)

    quicker, overtaken = fleet.worker(), fleet.worker(store=Overtaken())
    assert token_of(overtaken) == token_of(quicker)
    assert fleet.store.read(fleet.key()).lease_left == 0
    assert len(fleet.server.requests) == 1


def test_a_waiting_process_shares_the_failure_of_the_leader(fleet):
    worker = fleet.worker()
    version = fleet.store.lead(fleet.key(), "elsewhere", 30)
    fleet.clock.on_sleep = lambda: fleet.store.fail(
        fleet.key(), version, "Unauthorized since 1970-01-01T00:00:00Z: the token endpoint said no", 8
    )
    with pytest.raises(Unauthorized, match=r"^hospital: the token endpoint said no$"):
        token_of(worker)
    assert not fleet.server.requests


def test_a_leader_that_died_is_replaced_when_its_lease_ends(fleet):
    worker = fleet.worker()
    fleet.store.lead(fleet.key(), "dead", 15)
    began = fleet.clock()
    token_of(worker)
    assert fleet.clock() - began == pytest.approx(15, abs=0.1)
    assert len(fleet.server.requests) == 1


def test_a_late_leader_does_not_overwrite_a_newer_token(fleet):
    late, next_one = fleet.worker(), fleet.worker()
    newer = []

    def too_slow(request):
        old = fleet.server.grant(request)
        fleet.clock.now += 60
        newer.append(token_of(next_one))
        return old

    fleet.server.script = [too_slow]
    assert token_of(late) != newer[0]
    assert token_of(fleet.worker()) == newer[0]


def test_a_leader_that_is_interrupted_leaves_the_lease_to_others(fleet):
    def interrupted(request):
        raise KeyboardInterrupt

    fleet.server.script = [interrupted]
    worker = fleet.worker()
    with pytest.raises(KeyboardInterrupt):
        token_of(worker)
    began = fleet.clock()
    token_of(worker)
    assert fleet.clock() == began


def test_a_refused_token_is_replaced_once_for_all_who_hold_it(fleet):
    workers = [fleet.worker() for _ in range(3)]
    tickets = [worker.ticket(Meter(), ORIGIN) for worker in workers]
    fleet.clock.now += 60
    for worker, ticket in zip(workers, tickets, strict=True):
        assert worker.refused(ticket)
        assert worker.ticket(Meter(), ORIGIN).token.access_token != ticket.token.access_token
    assert len({token_of(worker) for worker in workers}) == 1
    assert len(fleet.server.requests) == 2


def test_fifty_threads_with_a_refused_token_send_one_request(fleet):
    worker = fleet.worker()
    ticket = worker.ticket(Meter(), ORIGIN)
    fleet.clock.now += 60
    assert len(set(on_threads(50, lambda: worker.refused(ticket) and token_of(worker)))) == 1
    assert len(fleet.server.requests) == 2


def test_a_refused_ticket_does_not_cost_a_newer_token(fleet):
    worker = fleet.worker()
    old = worker.ticket(Meter(), ORIGIN)
    fleet.clock.now += 300
    newer = token_of(worker)
    assert worker.refused(old)
    assert token_of(worker) == newer
    assert token_of(fleet.worker()) == newer


def test_a_token_revoked_in_its_first_seconds_is_replaced(fleet):
    worker = fleet.worker()
    ticket = worker.ticket(Meter(), ORIGIN)
    assert worker.refused(ticket)
    assert token_of(worker) != ticket.token.access_token


def test_a_refused_token_is_not_taken_back_from_the_store(fleet):
    worker = fleet.worker()
    ticket = worker.ticket(Meter(), ORIGIN)
    version = fleet.store.lead(fleet.key(), "elsewhere", 15)
    assert worker.refused(ticket)
    fleet.store.fail(fleet.key(), version, "", 0)
    assert token_of(worker) != ticket.token.access_token


def test_a_backend_that_always_says_401_makes_no_storm_of_token_requests(fleet):
    workers = [fleet.worker() for _ in range(4)]
    for _ in range(600):
        for worker in workers:
            worker.refused(worker.ticket(Meter(), ORIGIN))
        fleet.clock.now += 0.1
    assert len(fleet.server.requests) <= len(workers) + 60 / 5


def test_a_secret_that_was_rotated_is_read_again_and_tried_at_once(fleet, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    worker = fleet.worker(client_secret={"file": str(tmp_path / "secret")})
    token_of(worker)
    fleet.clock.now += 300
    fleet.server.secret = "canary-secret-rotated"
    (tmp_path / "secret").write_text(fleet.server.secret)
    token_of(worker)
    assert len(fleet.server.requests) == 3
    fleet.clock.now += 300
    token_of(worker)
    assert len(fleet.server.requests) == 4


def test_a_wrong_secret_is_refused_and_not_tried_again_at_once(fleet):
    worker = fleet.worker(client_secret="wrong")
    for _ in range(10):
        with pytest.raises(Unauthorized, match="invalid_client; check client_id, client_auth and the secret"):
            token_of(worker)
    assert len(fleet.server.requests) == 1


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_what_was_mended_at_the_server_is_tried_at_once_by_whoever_is_told_to_reload(fleet, whose):
    worker, other = fleet.worker(client_secret="mended"), fleet.worker(client_secret="mended")
    with pytest.raises(Unauthorized):
        token_of(worker)
    with pytest.raises(Unauthorized):
        token_of(other)
    fleet.server.secret = "mended"
    (worker if whose == "its own" else other).reload()
    fleet.clock.now += 0.5
    (token,) = {token_of(worker if whose == "its own" else other)}
    fleet.clock.now += 0.5  # of the second's backoff, nothing is left; who was refused looks once a second
    assert {token_of(worker), token_of(other)} == {token}
    assert len(fleet.server.requests) == 2


def test_who_was_refused_looks_once_a_second_whether_another_got_a_token(fleet):
    worker, other = fleet.worker(client_secret="mended"), fleet.worker(client_secret="mended")
    for seconds in (1, 2, 4):
        with pytest.raises(Unauthorized):
            token_of(worker)
        fleet.clock.now += seconds
    with pytest.raises(Unauthorized):
        token_of(worker)
    asked = len(fleet.server.requests)
    fleet.server.secret = "mended"
    fleet.clock.now += 1
    with pytest.raises(Unauthorized):
        token_of(worker)
    assert len(fleet.server.requests) == asked == 4, "nobody asks before the backoff is over"
    other.reload()
    token = token_of(other)
    with pytest.raises(Unauthorized):
        token_of(worker)
    fleet.clock.now += 1
    assert token_of(worker) == token
    assert len(fleet.server.requests) == 5


def test_a_reload_does_not_end_the_pause_that_an_overloaded_server_asked_for(fleet):
    fleet.server.script = [answer(**OVERLOADED)]
    worker = fleet.worker()
    for _ in range(2):
        with pytest.raises(Unavailable):
            token_of(worker)
        worker.reload()
    assert len(fleet.server.requests) == 1


def test_while_the_store_is_down_a_refusal_holds_off_as_before(fleet):
    worker = fleet.worker(store=DeadStore(), client_secret="wrong")
    for seconds in (0.5, 0.6, 0.5, 1.5):  # two requests: the backoffs take 1 and 2 seconds
        with pytest.raises(Unauthorized):
            token_of(worker)
        fleet.clock.now += seconds
    assert len(fleet.server.requests) == 2


def test_a_refused_secret_that_cannot_be_read_again_is_waited_for(fleet, tmp_path, capture_log):
    (tmp_path / "secret").write_text("wrong")
    worker = fleet.worker(client_secret={"file": str(tmp_path / "secret")})
    (tmp_path / "secret").unlink()
    with pytest.raises(Unavailable, match=r"invalid_client.*; client_secret: .*/secret cannot be read") as raised:
        token_of(worker)
    (tmp_path / "secret").write_text(SECRET)
    fleet.clock.now += raised.value.retry_after
    token_of(worker)
    assert [entry["event"] for entry in capture_log] == [
        "the client's secrets cannot be read again",
        "trying the client's secrets as they read now",
    ]


def test_clients_that_ask_for_something_else_do_not_wait_for_each_other(fleet):
    one, other = fleet.worker(scopes=["a"]), fleet.worker(scopes=["b"])
    tokens = []

    def meanwhile(request):
        tokens.append(token_of(other))
        return fleet.server.grant(request)

    fleet.server.script = [meanwhile]
    assert token_of(one) not in tokens
    assert len(fleet.server.requests) == 2


@pytest.mark.parametrize(
    "difference",
    [
        {"token_url": "https://idp.example/other"},
        {"client_id": "other"},
        {"client_secret": "other"},
        {"client_auth": "post"},
        {"raw_basic": True},
        {"assertion_audience": "https://idp.example"},
        {"scopes": ["a"]},
        {"audience": "a"},
        {"resource": "a"},
        {"extra": {"a": "b"}},
    ],
)
def test_all_that_shapes_the_request_is_in_the_key(fleet, difference):
    assert fleet.key() != fleet.key(**difference)


def test_the_order_of_scopes_is_not_in_the_key(fleet):
    assert fleet.key(scopes=["a", "b"]) == fleet.key(scopes=["b", "a"])


class DeadStore:
    def __getattr__(self, name):
        def down(*_):
            raise Paused("the ledger cannot be used")

        return down


def test_while_the_store_is_down_each_process_still_sends_one_request(fleet, capture_log):
    worker = fleet.worker(store=DeadStore())
    assert len(set(on_threads(50, lambda: token_of(worker)))) == 1
    assert len(fleet.server.requests) == 1
    assert [entry["event"] for entry in capture_log] == ["tokens are not shared while the ledger is down"]


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"short", lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1])]
)
def test_a_damaged_entry_is_as_good_as_none(fleet, damage):
    worker = fleet.worker()
    token_of(worker)
    key = fleet.key()
    damaged = damage(fleet.store.read(key).sealed)
    fleet.store.save(key, fleet.store.lead(key, "vandal", 1), damaged, 300)
    token_of(fleet.worker())
    assert len(fleet.server.requests) == 2


def test_an_entry_does_not_open_under_another_key(fleet):
    token_of(fleet.worker(scopes=["a"]))
    sealed = fleet.store.read(fleet.key(scopes=["a"])).sealed
    key = fleet.key(scopes=["b"])
    fleet.store.save(key, fleet.store.lead(key, "vandal", 1), sealed, 300)
    token_of(fleet.worker(scopes=["b"]))
    assert len(fleet.server.requests) == 2


def test_nothing_secret_is_in_what_the_store_keeps(fleet):
    worker = fleet.worker()
    token_of(worker)
    assert b"canary" not in fleet.store.read(fleet.key()).sealed


def test_nothing_secret_is_shown_by_any_repr_log_or_error(fleet, capture_log):
    shown = []
    worker = fleet.worker(scopes=["a"])
    ticket = worker.ticket(Meter(), ORIGIN)
    shown += [
        worker,
        ticket,
        ticket.token,
        ticket.token.masked()[8:],
        worker.check(Meter())[12:],
        *fleet.server.requests,
    ]
    fleet.server.script = [
        answer(200, access_token="canary token", token_type="Bearer"),
        answer(400, error=f"{SECRET} is wrong", error_description=SECRET),
        answer(200, access_token="canary", token_type="mac"),
    ]
    for _ in range(3):
        fleet.clock.now += 400
        with pytest.raises(Unauthorized) as raised:
            token_of(worker)
        shown += [raised.value, str(raised.value), raised.value.__dict__]
    shown += [capture_log, fleet.store.read(fleet.key(scopes=["a"]))]
    assert "canary" not in repr(shown)
