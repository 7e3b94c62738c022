"""What a call costs: a REST get of ours beside requests, with a session tuned for it, and beside libcurl alone.

    .venv/bin/python benchmarks/calls.py [--rounds 5] [--calls 6400]

The sides take turns in one process, the backend has a process of its own. A figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pycurl
import requests
from backend import backend

from worker.auth.credentials import FixedCredential
from worker.backends import open_backend
from worker.config import RestSettings
from worker.records import Meter, RowKey

Get = Callable[[int], object]
HEADERS = {"Accept": "application/json", "Authorization": "Bearer benchmark", "User-Agent": "benchmark"}


@contextmanager
def ours(url: str, threads: int) -> Iterator[Get]:
    """A job's ``ctx.rest[name].get``, with everything around it: limits, token, checks, the meter."""
    credential = FixedCredential("fixed", "bearer token", "Authorization", lambda: "Bearer benchmark")
    billing = open_backend(
        "billing", RestSettings(url=f"{url}/api", max_concurrency=threads), credential, threads=threads
    )
    session = billing.open(Meter(), threading.Event())
    yield lambda number: session.at(RowKey("d" * 64, number)).get("/plans", params={"client_id": f"{number:07}"})
    billing.close()


@contextmanager
def tuned_requests(url: str, threads: int) -> Iterator[Get]:
    """One session for all threads, with a pool that is large enough, that does not read the environment."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=threads))
        session.headers.update(HEADERS)
        yield lambda number: session.get(
            f"{url}/api/plans", params={"client_id": f"{number:07}"}, timeout=10, allow_redirects=False
        ).json()


@contextmanager
def libcurl_alone(url: str, _threads: int) -> Iterator[Get]:
    """The least that a call can cost with it: the body as bytes, the headers not even looked at."""
    idle: list[tuple[pycurl.Curl, list[bytes]]] = []
    fields = [f"{name}: {value}" for name, value in HEADERS.items()]

    def new() -> tuple[pycurl.Curl, list[bytes]]:
        curl, body = pycurl.Curl(), []
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.HTTPHEADER, fields)
        curl.setopt(pycurl.WRITEFUNCTION, body.append)
        return curl, body

    def get(number: int) -> bytes:
        curl, body = idle.pop() if idle else new()
        body.clear()
        curl.setopt(pycurl.URL, f"{url}/api/plans?client_id={number:07}")
        curl.perform()
        idle.append((curl, body))
        return b"".join(body)

    yield get


SIDES = {"longshore": ours, "requests": tuned_requests, "libcurl": libcurl_alone}


def measured(pool: ThreadPoolExecutor, get: Get, threads: int, calls: int) -> tuple[float, float]:
    """Microseconds of processor time a call, and calls a second."""
    share = max(1, calls // threads)

    def some(first: int) -> None:
        for number in range(first, first + share):
            get(number)

    wall, used = time.perf_counter(), time.process_time()
    list(pool.map(some, range(0, threads * share, share)))
    wall, used = time.perf_counter() - wall, time.process_time() - used
    return used / (threads * share) * 1e6, threads * share / wall


def compare(latency: float, threads: int, rounds: int, calls: int) -> None:
    """One table: the sides in turn, at one latency and with so many threads."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    with backend(latency) as url, ThreadPoolExecutor(threads) as pool:
        for turn in range(rounds + 1):
            for name, side in SIDES.items():
                with side(url, threads) as get:
                    measured(pool, get, threads, threads)  # connects
                    figures = measured(pool, get, threads, calls)
                if turn:  # the first warms up
                    found[name].append(figures)
    show(
        latency, threads, {name: tuple(map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}
    )


def show(latency: float, threads: int, medians: dict[str, tuple[float, ...]]) -> None:
    """The table, with ratios to ours."""
    print(f"\n{latency * 1000:.0f} ms a call, {threads} in flight\n")
    print(f"{'':>12} {'us of CPU a call':>18} {'to ours':>8} {'calls/s':>10} {'to ours':>8}")
    cost, speed = medians["longshore"]
    for name, (its_cost, its_speed) in medians.items():
        print(f"{name:>12} {its_cost:>18.0f} {its_cost / cost:>8.2f} {its_speed:>10,.0f} {its_speed / speed:>8.2f}")


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--calls", type=int, default=6400)
    options = arguments.parse_args()
    for latency, threads in ((0.020, 64), (0.020, 128), (0.0, 1), (0.0, 64)):
        compare(latency, threads, options.rounds, options.calls)


if __name__ == "__main__":
    main()
