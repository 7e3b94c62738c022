"""The peer: what an integration engineer writes in an afternoon, with pandas, requests and 16 threads.

No retries, no journal, no manifest, nothing shared between rows; a crash loses everything.
It prints its wall and CPU seconds, without its start.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import requests


def main(source: str, target: str, url: str) -> None:
    """Look every row up and write what comes of it."""
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))
    session.headers["Authorization"] = "Bearer benchmark"

    def look_up(row: dict[str, str]) -> dict[str, str]:
        plan = session.get(f"{url}/api/plans", params={"client_id": row["client_id"]}, timeout=10)
        plan.raise_for_status()
        found = session.get(f"{url}/fhir/Practitioner/{row['practitioner_id']}", timeout=10)
        found.raise_for_status()
        name = found.json()["name"][0]["text"]
        return {"client_id": row["client_id"], "plan": plan.json()["name"], "practitioner": name}

    rows = pd.read_csv(source, dtype=str).to_dict("records")
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(look_up, rows))
    pd.DataFrame(results).to_csv(target, index=False)


if __name__ == "__main__":
    wall, used = time.perf_counter(), time.process_time()
    main(*sys.argv[1:])
    print(time.perf_counter() - wall, time.process_time() - used)
