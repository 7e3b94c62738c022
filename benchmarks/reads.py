"""A thousand plain reads of a thousand resources, as rows make them, beside a loop and beside threads.

.venv/bin/python benchmarks/reads.py [--rounds 3] [--latency 0.005]
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests
from backend import backend, requests_since

from worker.backends import open_backend
from worker.backends.fhir import FhirBackend
from worker.config import FhirSettings
from worker.pool import Pool
from worker.records import Meter, RowKey

READS = 1000
THREADS = 64
IDS = [f"practitioner-{number:06}" for number in range(READS)]


def ours(url: str, pool: Pool) -> None:
    """A job's ``ctx.fhir[name].read`` on the worker's threads; a delivery has a session of its own."""
    ehr = open_backend("ehr", FhirSettings(url=f"{url}/fhir"), None, threads=THREADS)
    assert isinstance(ehr, FhirBackend)
    session = ehr.open(Meter(), threading.Event())

    def read(number: int) -> str:
        return session.at(RowKey("d" * 64, number)).read("Practitioner", IDS[number])["id"]

    found = sorted(id_ for some in pool.run(read, [range(READS)]) for id_ in some)
    assert found == IDS
    ehr.close()


def loop(url: str) -> None:
    """One session, one after the other."""
    with requests.Session() as session:
        for id_ in IDS:
            session.get(f"{url}/fhir/Practitioner/{id_}", timeout=10).json()


def threads(url: str) -> None:
    """One session, 16 threads."""
    with requests.Session() as session, ThreadPoolExecutor(16) as pool:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))
        list(pool.map(lambda id_: session.get(f"{url}/fhir/Practitioner/{id_}", timeout=10).json(), IDS))


def timed(side: Callable[[str], None], url: str) -> tuple[float, int]:
    """Seconds and requests."""
    requests_since(url)
    begun = time.perf_counter()
    side(url)
    return time.perf_counter() - begun, requests_since(url)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--latency", type=float, default=0.005)
    options = arguments.parse_args()
    with backend(options.latency) as url, Pool(THREADS) as pool:
        sides: dict[str, Callable[[str], None]] = {
            "a loop": loop,
            "16 threads": threads,
            "longshore": lambda url: ours(url, pool),
        }
        ours(url, pool)  # imports and threads, as in a worker that runs: a new backend has no connections
        rounds = [{name: timed(side, url) for name, side in sides.items()} for _ in range(options.rounds)]
    print(f"{READS:,} reads, {options.latency * 1000:.0f} ms a request\n")
    print(f"{'':>12} {'requests':>9} {'seconds':>9} {'of the loop':>12}")
    for name in sides:
        seconds = statistics.median(each[name][0] for each in rounds)
        share = statistics.median(each[name][0] / each["a loop"][0] for each in rounds)
        print(f"{name:>12} {max(each[name][1] for each in rounds):>9,} {seconds:>9.3f} {share:>12.4f}")


if __name__ == "__main__":
    main()
