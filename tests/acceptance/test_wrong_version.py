"""A worker whose FHIR server turns out to speak another version than its settings say."""

import json

from orders import JOB, running, wait_for
from servers.bulk import bulk_server


def test_a_worker_tells_of_a_server_of_another_version_and_goes_on(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "order.py").write_text(JOB)
    statement = json.dumps({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}).encode()
    with bulk_server() as server:
        server.answers["/metadata"] = 200, {"Content-Type": "application/fhir+json"}, statement
        (tmp_path / "longshore.toml").write_text(
            f'[backends.ehr]\ntype = "fhir"\nurl = "{server.url}"\nversion = "R5"\n'
        )
        log = tmp_path / "run.log"
        with running(tmp_path) as worker:
            wait_for(lambda: "not R5" in log.read_text(), alive=worker)
    assert "worker started" in log.read_text()
