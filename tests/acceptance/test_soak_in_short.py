import os
import random

from soak.soak import soak


def test_a_fleet_of_three_keeps_its_promises_through_kills_and_pauses(tmp_path):
    seed = int(os.environ.get("SOAK_SEED", random.randrange(10**6)))
    print(f"SOAK_SEED={seed}")
    figures = soak(tmp_path, workers=3, kills=30, seed=seed)
    print(figures)
    assert figures.kills == 30
