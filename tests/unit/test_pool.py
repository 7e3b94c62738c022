import threading
import time
from contextlib import closing
from itertools import chain, count

import pytest

from worker.cores import Cores
from worker.errors import Stopping
from worker.lane import STUCK_SECONDS, Lane
from worker.pool import CHUNKS_AHEAD, FEWEST, ITEMS_AHEAD, SLICE_ITEMS, TICK_SECONDS, Pool

SECONDS = 10  # after which a test that hangs fails


@pytest.fixture
def opened():
    pools = []

    def open_pool(threads):
        pools.append(Pool(threads))
        return pools[-1]

    yield open_pool
    for pool in pools:
        pool.close()


class AtOnce:
    """Counts how many threads are inside, and lets them go only when ``together`` of them are."""

    def __init__(self, together):
        self.most = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(together)

    def __call__(self, item):
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self._meeting.wait(SECONDS)
        with self._lock:
            self._inside -= 1
        return item


def together(*functions):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_every_item_is_worked_on_once(opened):
    seen = []
    chunks = [range(100), range(100, 101), range(101, 5000)]
    results = chain.from_iterable(opened(4).run(lambda item: seen.append(item) or item * 2, chunks))
    assert sorted(results) == [item * 2 for item in range(5000)]
    assert sorted(seen) == list(range(5000))


def test_no_chunks_make_no_results(opened):
    assert list(opened(2).run(str, [])) == []


def test_chunks_that_were_done_before_are_passed_over(opened):
    pool, results = opened(2), []
    chunks = [*[[]] * 3 * CHUNKS_AHEAD, [1], *[[]] * 3 * CHUNKS_AHEAD]
    together(lambda: results.extend(pool.run(lambda item: item, chunks)))
    assert results == [[1]]


def test_as_many_items_are_worked_on_at_once_as_there_are_threads(opened):
    work = AtOnce(4)
    assert sum(map(len, opened(4).run(work, [range(16)]))) == 16
    assert work.most == 4


def test_a_single_item_does_not_wait_for_the_slow_one_of_another_stream_while_there_are_threads_to_be_had(opened):
    pool, meeting = opened(3), AtOnce(3)
    together(*[lambda: list(pool.run(meeting, [[1]]))] * 3)
    assert meeting.most == 3


def test_single_items_that_take_their_time_get_as_many_threads_in_a_lane(opened):
    meeting, begun = AtOnce(3), threading.Semaphore(0)
    lane = opened(3).lane(lambda item: (begun.release(), meeting(item)))
    for item in range(3):
        lane.put([item])
        deadline = time.monotonic() + SECONDS
        while not begun.acquire(timeout=0.01):
            assert time.monotonic() < deadline
            lane.put([])
    assert meeting.most == 3


def test_a_stream_with_a_limit_calls_for_no_thread_that_it_could_not_use(opened):
    before = threading.active_count()
    list(opened(64).run(lambda _: time.sleep(10 * TICK_SECONDS), [range(3)], limit=1))
    assert threading.active_count() - before <= 10  # of some thirty ticks


def test_a_limit_holds_for_its_stream_alone(opened):
    pool, limited, free = opened(5), AtOnce(2), AtOnce(3)
    together(
        lambda: list(pool.run(limited, [range(8)], limit=2)),
        lambda: list(pool.run(free, [range(9)], limit=3)),
    )
    assert (limited.most, free.most) == (2, 3)


def test_a_slow_item_does_not_hold_up_the_others(opened):
    others_done = threading.Event()

    def work(item):
        if not item:
            assert others_done.wait(SECONDS)
        return item

    results = []
    for some in opened(2).run(work, [range(200)]):
        results += some
        if len(results) == 199:
            assert 0 not in results
            others_done.set()
    assert sorted(results) == list(range(200))


def test_only_some_chunks_are_read_past_a_slow_item(opened):
    others_done, read = threading.Event(), []

    def chunks():
        for chunk in range(3 * CHUNKS_AHEAD):
            read.append(chunk)
            yield range(chunk * 5, chunk * 5 + 5)

    def work(item):
        if not item:
            assert others_done.wait(SECONDS)
        return item

    results = []
    for some in opened(2).run(work, chunks()):
        results += some
        if len(results) == CHUNKS_AHEAD * 5 - 1:
            assert len(read) == CHUNKS_AHEAD
            others_done.set()
    assert len(results) == 3 * CHUNKS_AHEAD * 5


def test_chunks_are_read_no_further_ahead_than_the_threads_need(opened):
    read, items = [], count()
    results = opened(2).run(lambda item: item, (read.append(i) or [next(items)] for i in range(100_000)))
    next(results)
    assert len(read) < 100
    results.close()


def test_so_many_items_are_ready_that_threads_have_work_while_results_are_put_away(opened):
    go_on, read = threading.Event(), []

    def chunks():
        for chunk in range(100):
            read.append(chunk)
            yield range(ITEMS_AHEAD)

    def work(item):
        go_on.wait(SECONDS)
        time.sleep(0.001)
        return item

    with closing(opened(2).run(work, chunks())) as results:
        threading.Timer(10 * TICK_SECONDS, go_on.set).start()
        next(results)
        assert len(read) == 2, "one is under way, and one waits"


def test_the_first_error_ends_it_and_what_was_under_way_is_yielded(opened):
    begun, failed, seen = threading.Event(), threading.Event(), []

    def work(item):
        seen.append(item)
        if item == 0:
            begun.set()
            assert failed.wait(SECONDS)
            return item
        assert begun.wait(SECONDS)
        failed.set()
        raise LookupError(item)

    results = []
    with pytest.raises(LookupError):
        for some in opened(2).run(work, [range(50)]):
            results += some
    assert results == [0]
    assert len(seen) <= 3  # the thread that had item 0 may have taken one more before the error was known


def test_after_an_error_the_rest_of_a_slice_under_way_is_left(opened):
    pool, seen, results = opened(2), [], []
    slow_began, failed, settled = threading.Event(), threading.Event(), threading.Event()

    def chunks():
        yield range(1000)  # so quick that a thread takes many at once from then on
        while len(results) < 1000:
            yield []
        yield ["slow", *["left"] * 5]
        assert slow_began.wait(SECONDS)
        yield ["fails"]

    def work(item):
        seen.append(item)
        if item == "slow":
            slow_began.set()
            assert settled.wait(SECONDS)
        if item == "fails":
            failed.set()
            raise LookupError
        return item

    def run():
        with pytest.raises(LookupError):
            for some in pool.run(work, chunks()):
                results.extend(some)

    def only_after_the_failure():
        assert failed.wait(SECONDS)
        yield ["the thread that failed is free"]

    together(run, lambda: list(pool.run(lambda item: settled.set(), only_after_the_failure())))
    assert seen[1000:] == ["slow", "fails"]
    assert results[1000:] == ["slow"]


def test_an_error_of_the_chunks_ends_it_after_what_was_read(opened):
    def chunks():
        yield range(10)
        raise LookupError

    results = []
    with pytest.raises(LookupError):
        for some in opened(2).run(lambda item: item, chunks()):
            results += some
    assert set(results) <= set(range(10))


class Narrow:
    """Lets so many more pass."""

    def __init__(self, room):
        self.room = room


def test_while_items_are_held_up_those_under_way_end_and_no_further_one_begins(opened):
    pool, held_up, begun, answer = opened(4), [], [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            held_up.append(Narrow(0))
            answer.wait(SECONDS)
            held_up.pop()
        return item

    found = []
    results = threading.Thread(target=lambda: found.extend(chain(*pool.run(work, [range(100)], held_up=held_up))))
    results.start()
    while not held_up:
        time.sleep(0.001)
    time.sleep(20 * TICK_SECONDS)
    assert len(begun) <= 4
    answer.set()
    results.join(SECONDS)
    assert sorted(found) == list(range(100))


@pytest.mark.parametrize("room", [-1, 0, 1, 100])
def test_once_none_is_held_up_any_more_all_threads_are_at_work_again(opened, room):
    pool, held_up, meeting = opened(4), [], threading.Barrier(4)

    def work(item):
        if item == 0:
            held_up.append(Narrow(room))
            time.sleep(5 * TICK_SECONDS)
            held_up.pop()
        if item >= 50:
            meeting.wait(SECONDS)
        return item

    results = pool.run(work, [range(50), range(50, 90)], limit=4, held_up=held_up)  # with a limit, they go one by one
    assert sorted(chain(*results)) == list(range(90))


class OneCore(Cores):
    """Of which it is known whether the threads use it up."""

    def __init__(self, *, is_full):
        super().__init__()
        self.known = is_full

    def look(self):
        self.is_full = self.known


@pytest.mark.parametrize(
    ("is_full", "some_are_quick", "are_few"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_threads_that_only_wait_for_each_other_on_a_full_core_become_few(is_full, some_are_quick, are_few):
    inside, peaks, lock = set(), [0] * 12, threading.Lock()

    def work(item):
        if some_are_quick and item % 50 == 0:
            return
        with lock:
            inside.add(item)
            peaks[item // 1000] = max(peaks[item // 1000], len(inside))
        time.sleep(0.002)
        with lock:
            inside.remove(item)

    with Pool(4 * FEWEST, OneCore(is_full=is_full)) as pool:
        assert sum(map(len, pool.run(work, [range(at, at + 1000) for at in range(0, 12_000, 1000)]))) == 12_000
    assert (max(peaks[-4:]) <= FEWEST) is are_few


def test_all_threads_go_on_where_few_would_leave_the_core_idle():
    cores, inside, peaks, lock = OneCore(is_full=True), set(), [0] * 20, threading.Lock()

    def work(item):
        if item % 50 == 0:
            return
        with lock:
            inside.add(item)
            cores.known = len(inside) > FEWEST
            peaks[item // 1000] = max(peaks[item // 1000], len(inside))
        time.sleep(0.002)
        with lock:
            inside.remove(item)

    with Pool(4 * FEWEST, cores) as pool:
        list(pool.run(work, [range(at, at + 1000) for at in range(0, 20_000, 1000)]))
    assert max(peaks[-4:]) > FEWEST


def test_even_what_is_no_exception_ends_it(opened):
    def work(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(opened(2).run(work, [range(10)]))


def test_an_error_in_one_stream_is_none_in_another(opened):
    pool, results = opened(2), []

    def fail():
        with pytest.raises(ZeroDivisionError):
            list(pool.run(lambda item: item / 0, [range(10)]))

    together(fail, lambda: results.extend(chain.from_iterable(pool.run(lambda item: item, [range(100)]))))
    assert sorted(results) == list(range(100))


def test_streams_take_turns(opened):
    pool, both_there, order = opened(1), threading.Event(), []

    class Small(list):
        def __getitem__(self, at):
            both_there.set()
            return super().__getitem__(at)

    def long_work(item):
        assert both_there.wait(SECONDS)
        order.append("long")

    together(
        lambda: list(pool.run(long_work, [range(40)], limit=1)),
        lambda: list(pool.run(lambda item: order.append("small"), [Small(range(3))], limit=1)),
    )
    assert len(order) == 43
    assert order.index("small") <= 2
    assert "small" not in order[8:]


def test_rows_that_wait_for_a_slow_backend_do_not_take_thread_after_thread_from_the_others(opened):
    pool, full, one, all_ = opened(4), threading.Barrier(5), threading.Semaphore(0), threading.Event()
    waiting = count()

    def wait(item):
        if next(waiting) < 4:
            full.wait(SECONDS)
        return one.acquire(timeout=SECONDS)

    def others():
        full.wait(SECONDS)
        threading.Timer(0.05, one.release).start()  # one of the four comes free, when the others' rows are there
        assert len(list(chain.from_iterable(pool.run(str, [range(3)], limit=4)))) == 3
        all_.set()
        for _ in range(40):
            one.release()

    together(lambda: list(pool.run(wait, [range(40)], limit=40)), others)
    assert all_.is_set()


def test_whoever_stops_listening_waits_for_what_is_under_way_and_begins_nothing_new(opened):
    pool, begun, done = opened(2), [], []

    def work(item):
        begun.append(item)
        done.append(item)
        return item

    results = pool.run(work, ([item] for item in range(100_000)), limit=1)
    next(results)
    results.close()
    assert begun == done
    after = len(begun)
    assert list(pool.run(lambda item: item, [[1]])) == [[1]]
    assert len(begun) == after < 100_000


def test_threads_end_with_the_pool():
    before = threading.active_count()
    with Pool(3) as pool:
        assert sum(map(len, pool.run(AtOnce(3), [range(3)]))) == 3
        assert threading.active_count() == before + 3
    assert threading.active_count() == before


def test_what_does_not_end_is_not_waited_for_once_it_is_given_up():
    begun, release = threading.Event(), threading.Event()
    told = []

    def collect(pool):
        try:
            list(pool.run(lambda item: begun.set() or release.wait(SECONDS), [[1]]))
        except Stopping as stopping:
            told.append(stopping)

    with Pool(2) as pool:
        threading.Thread(target=lambda: begun.wait(SECONDS) and pool.give_up()).start()
        together(lambda: collect(pool))
        together(lambda: collect(pool))  # nor does anything begin
    assert len(told) == 2
    assert not release.is_set()
    release.set()


def test_a_slow_item_among_quick_ones_holds_up_no_more_than_those_of_its_slice(opened):
    others = threading.Event()
    seen = count(1)

    def work(item):
        if item == 5000:
            assert others.wait(SECONDS)
        elif next(seen) == 10_000 - SLICE_ITEMS:
            others.set()
        return item

    chunks = [range(start, start + 1000) for start in range(0, 10_000, 1000)]
    assert sorted(chain.from_iterable(opened(2).run(work, chunks))) == list(range(10_000))


def test_the_first_error_hurries_what_is_under_way_and_stays_the_error(opened):
    hurried = threading.Event()

    def work(item):
        if item == 0:
            raise LookupError("the first")
        assert hurried.wait(SECONDS)
        raise RuntimeError("its wait was cut short")

    with pytest.raises(LookupError):
        list(opened(3).run(work, [range(3)], hurry=hurried.set))


def test_a_caller_that_goes_away_hurries_what_is_under_way(opened):
    hurried = threading.Event()

    def work(item):
        if item:
            assert hurried.wait(SECONDS)
        return item

    results = opened(2).run(work, [range(2)], hurry=hurried.set)
    assert next(results) == [0]
    results.close()
    assert hurried.is_set()


def test_what_comes_by_a_lane_is_worked_on_one_by_one_for_as_long_as_the_pool_is_open(opened):
    done, over = [], threading.Event()

    def work(item):
        done.append(item)
        if len(done) == 20:
            over.set()

    lane = opened(2).lane(work)
    for item in range(20):
        lane.put([item])
    assert over.wait(SECONDS)
    assert sorted(done) == list(range(20))


def test_a_lane_has_a_limit_of_its_own(opened):
    inside, most, done = [], [], threading.Semaphore(0)

    def work(item):
        inside.append(item)
        most.append(len(inside))
        inside.remove(item)
        done.release()

    lane = opened(8).lane(work, limit=1)
    lane.put(range(50))
    assert all(done.acquire(timeout=SECONDS) for _ in range(50))
    assert max(most) == 1


def test_what_waits_in_a_lane_behind_an_item_that_takes_its_time_gets_another_thread(opened):
    pool, blocked, last = opened(4), threading.Event(), threading.Event()

    def work(item):
        if item == "slow":
            blocked.wait(SECONDS)
        if item == "last":
            last.set()

    lane = pool.lane(work)
    for _ in range(200):  # quick ones: the lane takes one thread for enough
        lane.put(["quick"])
    lane.put(["slow", "last"])
    while not last.wait(0.01):
        lane.put([])
    assert not blocked.is_set()
    blocked.set()


def test_a_lane_whose_items_are_over_at_once_lets_no_second_thread_in_unless_one_is_wanted():
    calls = []
    lane = Lane(lambda _, urgent: calls.append(urgent), lambda _: None, lambda: None, None)
    while not lane.prompt:
        lane.put(["quick"])
        lane.work_off()
    lane.put(["quick"])
    assert lane.ready
    lane.active = 1
    assert not lane.ready
    time.sleep(2 * STUCK_SECONDS)  # in which the one that is at it has begun nothing
    lane.put([])
    assert calls[-1]
    lane.wanted = True
    assert lane.ready


def test_a_thread_knows_whether_it_is_one_of_the_pools(opened):
    pool, found, over = opened(1), [], threading.Event()
    pool.lane(lambda _: found.append(pool.is_here), rest=over.set).put([1])
    assert over.wait(SECONDS)
    assert [*found, pool.is_here] == [True, False]


def test_what_comes_now_and_then_is_always_for_the_thread_that_has_rested_the_shortest(opened):
    pool, threads, seen = opened(8), 8, []
    assert list(pool.run(AtOnce(threads), [range(threads)]))  # so that there are so many
    lane = pool.lane(lambda _: seen.append(threading.get_ident()))
    for _ in range(20):
        while len(pool._resting) < threads:
            time.sleep(0.001)
        lane.put(["item"])
        while lane.waiting or lane.active:
            time.sleep(0.001)
    assert len(seen) == 20
    assert len(set(seen)) == 1


def test_a_lane_rests_after_the_last_of_its_quick_items(opened):
    done, rests, rested = [], [], threading.Event()

    def rest():
        rests.append(len(done))
        rested.set()

    opened(1).lane(done.append, rest=rest).put(range(5))
    assert rested.wait(SECONDS)
    assert (done, rests) == (list(range(5)), [5])


def test_a_lane_rests_after_each_item_that_takes_its_time(opened):
    rested, first, second = threading.Semaphore(0), threading.Event(), threading.Event()
    lane = opened(1).lane(lambda item: item.wait(SECONDS), rest=rested.release)
    lane.put([first, second])
    while lane.waiting > 1:
        time.sleep(0.001)
    time.sleep(0.001)
    first.set()
    assert rested.acquire(timeout=SECONDS)
    assert not second.is_set()
    second.set()
    assert rested.acquire(timeout=SECONDS)


def test_a_lane_is_prompt_while_its_items_are_over_at_once(opened):
    rested = threading.Semaphore(0)
    lane = opened(1).lane(lambda seconds: seconds and time.sleep(seconds), rest=rested.release)
    assert not lane.prompt
    for _ in range(100):
        lane.put([0])
        assert rested.acquire(timeout=SECONDS)
    while not lane.prompt:  # the last turn is counted after its rest
        time.sleep(0.001)
    lane.put([0.02])
    while lane.prompt:
        time.sleep(0.001)
