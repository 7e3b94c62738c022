"""A worker that dies when a FHIR server has created something, and before it hears of that."""

import json
import secrets
import threading
from contextlib import ExitStack

from orders import running, wait_for
from servers.lossy import lossy

JOB = """
from worker import Context, Row, job

@job(files="*.csv")
def make(row: Row, ctx: Context) -> dict:
    identifier = {"system": "urn:made-up", "value": row["number"]}
    practitioner = {"resourceType": "Practitioner", "identifier": [identifier], "name": [{"family": "Made"}]}
    condition = {"identifier": ("urn:made-up", row["number"])}
    made = ctx.fhir["ehr"].create(practitioner, if_none_exist=condition)
    return {"number": row["number"], "id": made["id"]}
"""


def test_a_create_that_was_done_before_the_worker_died_is_found_by_its_condition_and_not_done_again(
    project, sandbox, longshore
):
    created, dead = threading.Event(), threading.Event()
    number = secrets.token_hex(4)

    def until_the_worker_is_dead():
        created.set()
        dead.wait(60)

    with ExitStack() as stack:
        relay = stack.enter_context(lossy(sandbox.fhir_url, until_the_worker_is_dead))
        for job in (project / "jobs").glob("*.py"):
            job.unlink()
        (project / "jobs" / "make.py").write_text(JOB)
        toml = project / "longshore.toml"
        toml.write_text(toml.read_text().replace(sandbox.fhir_url, relay))
        (project / "inbox").mkdir()
        (project / "inbox" / "numbers.csv").write_text(f"number\n{number}\n")
        worker = stack.enter_context(running(project))
        wait_for(created.is_set, alive=worker)
        worker.kill()
        worker.wait()
        dead.set()
        with running(project) as worker:
            wait_for((project / "archive" / "numbers.csv").exists, alive=worker)
        toml.write_text(toml.read_text().replace(relay, sandbox.fhir_url))
    (manifest,) = (project / "outbox").glob("*.manifest.json")
    told = json.loads(manifest.read_text())
    assert (told["results"], told["attempts"]) == (1, 2)
    found = json.loads(longshore("call", "ehr", f"Practitioner?identifier=urn:made-up|{number}", cwd=project).stdout)
    (entry,) = found["entry"]
    results = (project / "outbox" / told["outputs"][0]["name"]).read_text()
    assert results == f"number,id\n{number},{entry['resource']['id']}\n"
