"""The queue trigger and its replies, over a broker in memory and a real ledger."""

import json
import threading
import time
from collections import deque

import pytest
from broker_twin import Twin

from worker.amqp import Sent
from worker.declare import job
from worker.errors import DeliveryError, LeftAlone, Paused, Reject, ServerFault, Stopping, Unavailable
from worker.jobs import Jobs
from worker.ledger import PRUNED, Ledger, Messages
from worker.outputs.reply import Replies
from worker.pool import Pool
from worker.runner import Runner
from worker.stopping import Stop
from worker.triggers import desk, letters
from worker.triggers.queue import Queue
from worker.triggers.requests import Consumed, Request

NOW = 1_795_399_200.0
SECONDS = 10  # after which a test that hangs fails


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Watcher:
    def began(self, delivery):
        pass

    def progressed(self, delivery, outcomes):
        pass

    def ended(self, delivery, error):
        pass


class Hands:
    """Runs openings when told, or at once."""

    def __init__(self, runner):
        self._runner = runner
        self.held = None
        self.are_prompt = False

    def prompt(self, queue):
        return self.are_prompt

    def hold(self):
        self.held = []

    def small(self, queue, openings):
        for opening in openings:
            self.large(opening)

    def large(self, opening):
        if self.held is not None:
            self.held.append(opening)
        elif delivery := opening():
            self._runner.run(delivery)

    def go_on(self):
        held, self.held = self.held, None
        for opening in held:
            self.large(opening)


class Worker:
    """One worker; ``act`` is what its job does, ``gone`` the owners that it takes for dead."""

    def __init__(self, folder, twin, *, owner="one", act=dict, gone=(), cores=None, **settings):
        @job(queue="orders", **settings)
        def order(row, ctx):
            self.ran.append(dict(row))
            self.keys.append(ctx._shared.delivery.key)
            self.meter = ctx._shared.delivery.meter
            return act(row)

        self.twin, self.ran, self.keys = twin, [], []
        self.stop = Stop()
        self.now = NOW
        self.ticks = 0.0
        self.ledger = Ledger(f"sqlite:///{folder / 'state.db'}", owner=owner, clock=lambda: self.now)
        self.pool = Pool(1)
        replies = Replies(max_bytes=1000, chunk_rows=10)
        runner = Runner(
            Jobs([order]),
            {},
            {"queue": replies},
            self.pool,
            self.ledger.state,
            chunk_rows=10,
            stop=self.stop,
            watcher=Watcher(),
        )
        self.hands = Hands(runner)
        self.consumed = Consumed.of(order, threads=8, max_body=1000, clock=lambda: self.now)
        self.queue = Queue(
            twin,
            self.ledger.messages,
            [self.consumed],
            self.hands,
            cores or self.pool.cores,
            lambda name: name in gone,
            work=folder / "work",
            lease=30,
            stop=self.stop,
            clock=lambda: self.ticks,
        )
        self.take_over()

    def take_over(self):
        """Be the one who consumes the queue."""
        consumption = self.twin.consume(self.consumed.topology, prefetch=8, receive=self.queue._receive)
        self.queue._consumptions["orders"] = consumption

    def turn(self, times=2):
        """Hand out what lies in the queue, and let the desk work."""
        self.twin.deliver("orders")
        for _ in range(times):
            self.queue._desk.turn()

    def later(self, seconds=1.0):
        self.ticks += seconds
        self.now += seconds
        self.turn()

    def ask(self, value, message_id="one", **changes):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.twin.put("orders", {"body": body, "message_id": message_id, "reply_to": "replies", **changes})

    @property
    def replies(self):
        return [(each.type, json.loads(each.body)) for each in self.twin.published["replies"]]

    @property
    def dead(self):
        return [each.headers["x-longshore-error"] for each in self.twin.published["orders.dead"]]

    def close(self):
        self.pool.close()
        self.ledger.close()


@pytest.fixture
def twin():
    return Twin("replies")


@pytest.fixture
def hire(tmp_path, twin):
    workers = []

    def hire(**settings):
        workers.append(Worker(tmp_path, twin, **settings))
        return workers[-1]

    yield hire
    for worker in workers:
        worker.close()


def raising(error):
    def act(row):
        raise error

    return act


def test_a_message_is_run_answered_and_then_acked(hire, twin):
    worker = hire()
    worker.ask({"n": 1}, correlation_id="c-1")
    worker.turn()
    (reply,) = twin.published["replies"]
    assert (reply.type, reply.body, reply.correlation_id) == ("result", b'{"n":1}', "c-1")
    assert twin.unsettled("orders") == 0


def test_a_message_without_a_correlation_id_is_named_by_its_message_id(hire, twin):
    worker = hire()
    worker.ask({"n": 1})
    worker.turn()
    assert twin.published["replies"][0].correlation_id == "one"


class Company:
    def __init__(self):
        self.joined, self.looked = set(), set()

    def join(self):
        self.joined.add(threading.current_thread().name)

    def look(self):
        self.looked.add(threading.current_thread().name)


def test_the_thread_that_decides_is_placed_with_those_that_run_the_messages(hire, twin):
    company = Company()
    worker = hire(cores=company)
    worker.hands.hold()
    worker.queue.start()
    worker.take_over()
    wait_for(lambda: company.joined == {"messages"})
    worker.ask({"n": 1})
    twin.deliver("orders")
    wait_for(lambda: company.looked == {"messages"})
    worker.hands.go_on()
    worker.queue.stop()


def test_several_results_of_an_object_are_an_array(hire):
    worker = hire(act=lambda row: [dict(row), dict(row)])
    worker.ask({"n": 1})
    worker.turn()
    assert worker.replies == [("result", [{"n": 1}, {"n": 1}])]


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (raising(Reject("no")), ("rejected", {"error": "Reject", "detail": "no"})),
        (lambda row: None, ("skipped", {})),
    ],
)
def test_a_rejected_and_a_skipped_row_are_told_apart(hire, act, told):
    worker = hire(act=act)
    worker.ask({"n": 1})
    worker.turn()
    assert worker.replies == [told]


def test_what_there_is_no_room_for_is_claimed_when_a_run_has_ended(hire):
    worker = hire(concurrency=2)
    worker.hands.hold()
    for name in "ab":
        worker.ask({"n": name}, name)
    worker.turn()
    worker.ask({"n": "c"}, "c")
    worker.turn()
    assert worker.ledger.messages.counts() == {"running": 2}
    worker.hands.go_on()
    worker.turn(4)
    assert worker.ledger.messages.counts() == {"done": 3}
    assert [row["n"] for row in worker.ran] == ["a", "b", "c"]


def test_a_redelivery_joins_the_run_and_only_the_living_one_is_answered(hire, twin):
    worker = hire()
    worker.hands.hold()
    worker.ask({"n": 1})
    worker.turn()
    for _ in range(3):
        twin.cut("orders")
        worker.turn()
    worker.hands.go_on()
    worker.turn()
    assert len(worker.ran) == len(worker.replies) == 1
    assert twin.unsettled("orders") == 0


@pytest.mark.parametrize("finished", [False, True])
def test_messages_without_an_id_are_known_again_by_the_worker_that_is_at_them(hire, twin, finished):
    worker = hire()
    twin.refusing = {"replies": Sent.UNKNOWN} if finished else {}
    if not finished:
        worker.hands.hold()
    for n in (1, 1, 2):
        worker.ask({"n": n}, "")
    worker.turn()
    twin.cut("orders")
    twin.refusing = {}
    worker.turn()
    if not finished:
        worker.hands.go_on()
    worker.turn()
    assert sorted(row["n"] for row in worker.ran) == [1, 1, 2]
    replies = {reply.message_id: reply.body for reply in twin.published["replies"]}
    assert sorted(replies.values()) == [b'{"n":1}', b'{"n":1}', b'{"n":2}']
    assert twin.unsettled("orders") == 0


def test_equal_messages_without_an_id_are_all_run(hire, twin):
    worker = hire()
    for _ in range(2):
        worker.ask({"n": 1}, "")
        worker.turn()
    worker.ask({"n": 1}, "")
    twin.queues["orders"][0] = (twin.queues["orders"][0][0], True)  # another worker had it, and died
    twin.cut("orders")
    worker.turn()
    assert len(worker.ran) == len({reply.message_id for reply in twin.published["replies"]}) == 3


def test_a_double_that_comes_meanwhile_gets_a_reply_of_its_own_with_the_same_id(hire, twin):
    worker = hire()
    worker.hands.hold()
    worker.ask({"n": 1}, correlation_id="first")
    worker.ask({"n": 1}, correlation_id="second")
    worker.turn()
    worker.hands.go_on()
    worker.turn()
    first, second = twin.published["replies"]
    assert len(worker.ran) == 1
    assert (first.correlation_id, second.correlation_id) == ("first", "second")
    assert first.message_id == second.message_id


def test_a_conflict_meanwhile_is_a_dead_letter_at_once(hire):
    worker = hire()
    worker.hands.hold()
    worker.ask({"n": 1})
    worker.ask({"n": 2})
    worker.turn()
    assert worker.dead == ["Conflict"]
    worker.hands.go_on()
    worker.turn()
    assert worker.replies == [("result", {"n": 1})]


def test_calls_are_named_alike_for_a_redelivery_and_otherwise_for_a_new_message_with_the_same_body(hire):
    worker = hire(act=raising(Paused("not now")))
    worker.ask({"n": 1})
    worker.turn()
    worker.ask({"n": 1})
    worker.ask({"n": 1}, "two")
    worker.turn()
    first, again, other = worker.keys
    assert first == again != other


@pytest.mark.parametrize(
    ("error", "attempts", "queue", "headers"),
    [
        (Unavailable("billing", "down"), 0, "orders.retry.1", {"x-longshore-attempts": 1}),
        (Unavailable("billing", "down"), 2, "orders.retry.16", {"x-longshore-attempts": 3}),
        (Unavailable("billing", "down"), 99, "orders.retry.30", {"x-longshore-attempts": 100}),
        (Unavailable("billing", "busy", retry_after=10), 0, "orders.retry.16", {"x-longshore-attempts": 1}),
        (LeftAlone("billing", "down", retry_after=3), 5, "orders.retry.4", {"x-longshore-attempts": 5}),
        (ServerFault("billing", "broken", 500), 0, "orders.retry.1", {"x-longshore-faults": 1}),
    ],
)
def test_what_waits_goes_through_a_retry_queue_after_waits_that_grow(hire, twin, error, attempts, queue, headers):
    worker = hire(act=raising(error))
    worker.ask({"n": 1}, headers={letters.ATTEMPTS: attempts, "x-death": [{"count": 1}], "theirs": "kept"})
    worker.turn()
    (copy,) = twin.published[queue]
    assert copy.headers.items() >= headers.items()
    assert (copy.body, copy.message_id, copy.reply_to) == (b'{"n": 1}', "one", "replies")
    assert copy.headers["theirs"] == "kept"
    assert "x-death" not in copy.headers
    assert twin.unsettled("orders") == 0
    assert worker.dead == []


def test_a_backend_that_asks_for_a_long_pause_gets_it_in_several_turns(hire, twin):
    worker = hire(act=raising(Unavailable("billing", "busy", retry_after=100)))
    worker.ask({"n": 1})
    worker.turn()
    (copy,) = twin.published["orders.retry.30"]
    worker.now += 30
    worker.ask({"n": 1}, headers=copy.headers)
    worker.turn()
    assert len(worker.ran) == 1
    assert len(twin.published["orders.retry.30"]) == 2
    worker.now += 80
    worker.ask({"n": 1}, headers=copy.headers)
    worker.turn()
    assert len(worker.ran) == 2


def test_after_max_attempts_an_outage_makes_a_dead_letter_only_where_the_job_says_so(hire, twin):
    worker = hire(act=raising(Unavailable("billing", "down")), max_attempts=3)
    worker.ask({"n": 1}, headers={letters.ATTEMPTS: 1})
    worker.ask({"n": 1}, "two", headers={letters.ATTEMPTS: 2})
    worker.turn()
    assert worker.dead == ["Unavailable"]
    assert twin.published["orders.dead"][0].message_id == "two"


@pytest.mark.parametrize(("most", "event"), [(None, "message waits"), (1, "message failed")])
def test_of_what_nobody_expected_the_log_says_where_it_was(hire, capture_log, monkeypatch, most, event):
    def breaks(*_):
        raise OverflowError("canary")

    worker = hire(max_attempts=most)
    monkeypatch.setattr(Request, "open", breaks)
    worker.ask({"n": 1})
    worker.turn()
    (told,) = (each for each in capture_log if each["event"] == event)
    assert told["reason"] == "an unexpected OverflowError; the log says where"
    assert "in test_of_what_nobody_expected_the_log_says_where_it_was.<locals>.breaks" in told["where"]


def test_a_worker_that_is_told_to_stop_claims_nothing_while_it_waits_for_what_is_under_way(hire, twin):
    """It would only be given back and come again, round and round, until the broker has it for a dead letter."""
    worker = hire()
    worker.stop.set()
    worker.ask({"n": 1})
    worker.turn(5)
    assert worker.ledger.entries() == []
    assert (twin.unsettled("orders"), len(twin.queues["orders"])) == (1, 0)


def test_what_is_left_by_a_stopping_worker_goes_back_into_the_queue(hire, twin):
    worker = hire(act=raising(Stopping("the worker is stopping")))
    worker.ask({"n": 1})
    worker.turn()
    assert len(twin.queues["orders"]) == 1
    assert worker.ledger.counts()["waiting"] == 1


def test_a_reply_that_is_too_large_makes_a_dead_letter(hire):
    worker = hire(act=lambda row: {"much": "x" * 2000})
    worker.ask({"n": 1})
    worker.ask([{"n": 1}], "two")
    worker.turn()
    assert worker.dead == ["DeliveryError"] * 2


@pytest.mark.parametrize("times", [0, 1])
def test_a_reply_that_nobody_takes_is_tried_again_through_a_retry_queue(hire, twin, times):
    worker = hire()
    worker.ask({"n": 1}, reply_to="nowhere", headers={letters.UNROUTABLE: times} if times else {})
    worker.turn()
    copies = twin.published["orders.retry.1"] + twin.published["orders.retry.4"]
    assert [copy.headers[letters.UNROUTABLE] for copy in copies] == [times + 1]
    assert twin.unsettled("orders") == 0


def test_a_reply_that_nobody_takes_for_the_third_time_makes_a_dead_letter(hire):
    worker = hire()
    worker.ask({"n": 1}, reply_to="nowhere", headers={letters.UNROUTABLE: 2})
    worker.turn()
    assert worker.dead == ["Unroutable"]


def test_a_full_queue_of_replies_is_an_outage_and_makes_no_dead_letter(hire, twin):
    twin.refusing["replies"] = Sent.REFUSED
    worker = hire()
    worker.ask({"n": 1}, headers={letters.UNROUTABLE: 2})
    worker.turn()
    assert worker.dead == []
    assert twin.published["orders.retry.4"]


def test_a_reply_that_is_too_large_for_the_broker_makes_a_dead_letter(hire, twin):
    twin.refusing["replies"] = Sent.TOO_LARGE
    worker = hire()
    worker.ask({"n": 1})
    worker.turn()
    (letter,) = twin.published["orders.dead"]
    assert "raise the broker's max_message_size" in letter.headers["x-longshore-detail"]
    assert twin.unsettled("orders") == 0


@pytest.mark.parametrize("how", [Sent.RETURNED, Sent.REFUSED, Sent.TOO_LARGE])
def test_a_dead_letter_that_nobody_takes_leaves_the_message_where_it_is(hire, twin, how):
    worker = hire(act=raising(DeliveryError("useless")))
    twin.refusing["orders.dead"] = how
    worker.ask({"n": 1})
    worker.turn()
    assert twin.unsettled("orders") == 1
    worker.later(10)
    assert len(twin.queues["orders"]) == 1
    del twin.refusing["orders.dead"]
    worker.later(10)
    assert twin.unsettled("orders") == 0
    assert len(worker.ran) == 1


@pytest.mark.parametrize(
    ("gone", "error"), [("orders.dead", DeliveryError("useless")), ("orders.retry.1", Unavailable("billing", "down"))]
)
def test_a_queue_of_its_own_that_has_gone_is_declared_again_and_gets_the_message(hire, twin, gone, error):
    worker = hire(act=raising(error))
    for number in range(3):
        worker.ask({"n": 1}, message_id=str(number))
    twin.delete(gone)
    worker.turn()
    assert len(twin.queues[gone]) == 3
    assert twin.unsettled("orders") == 0


def test_a_reply_queue_of_its_own_that_has_gone_is_declared_again_and_gets_the_reply(hire, twin):
    worker = hire(reply_queue="answers")
    worker.ask({"n": 1}, reply_to="")
    twin.delete("answers")
    worker.turn()
    assert len(twin.queues["answers"]) == 1
    assert twin.unsettled("orders") == 0


def test_a_queue_that_operations_declares_and_that_has_gone_is_asked_for(hire, twin, capture_log):
    for name in ("orders", "orders.dead", "orders.retry.1", "orders.retry.4", "orders.retry.16", "orders.retry.30"):
        twin.queues[name] = deque()
    worker = hire(act=raising(DeliveryError("useless")), declare="passive")
    worker.ask({"n": 1})
    twin.delete("orders.dead")
    worker.turn()
    reason = "there is no queue orders.dead, which its message has to go to; declare it"
    assert reason in [event.get("reason") for event in capture_log]
    assert (worker.queue.trouble, worker.queue.quiet) == (f"orders: {reason}", False)
    twin.queues["orders.dead"] = deque()
    worker.later(6)
    worker.turn()
    assert (len(twin.queues["orders.dead"]), twin.unsettled("orders")) == (1, 0)
    worker.later(2)
    assert (worker.queue.trouble, worker.queue.quiet) == ("", True)


@pytest.mark.parametrize(("value", "kept"), [("text", True), (0.5, False)])
def test_a_dead_letter_keeps_the_senders_headers_unless_they_cannot_be_sent(hire, twin, value, kept):
    worker = hire(act=raising(DeliveryError("useless")))
    worker.ask({"n": 1}, headers={"theirs": value})
    worker.turn()
    (letter,) = twin.published["orders.dead"]
    assert ("theirs" in letter.headers, letter.headers["x-longshore-error"]) == (kept, "DeliveryError")
    assert twin.unsettled("orders") == 0


def test_a_message_whose_properties_cannot_be_read_is_a_dead_letter(hire):
    worker = hire()
    worker.ask({"n": 1}, unreadable="its headers cannot be read")
    worker.turn()
    assert (worker.dead, worker.ran) == (["DeliveryError"], [])


def test_a_failed_message_is_dead_again_when_it_is_redelivered_and_run_when_it_is_replayed(hire, twin):
    worker = hire(act=raising(DeliveryError("useless")))
    worker.ask({"n": 1})
    worker.turn()
    twin.queues["orders"].append(({"body": b'{"n": 1}', "message_id": "one"}, True))
    worker.turn()
    assert (worker.dead, len(worker.ran)) == (["DeliveryError"] * 2, 1)
    worker.ask({"n": 1})
    worker.turn()
    assert len(worker.ran) == 2


def test_a_dead_letter_that_is_moved_back_has_all_its_tries_again(hire, twin):
    worker = hire(act=raising(Unavailable("billing", "down")), max_attempts=3)
    worker.ask({"n": 1}, headers={letters.ATTEMPTS: 2})
    worker.turn()
    (letter,) = twin.published["orders.dead"]
    for attempts in (1, 2):
        worker.ask({"n": 1}, headers=letter.headers)
        worker.turn()
        letter = twin.published["orders.retry.1" if attempts == 1 else "orders.retry.4"][0]
        assert letter.headers[letters.ATTEMPTS] == attempts
    worker.ask({"n": 1}, headers=letter.headers)
    worker.turn()
    assert worker.dead == ["Unavailable"] * 2


def test_what_a_dead_worker_was_at_is_run_alone(hire, twin, tmp_path):
    first = hire(owner="first")
    first.hands.hold()
    for name in ("a", "b"):
        first.ask({"n": name}, name)
    first.turn()
    twin.cut("orders")
    heir = hire(owner="heir", gone=["first"])
    heir.hands.hold()
    heir.ask({"n": "new"}, "new")
    heir.turn(5)
    for name in ("new", "a", "b"):
        assert len(heir.hands.held) == 1
        heir.hands.go_on()
        assert heir.ran[-1] == {"n": name}
        heir.hands.hold()
        heir.turn(5)
    assert heir.ledger.counts()["running"] == 0


def test_what_another_worker_is_at_is_waited_for(hire, twin):
    first, second = hire(owner="first"), hire(owner="second")
    first.take_over()
    first.hands.hold()
    first.ask({"n": 1}, correlation_id="first")
    first.turn()
    second.take_over()
    second.ask({"n": 1}, correlation_id="second")
    second.turn()
    first.hands.go_on()
    first.queue._desk.turn()
    second.later(2)
    assert [reply.correlation_id for reply in twin.published["replies"]] == ["first", "second"]
    assert (len(first.ran), len(second.ran)) == (1, 0)


def test_while_the_ledger_is_away_nothing_is_begun_and_nothing_is_lost(hire, twin, monkeypatch, capture_log):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    worker = hire()
    record = worker.ledger.messages.record

    def away(*_):
        raise Paused("the ledger cannot be used: it is locked")

    monkeypatch.setattr(worker.ledger.messages, "record", away)
    worker.ask({"n": 1})
    worker.turn(3)
    assert worker.ran == []
    monkeypatch.setattr(worker.ledger.messages, "record", record)
    worker.hands.hold()
    worker.turn()
    monkeypatch.setattr(worker.ledger.messages, "record", away)
    worker.hands.go_on()
    worker.turn(3)
    assert worker.replies == []
    monkeypatch.setattr(worker.ledger.messages, "record", record)
    worker.turn()
    assert (len(worker.ran), len(worker.replies)) == (1, 1)
    assert [event["event"] for event in capture_log].count("messages wait for the ledger") == 2


def test_no_more_messages_are_taken_ahead_than_memory_holds():
    @job(queue="orders", concurrency=100)
    def order(row, ctx):
        """Never called here."""

    def prefetch(max_body, **changes):
        return Consumed.of(order, max_body=max_body, clock=time.time, **{"threads": 256, **changes}).prefetch

    assert prefetch(2**20) == 200
    assert prefetch(2**20, threads=8) == 64
    assert prefetch(2**24) == 64
    assert prefetch(2**30) == 1


def test_no_more_is_begun_than_a_crash_may_take_back(hire):
    worker = hire(concurrency=2)
    worker.hands.hold()
    for number in range(5):
        worker.ask({"n": number}, str(number))
    worker.turn(3)
    begun = []
    while worker.hands.held:
        begun.append(len(worker.hands.held))
        worker.hands.go_on()
        worker.hands.hold()
        worker.turn()
    assert begun == [2, 2, 1]
    assert len(worker.replies) == 5


def test_of_what_is_over_at_once_all_that_came_is_handed_out(hire):
    worker = hire(concurrency=2)
    worker.hands.are_prompt = True
    worker.hands.hold()
    for number in range(5):
        worker.ask({"n": number}, str(number))
    worker.turn()
    assert len(worker.hands.held) == 5
    worker.hands.go_on()
    assert [row["n"] for row in worker.ran] == list(range(5))
    worker.turn()
    assert len(worker.replies) == 5


@pytest.mark.parametrize(("are_prompt", "handed_out"), [(True, 3), (False, 2)])
def test_what_comes_while_others_are_out_waits_for_them_only_if_they_may_take_their_time(hire, are_prompt, handed_out):
    worker = hire(concurrency=2)
    worker.hands.are_prompt = are_prompt
    worker.hands.hold()
    for number in range(2):
        worker.ask({"n": number}, str(number))
    worker.turn()
    worker.ask({"n": 2}, "2")
    worker.turn()
    assert len(worker.hands.held) == handed_out
    worker.hands.go_on()
    worker.turn()
    assert [row["n"] for row in worker.ran] == list(range(3))


def test_no_more_calls_are_made_than_a_crash_may_take_back_however_much_was_handed_out(hire):
    def call(row):
        worker.meter.call("billing")
        return dict(row)

    worker = hire(concurrency=2, act=call)
    worker.hands.are_prompt = True
    worker.hands.hold()
    for number in range(5):
        worker.ask({"n": number}, str(number))
    worker.turn()
    worker.hands.go_on()
    assert [row["n"] for row in worker.ran] == [0, 1]
    worker.turn(1)
    assert [row["n"] for row in worker.ran] == [0, 1, 2, 3]
    worker.turn(2)
    assert sorted(row["n"] for row in worker.ran) == list(range(5))
    assert len(worker.replies) == 5


def test_what_was_handed_out_and_has_not_begun_goes_back_when_the_worker_stops(hire, twin):
    worker = hire()
    worker.hands.are_prompt = True
    worker.hands.hold()
    for number in range(5):
        worker.ask({"n": number}, str(number))
    worker.turn()
    worker.stop.set()
    worker.hands.go_on()
    worker.queue._desk.start()
    worker.queue.stop()
    assert (worker.ran, len(twin.queues["orders"])) == ([], 5)


def test_what_ends_while_the_ledger_is_away_is_written_down_once_it_is_back(hire, twin, monkeypatch):
    worker, record, away = hire(), Messages.record, [Paused("it is locked")] * 2

    def record_again(messages, claims, *said):
        if not claims and away:
            raise away.pop()
        return record(messages, claims, *said)

    monkeypatch.setattr(Messages, "record", record_again)
    monkeypatch.setattr(desk, "LOOK_SECONDS", 0.01)
    worker.queue._desk.start()
    for n in range(5):
        worker.ask({"n": n}, str(n))
    twin.deliver("orders")
    wait_for(lambda: len(worker.replies) == 5)
    worker.queue.stop()
    assert sorted(row["n"] for row in worker.ran) == list(range(5))
    assert (away, twin.unsettled("orders")) == ([], 0)


@pytest.fixture
def disk(monkeypatch):
    """Syncs of the ledger; each of ``failing`` is raised once, the next one first."""

    class Disk:
        syncs, failing = 0, []

        def sync(self, number):
            if disk.failing:
                raise disk.failing.pop()
            disk.syncs += 1

    disk = Disk()
    monkeypatch.setattr(Messages, "sync", disk.sync)
    return disk


def test_what_is_over_at_once_does_not_wait_for_the_disk_and_its_reply_does(hire, disk):
    worker = hire()
    worker.hands.are_prompt = True
    worker.ask({"n": 1})
    worker.turn(1)
    assert (worker.ran, disk.syncs, worker.replies) == ([{"n": 1}], 0, [])
    worker.turn(1)
    assert (disk.syncs, worker.replies) == (1, [("result", {"n": 1})])


def test_what_takes_its_time_begins_once_the_disk_has_its_claim(hire, disk):
    worker = hire()
    disk.failing = [Paused("the ledger cannot be used: Input/output error")]
    worker.ask({"n": 1})
    worker.turn(1)
    assert (worker.ran, disk.failing) == ([], [])
    worker.ask({"n": 2}, "two")
    worker.turn()
    assert worker.ran == [{"n": 1}, {"n": 2}]
    assert disk.syncs == 2


def test_what_the_disk_does_not_take_is_answered_and_acked_once_it_does_and_is_not_run_again(hire, twin, disk):
    worker = hire()
    worker.ask({"n": 1})
    worker.turn(1)
    disk.failing = [Paused("the ledger cannot be used: Input/output error")] * 2
    for _ in range(2):
        worker.turn(1)
        assert (worker.replies, twin.unsettled("orders")) == ([], 1)
    worker.turn(1)
    assert (worker.ran, worker.replies, twin.unsettled("orders")) == ([{"n": 1}], [("result", {"n": 1})], 0)


def test_a_reply_that_is_known_is_sent_again_once_the_disk_has_it(hire, twin, disk):
    worker = hire()
    worker.ask({"n": 1})
    worker.turn()
    disk.failing = [Paused("the ledger cannot be used: Input/output error")]
    worker.ask({"n": 1})
    worker.turn(1)
    assert (len(worker.replies), twin.unsettled("orders")) == (1, 1)
    worker.turn(1)
    assert (len(worker.replies), twin.unsettled("orders"), len(worker.ran)) == (2, 0, 1)


@pytest.mark.parametrize("name", ["message_id", "correlation_id", "reply_to", "content_type", "type"])
def test_a_property_that_cannot_be_sent_on_makes_a_dead_letter_that_keeps_it(hire, twin, name):
    worker = hire()
    worker.ask({"n": 1}, "before")
    worker.ask({"n": 2}, **{name: "zero\0character"})
    worker.ask({"n": 3}, "behind")
    worker.turn()
    assert [reply for _, reply in worker.replies] == [{"n": 1}, {"n": 3}]
    (letter,) = twin.published["orders.dead"]
    assert getattr(letter, name) == "zero?character"
    assert letter.headers[f"x-longshore-{name.replace('_', '-')}"] == b"zero\0character"
    assert f"its {name} holds a zero character" in letter.headers["x-longshore-detail"]
    assert twin.unsettled("orders") == 0


def test_a_reason_that_is_no_unicode_text_costs_no_other_message_its_reply(hire, twin):
    def act(row):
        if row["n"] == 2:
            raise DeliveryError("half a pair: \ud800")
        return dict(row)

    worker = hire(act=act)
    for n in (1, 2, 3):
        worker.ask({"n": n}, str(n))
    worker.turn()
    assert [reply for _, reply in worker.replies] == [{"n": 1}, {"n": 3}]
    assert twin.published["orders.dead"][0].headers["x-longshore-detail"] == "half a pair: ?"
    assert twin.unsettled("orders") == 0


def test_what_waits_loses_headers_that_cannot_be_sent_whatever_their_names(hire, twin):
    worker = hire(act=raising(Unavailable("billing", "down")))
    worker.ask({"n": 1}, headers={"x-longshore-theirs": 0.5, "theirs": 0.5, letters.FAULTS: 0.5})
    worker.turn()
    (copy,) = twin.published["orders.retry.1"]
    assert copy.headers == {"x-longshore-attempts": 1, "x-longshore-faults": 0}
    assert twin.unsettled("orders") == 0


@pytest.mark.parametrize("verdict", ["run", "done"])
def test_a_bug_over_one_message_costs_no_other_its_reply(hire, twin, monkeypatch, capture_log, verdict):
    """It happens as the end is followed up, and again as what is done is told once more."""
    worker = hire()
    reply = letters.reply

    def broken(message, *given):
        if message.message_id == "2":
            raise RuntimeError("a bug")
        return reply(message, *given)

    def ask():
        for n in (1, 2, 3):
            worker.ask({"n": n}, str(n))
        worker.turn()

    if verdict == "done":
        ask()
        twin.published.clear()
    monkeypatch.setattr(letters, "reply", broken)
    ask()
    assert [reply for _, reply in worker.replies] == [{"n": 1}, {"n": 3}]
    assert [event["event"] for event in capture_log].count("the worker has a bug") == 1
    assert worker.queue._desk.settled
    monkeypatch.setattr(letters, "reply", reply)
    worker.later(10)
    worker.turn()
    assert worker.replies[-1] == ("result", {"n": 2})
    assert (len(worker.ran), twin.unsettled("orders")) == (3, 0)


def test_a_bug_of_the_ledger_loses_no_end(hire, twin, monkeypatch):
    worker = hire()
    record = worker.ledger.messages.record

    def broken(*_):
        raise RuntimeError("a bug")

    worker.hands.hold()
    worker.ask({"n": 1})
    worker.turn()
    worker.hands.go_on()
    worker.ask({"n": 2}, "two")
    monkeypatch.setattr(worker.ledger.messages, "record", broken)
    with pytest.raises(RuntimeError):
        worker.turn()
    monkeypatch.setattr(worker.ledger.messages, "record", record)
    worker.turn()
    assert [reply for _, reply in worker.replies] == [{"n": 1}, {"n": 2}]
    assert twin.unsettled("orders") == 0


def test_a_message_without_an_id_that_kills_its_workers_is_known_by_its_body_and_given_up(hire, twin):
    """Another one with that body, which nobody died of, is run all the same."""
    dead = []
    for number in range(5):
        worker = hire(owner=str(number), gone=list(dead))
        if not dead:
            worker.ask({"n": 1}, "")
        worker.hands.hold()
        worker.turn(5)
        assert len(worker.hands.held) == 1
        dead.append(str(number))
        twin.cut("orders")
    heir = hire(owner="heir", gone=dead)
    heir.ask({"n": 1}, "")
    heir.turn(5)
    assert heir.dead == ["DeliveryError"]
    assert "died 5 times" in twin.published["orders.dead"][0].headers["x-longshore-detail"]
    assert heir.ran == [{"n": 1}]
    assert (heir.ledger.counts()["running"], twin.unsettled("orders")) == (0, 0)


def test_a_message_without_an_id_waits_for_the_ledger_that_tells_who_died_of_it(hire, twin, monkeypatch):
    worker = hire()
    ask = worker.ledger.messages.left_behind

    def away(*_):
        raise Paused("the ledger cannot be used: it is locked")

    monkeypatch.setattr(worker.ledger.messages, "left_behind", away)
    twin.queues["orders"].append(({"body": b'{"n": 1}', "reply_to": "replies"}, True))
    worker.turn()
    assert (worker.ran, twin.unsettled("orders")) == ([], 1)
    monkeypatch.setattr(worker.ledger.messages, "left_behind", ask)
    worker.later(10)
    worker.turn()
    assert (worker.ran, twin.unsettled("orders")) == ([{"n": 1}], 0)


@pytest.mark.parametrize("most", [1, 2])
def test_what_a_single_crash_met_is_run_alone_however_few_tries_the_job_gives(hire, twin, most):
    first = hire(owner="first", max_attempts=most)
    first.hands.hold()
    for n in range(3):
        first.ask({"n": n}, str(n))
    first.turn()
    twin.cut("orders")
    heir = hire(owner="heir", gone=["first"], max_attempts=most)
    heir.turn(8)
    assert (heir.dead, len(heir.replies)) == ([], 3)


@pytest.mark.parametrize("most", [1, 2])
def test_a_backend_that_was_left_alone_is_no_try(hire, twin, most):
    worker = hire(act=raising(LeftAlone("billing", "down", retry_after=3)), max_attempts=most)
    worker.ask({"n": 1}, headers={letters.ATTEMPTS: most - 1})
    worker.turn()
    assert worker.dead == []
    assert [copy.headers[letters.ATTEMPTS] for copy in twin.published["orders.retry.4"]] == [most - 1]


def test_the_ledger_forgets_as_fast_as_messages_come(hire, monkeypatch):
    """Each turn forgets some, until there is nothing left that is old enough."""
    pruned = [PRUNED, PRUNED, 1, 0]
    worker = hire()
    left = list(pruned)
    monkeypatch.setattr(worker.ledger.messages, "prune", lambda: left.pop(0))
    worker.ticks += 61
    worker.turn(10)
    assert left == [0]
