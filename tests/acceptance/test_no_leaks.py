"""A canary goes through the whole program, and is found nowhere but where it belongs: in the results."""

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from canary_server import NAME, TOKEN, CanaryServer

from worker.auth.keys import new_key

SECRET = "canary-secret"
SECONDS = 60
JOB = '''
from worker import Context, Reject, Row, job

@job(files="*.csv")
def person(row: Row, ctx: Context) -> dict:
    """Somebody."""
    if row["way"] == "bug":
        raise ValueError(f"no idea who {row['name']} is")
    if row["way"] == "reject":
        raise Reject("not this one")
    if row["way"] == "crash":
        raise SystemExit(row["name"])
    ctx.log.info("asking")
    first = ctx.rest["people"].get(f"/people/{row['way']}/{row['id']}", params={"name": row["name"]})
    second = ctx.rest["records"].get(f"/people/200/{row['id']}")
    return {"name": row["name"], **first["person"], "record": second["person"]["name"]}
'''
TOML = """
[worker]
settle_seconds = 0.1
log_level = "debug"
[auth.by_secret]
token_url = "{url}/token"
client_id = "batch"
client_secret = {{ file = "secret" }}
scopes = ["people"]
[auth.by_key]
token_url = "{url}/token"
client_id = "batch"
client_auth = "private_key_jwt"
key = {{ file = "key.jwk" }}
scopes = ["records"]
[backends.people]
type = "rest"
url = "{url}"
auth = "by_secret"
retries = 1
[backends.records]
type = "rest"
url = "{url}"
auth = "by_key"
"""
FILES = {
    "people.csv": ["200", "404", "422", "401", "bug", "reject", "crash", "200"],
    "forbidden.csv": ["403"],
    "down.csv": ["503"],
}


@pytest.fixture
def server():
    with CanaryServer() as running:
        yield running


@pytest.fixture
def project(tmp_path, server):
    folder = tmp_path / "project"
    for name in ("jobs", "inbox"):
        (folder / name).mkdir(parents=True)
    (folder / "jobs" / "person.py").write_text(JOB)
    (folder / "longshore.toml").write_text(TOML.format(url=server.url))
    (folder / "secret").write_text(SECRET)
    (folder / "key.jwk").write_text(json.dumps(new_key("ES384").as_dict(private=True)))
    for name, ways in FILES.items():
        rows = [f"{number}canary,{NAME},{way}" for number, way in enumerate(ways)]
        (folder / "inbox" / name).write_text("\n".join(["id,name,way", *rows, ""]))
    (folder / "inbox" / "short.csv").write_text(f'id,name,way\n1canary,"{NAME}\n2canary,{NAME}\n')
    (folder / "inbox" / "twice.csv").write_text(f"{NAME},{NAME}\n1canary,200\n")
    (folder / "inbox" / "nobody.txt").write_text(NAME)
    return folder


def canaries(server, project):
    """All that must not be found, as bytes; "canary" stands for most of it."""
    key = json.loads((project / "key.jwk").read_text())
    whole = [*server.proofs, key["d"], TOKEN, SECRET]
    parts = [part for proof in server.proofs for part in proof.split(".") if len(part) > 20]
    return [b"canary", *(text.encode().lower() for text in [*whole, *parts])]


def hits(text, searched):
    return [canary for canary in searched if canary in text.lower()]


def processes(pid):
    """The process and everything that it started."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(each for file in children for child in file.read_text().split() for each in processes(int(child)))]


def wait_for(condition, what):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)
    return found


def test_no_secret_token_assertion_or_name_is_in_anything_but_the_results(project, server, longshore):
    outside = {}
    with (project / "run.log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-m", "worker", "run"], cwd=project, stderr=log, stdout=log)
        try:
            said = project / "run.log"
            wait_for(lambda: said.read_text().count("delivery failed") >= 2, said.read_text)
            wait_for(lambda: "delivery waits" in said.read_text(), said.read_text)
            wait_for(lambda: list((project / "outbox").glob("people-*.manifest.json")), said.read_text)
            for pid in processes(worker.pid):
                outside |= {
                    f"{pid} {name}": Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")
                }
            worker.send_signal(signal.SIGHUP)
            for command in (["status"], ["status", "--json"], ["check"], ["token", "by_secret"], ["token", "by_key"]):
                done = longshore(*command, cwd=project)
                outside[" ".join(command)] = (done.stdout + done.stderr).encode()
            deliveries = json.loads(longshore("status", "--json", cwd=project).stdout)["deliveries"]
            shown = "".join(longshore("show", each["delivery"], cwd=project).stdout for each in deliveries)
        finally:
            worker.terminate()
            assert worker.wait(SECONDS) == 0
    outside["show"] = shown.encode()
    told = [
        *project.rglob("*.manifest.json"),
        *project.rglob("*.error.json"),
        *(project / ".longshore").glob("state.db*"),
    ]
    outside |= {path.name: path.read_bytes() for path in [said, *told]}
    outside["names"] = "\n".join(map(str, project.rglob("*"))).encode()
    searched = canaries(server, project)
    assert len(server.proofs) >= 3, "a secret, and an assertion for each of two attempts"
    assert len(told) >= 4
    assert {name: found for name, text in outside.items() if (found := hits(text, searched))} == {}
    results = "".join(path.read_text() for path in (project / "outbox").glob("*.csv"))
    assert NAME in results


def test_the_ledger_is_for_its_owner_only_and_a_wider_one_is_reported(project, longshore):
    before = longshore("check", cwd=project)
    home, state = project / ".longshore", project / ".longshore" / "state.db"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (home, state)] == [0o700, 0o600]
    assert "others may look" not in before.stdout
    state.chmod(0o644)
    after = longshore("check", cwd=project)
    assert f"others may look into {state}; run chmod go= {state}" in after.stdout
    assert after.returncode == 2
