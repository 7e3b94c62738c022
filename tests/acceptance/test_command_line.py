"""What every command says and how it exits, as its users see it."""

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from worker.ledger import Claim, Ledger, Note
from worker.sandbox import DEFAULT_PORTS, Addresses


@contextlib.contextmanager
def started(*arguments: str, cwd: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "worker", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=cwd, **pipes) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def manifests(project: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((project / "outbox").glob("*.manifest.json"))]


def slow_project(folder: Path, seconds: float) -> Path:
    """One job that needs no backend, leaves the file ``begun``, and takes its time for a row."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "wait.py").write_text(f"""
import pathlib, time
from worker import job

@job(files="*.csv", concurrency=1)
def wait(row, ctx):
    pathlib.Path("begun").touch()
    time.sleep({seconds})
    return dict(row)
""")
    (folder / "longshore.toml").write_text("[worker]\nsettle_seconds = 0\n")
    (folder / "inbox").mkdir()
    return folder


# The way in


def test_the_version_is_said_in_one_line(longshore):
    done = longshore("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "longshore")


def test_help_lists_the_commands_and_does_not_wait_for_the_libraries_behind_them(longshore):
    done = longshore("--help")
    assert all(name in done.stdout for name in ("demo", "init", "check", "run", "process", "status", "retry", "token"))
    heavy = "import sys, worker.cli; print({'pandas', 'requests', 'pydantic', 'sqlalchemy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "set()"


def test_an_unknown_command_is_misuse(longshore):
    assert longshore("rum").returncode == 2


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_options_for_all_commands_stand_before_or_after_the_command(longshore, project, order):
    options = ("--config", project / "longshore.toml", "--json")
    done = longshore(*options, "jobs") if order == "before" else longshore("jobs", *options)
    assert {each["job"] for each in json.loads(done.stdout)} == {
        "changed_practitioners",
        "client_summary",
        "practitioner_roster",
    }


def test_the_configuration_may_be_named_by_the_environment_and_the_argument_goes_before(
    longshore, project, monkeypatch
):
    monkeypatch.setenv("LONGSHORE_CONFIG", str(project / "longshore.toml"))
    assert longshore("jobs").returncode == 0
    assert "other.toml" in longshore("--config", "other.toml", "jobs").stderr


@pytest.mark.parametrize("command", ["run", "check", "status", "jobs"])
def test_without_a_configuration_every_command_says_how_to_get_one(longshore, command):
    done = longshore(command)
    assert done.returncode == 2
    assert "longshore init" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_every_mistake_in_the_configuration_has_its_own_line(longshore, project):
    (project / "longshore.toml").write_text('[worker]\nthreds = 3\nlog_level = "loud"\n')
    done = longshore("run", cwd=project)
    assert done.returncode == 2
    complaints = done.stderr.splitlines()
    assert len(complaints) == 2
    assert all(line.startswith("error: ") for line in complaints)
    assert "did you mean 'threads'?" in done.stderr


def test_mistakes_of_the_jobs_stand_beside_those_of_the_settings_and_none_is_made_up(longshore, project):
    (project / "longshore.toml").write_text(
        '[worker]\nthreds = 3\n[jobs.nightly]\nschedule = "0 2 * * *"\ntimezone = "Mars/Base"\n'
        '[jobs.nightli]\nenabled = false\n[jobs.client_summary]\nmisfire = "never"\n'
    )
    (project / "jobs" / "nightly.py").write_text(
        "from worker import job\n@job(source=lambda ctx: [])\ndef nightly(row, ctx): return dict(row)\n"
    )
    done = longshore("check", "--json", cwd=project)
    assert done.returncode == 2
    found = [each["detail"] for each in json.loads(done.stdout)["checks"]]
    assert [detail.partition("; ")[0] for detail in found] == [
        "longshore.toml: worker.threds: unknown key",
        "longshore.toml: jobs.client_summary.misfire: must be 'once', 'skip' or 'all'",
        "[jobs.nightli]: there is no such job",
        "[jobs.nightly]: timezone: 'Mars/Base' is unknown",
    ]


# process


def test_process_leaves_the_files_where_they_are_and_tells_what_became_of_each(longshore, project, samples):
    file = shutil.copy(samples / "clients-with-mistakes.csv", project)
    done = longshore("process", file, cwd=project)
    assert done.returncode == 0
    assert Path(file).exists()
    (manifest,) = manifests(project)
    assert (manifest["rows_in"], manifest["results"], manifest["rejected"]) == (40, 30, 10)
    assert all(f"outbox/{output['name']}" in done.stdout for output in manifest["outputs"])


def test_process_gives_the_manifests_and_the_failures_as_json(longshore, project, samples):
    done = longshore("process", samples / "roster-brno.csv", samples / "shipping-list.csv", "--json", cwd=project)
    assert done.returncode == 1
    roster, shipping = json.loads(done.stdout)
    assert [roster] == manifests(project)
    assert (shipping["source"], shipping["state"]) == ("shipping-list.csv", "failed")
    assert "no job takes a file of this name" in shipping["error"]


def test_what_jobs_print_does_not_get_between_the_results_of_a_command(longshore, project):
    (project / "jobs" / "chatty.py").write_text(
        "from worker import job\nprint('LOADED')\n\n"
        "@job(files='chatty*')\ndef chatty(row, ctx):\n    print('RUN', flush=True)\n    return dict(row)\n"
    )
    (project / "chatty.csv").write_text("n\n1\n")
    done = longshore("process", "chatty.csv", "--json", cwd=project)
    assert [manifest["rows_in"] for manifest in json.loads(done.stdout)] == [1]
    assert "LOADED" in done.stderr
    assert "RUN" in done.stderr
    assert json.loads(longshore("check", "--json", cwd=project).stdout)["ok"]


def test_what_a_thread_of_a_job_ends_with_is_a_line_of_the_log_that_quotes_nothing(longshore, project):
    (project / "jobs" / "threads.py").write_text(
        "import threading, warnings\nfrom worker import job\n\n\n"
        "class Odd:\n    def __del__(self):\n        int('SECRET')\n\n\n"
        "@job(files='threads*')\ndef threads(row, ctx):\n    Odd()\n"
        "    beside = threading.Thread(target=int, args=[row['n']])\n    beside.start()\n    beside.join()\n"
        "    async def never(): ...\n    never()\n    warnings.warn(f\"odd: {row['n']}\")\n"
    )
    (project / "inbox").mkdir()
    (project / "inbox" / "threads.csv").write_text("n\nSECRET\n")
    done = longshore("run", "--once", "--json", cwd=project)
    told = [line for line in map(json.loads, done.stderr.splitlines()) if line["level"] in ("warning", "error")]
    assert [line.get("error") for line in told] == ["ValueError", "ValueError", None, None]
    assert ["threads.py:7" in line["where"] for line in told[:2]] == [True, False]
    assert "never awaited" in told[2]["text"]
    assert (told[3]["warning"], told[3]["where"].rpartition("/")[2]) == ("UserWarning", "threads.py:18")
    assert "SECRET" not in done.stderr


def test_a_worker_without_standard_streams_does_its_work(project, samples):
    shell = 'exec "$@" <&- >&- 2>&-'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "worker", "process", samples / "clients.csv"]
    assert subprocess.run(command, cwd=project, timeout=60).returncode == 0
    assert manifests(project)[0]["results"] == 300


def test_process_runs_the_job_that_is_asked_for_whatever_the_file_is_called(longshore, project, samples):
    file = shutil.copy(samples / "clients.csv", project / "other.csv")
    assert longshore("process", "--job", "client_summary", file, cwd=project).returncode == 0
    assert manifests(project)[0]["job"] == "client_summary"


def test_process_of_a_missing_file_runs_nothing(longshore, project, samples):
    done = longshore("process", samples / "clients.csv", "nowhere.csv", cwd=project)
    assert (done.returncode, done.stderr) == (2, "error: nowhere.csv: there is no such file\n")
    assert manifests(project) == []


def test_process_begins_nothing_where_one_of_the_names_is_too_long(longshore, project, samples):
    (project / f"clients{'x' * 214}.csv").touch()
    done = longshore("process", samples / "clients.csv", f"clients{'x' * 214}.csv", cwd=project)
    assert (done.returncode, "its name is longer than 220 bytes; rename it" in done.stderr) == (2, True)
    assert json.loads(longshore("status", "--json", cwd=project).stdout)["deliveries"] == []


def test_process_with_an_unknown_job_names_the_nearest(longshore, project, samples):
    done = longshore("process", "--job", "client_sumary", samples / "clients.csv", cwd=project)
    assert done.returncode == 2
    assert "did you mean 'client_summary'?" in done.stderr


def test_a_delivery_that_has_to_wait_for_its_backend_is_told_as_waiting(longshore, project, samples):
    settings = project / "longshore.toml"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    lines = settings.read_text().splitlines()
    lines = [f'url = "http://127.0.0.1:{port}/api"\nretries = 0' if "/api" in line else line for line in lines]
    settings.write_text("\n".join(lines))
    done = longshore("process", samples / "clients.csv", cwd=project)
    assert done.returncode == 1
    assert "1 delivery is waiting" in done.stderr
    status = json.loads(longshore("status", "--json", cwd=project).stdout)
    assert status["counts"] == {"waiting": 1, "running": 0, "done": 0, "failed": 0}
    (delivery,), (wait,) = status["deliveries"], status["waits"]
    assert "could not be asked" in delivery["error"]
    assert wait["delivery"] == delivery["delivery"]
    assert datetime.fromisoformat(wait["not_before"]).timestamp() == pytest.approx(time.time(), abs=100)
    assert f"is not tried again before {wait['not_before']}" in longshore("status", cwd=project).stdout
    assert not list((project / "failed").iterdir())


def test_what_a_locale_of_old_cannot_show_is_escaped(longshore, project, samples, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    file = shutil.copy(samples / "clients-archive.csv.gz", project / "clientsé.csv.gz")
    done = longshore("process", file, cwd=project)
    assert (done.returncode, "clients\\xe9.csv.gz" in done.stdout) == (0, True), done.stderr
    status = json.loads(longshore("status", "--json", cwd=project).stdout)
    assert [line["source"] for line in status["deliveries"]] == ["clientsé.csv.gz"]


def test_a_file_name_with_brackets_and_escapes_is_shown_as_it_is(longshore, project, samples):
    file = shutil.copy(samples / "clients-archive.csv.gz", project / "clients[bold]\x1b[31m.csv.gz")
    done = longshore("process", file, cwd=project)
    assert done.returncode == 0
    assert "clients[bold]\\x1b[31m.csv.gz" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_bars_are_shown_where_standard_error_is_a_terminal(project, samples):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "worker", "process", str(samples / "clients.csv")]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal says that its other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
        assert process.stdout
        printed = process.stdout.read()
    os.close(ours)
    assert b"rows/s" in shown
    assert b"delivery taken" not in shown, "only what is wrong is logged between the bars"
    assert b"\x1b" not in printed


# run


def test_run_once_works_off_the_inbox_and_exits(longshore, project, samples):
    (project / "inbox").mkdir()
    shutil.copy(samples / "clients-archive.csv.gz", project / "inbox")
    done = longshore("run", "--once", cwd=project)
    assert done.returncode == 0
    assert (project / "archive" / "clients-archive.csv.gz").exists()
    assert manifests(project)[0]["results"] == 100


def test_run_once_exits_with_1_if_a_delivery_failed(longshore, project, samples):
    (project / "inbox").mkdir()
    shutil.copy(samples / "shipping-list.csv", project / "inbox")
    done = longshore("run", "--once", cwd=project)
    assert done.returncode == 1
    assert "1 delivery failed" in done.stderr
    assert json.loads((project / "failed" / "shipping-list.csv.error.json").read_text())["error"] == "DeliveryError"


def test_run_once_exits_with_1_if_a_bug_of_the_workers_own_ended_a_delivery(longshore, project, samples):
    (project / "inbox").mkdir()
    shutil.copy(samples / "clients.csv", project / "inbox")
    (project / "jobs" / "breaks_the_worker.py").write_text(
        "from worker.runner import Runner\ndef run(self, delivery):\n    raise ZeroDivisionError\nRunner.run = run\n"
    )
    done = longshore("run", "--once", cwd=project)
    assert "the worker has a bug" in done.stderr
    assert "1 delivery is waiting" in done.stderr
    assert done.returncode == 1


def test_an_earlier_failure_does_not_count_against_a_later_run(longshore, project, samples):
    longshore("process", samples / "shipping-list.csv", cwd=project)
    assert longshore("run", "--once", cwd=project).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_rows_under_way_finish_and_the_next_start_goes_on(tmp_path, longshore, number):
    project = slow_project(tmp_path / "slow", 0.2)
    with started("run", cwd=project) as process:
        (project / "inbox" / "rows.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(20)))
        part = project / ".longshore" / "work"
        wait_until(lambda: any(file.stat().st_size for file in part.glob("*/outcomes-*.part")))
        process.send_signal(number)
        _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "delivery left for the next start" in log
    assert longshore("run", "--once", cwd=project).returncode == 0
    (manifest,) = manifests(project)
    assert (manifest["results"], manifest["attempts"]) == (20, 2)


def test_a_second_signal_a_while_later_ends_the_process_at_once(tmp_path):
    project = slow_project(tmp_path / "slow", 60)
    (project / "inbox" / "rows.csv").write_text("n\n1\n")
    with started("run", cwd=project) as process:
        wait_until((project / "begun").exists)
        process.terminate()
        time.sleep(1.5)
        assert process.poll() is None, "it waits for the row"
        process.terminate()
        assert process.wait(timeout=5) == -signal.SIGTERM


def test_a_supervisors_second_signal_right_after_the_first_does_not_cut_off_the_rows_under_way(tmp_path):
    project = slow_project(tmp_path / "slow", 1.5)
    (project / "inbox" / "rows.csv").write_text("n\n1\n")
    with started("run", cwd=project) as process:
        wait_until((project / "begun").exists)
        process.terminate()
        time.sleep(0.6)
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert (process.returncode, "delivery done" in log) == (0, True)


def test_run_writes_its_log_as_json_lines_if_asked(tmp_path):
    project = slow_project(tmp_path / "slow", 0)
    with started("--json", "run", cwd=project) as process:
        assert process.stderr
        assert json.loads(process.stderr.readline())["event"] == "worker started"
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


# status, show, retry


def test_status_follows_the_contract_while_a_worker_runs(tmp_path, longshore):
    project = slow_project(tmp_path / "slow", 0.05)
    (project / "inbox" / "rows.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(200)))
    with started("run", cwd=project) as process:
        wait_until((project / "begun").exists)
        owners = sorted(file.name for file in (project / ".longshore" / "workers").iterdir())
        status = json.loads(longshore("status", "--json", cwd=project).stdout)
        assert sorted(file.name for file in (project / ".longshore" / "workers").iterdir()) == owners
        process.terminate()
        process.communicate(timeout=10)
    (delivery,) = status["deliveries"]
    assert set(delivery) == {"delivery", "job", "trigger", "source", "state", "rows_done", "attempts", "error"}
    assert (delivery["state"], delivery["trigger"], delivery["source"]) == ("running", "inbox", "rows.csv")
    assert status["counts"] == {"waiting": 0, "running": 1, "done": 0, "failed": 0}


def test_status_says_why_a_delivery_failed_and_that_the_inbox_is_missing(longshore, project, samples):
    longshore("process", samples / "shipping-list.csv", cwd=project)
    (project / "inbox").rmdir()
    done = longshore("status", cwd=project)
    assert done.returncode == 0
    assert "no job takes a file of this name" in done.stdout
    assert "inbox: there is no such folder" in done.stderr


@pytest.mark.parametrize(("command", "code"), [(["status", "--json"], 0), (["show", "ab"], 2), (["retry", "ab"], 2)])
def test_who_looks_where_no_worker_has_run_is_told_so_each_time_as_the_place_may_be_mistyped(
    longshore, project, command, code
):
    for _ in range(2):
        done = longshore(*command, cwd=project)
        assert done.returncode == code
        assert "state.db: there is no ledger, as no worker has run with these settings yet" in done.stderr
    assert code or json.loads(done.stdout)["counts"] == {"waiting": 0, "running": 0, "done": 0, "failed": 0}
    assert not (project / ".longshore").exists()


def test_status_tells_of_files_that_lie_in_the_inbox_as_the_ledger_does_not_know_them(longshore, project):
    (project / "inbox" / "folder").mkdir(parents=True)
    for name in ("\udce9.csv", "b.csv", ".hidden.csv"):
        (project / "inbox" / name).write_text("id\n1\n")
    found = json.loads(longshore("status", "--json", cwd=project).stdout)["inbox"]
    assert found["files"] == 2
    assert datetime.fromisoformat(found["since"]).timestamp() == pytest.approx(time.time(), abs=100)


def test_who_looks_at_deliveries_needs_no_secret_and_no_mistake_elsewhere_is_in_the_way(longshore, project, samples):
    """A shell beside the worker's has not the variables of its service, and a backend may just be being edited."""
    (manifest,) = json.loads(longshore("process", samples / "roster-brno.csv", "--json", cwd=project).stdout)
    with (project / "longshore.toml").open("a") as file:
        file.write('[auth.gone]\nclient_id = "me"\nclient_secret = { env = "NOT_HERE" }\n[backends.half]\n[sdlfj]\n')
    done = [longshore(*words, cwd=project) for words in (("status",), ("verify",), ("retry", manifest["delivery"]))]
    assert [each.returncode for each in done] == [0, 0, 2]
    assert "1 done" in done[0].stdout
    assert "only a failed one can be run again" in done[2].stderr


def forbidden(folder: Path, *arguments: str) -> str:
    """What the command says while nobody may look into a folder of the project, not even root."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0)
    as_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*as_others, sys.executable, "-m", "worker", *arguments]
    try:
        done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=120)
    finally:
        folder.chmod(0o700)
    return done.stdout + done.stderr


def test_check_names_a_folder_that_nobody_may_look_into_and_goes_on(project):
    said = forbidden(project / ".longshore", "check")
    assert f"not ok  folder        work: {project / '.longshore'} cannot be written" in said
    assert "backend" in said


def test_a_job_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(project):
    assert "jobs: cannot be read; give this user the permission" in forbidden(project / "jobs", "jobs")


def test_show_tells_the_rest_where_somebody_has_damaged_the_manifest(longshore, project, samples):
    (manifest,) = json.loads(longshore("process", samples / "roster-brno.csv", "--json", cwd=project).stdout)
    (file,) = (project / "outbox").glob("*.manifest.json")
    for left in ('{"delivery": "', "[1]", json.dumps({**manifest, "outputs": [3]})):
        file.write_text(left)
        shown = json.loads(longshore("show", manifest["delivery"], "--json", cwd=project).stdout)
        assert (shown["state"], shown["manifest"], shown["sha256"]) == ("done", None, manifest["input"]["sha256"])
        assert "its manifest in the outbox is damaged" in shown["error"]


def test_show_tells_all_of_a_delivery_by_the_beginning_of_its_id(longshore, project, samples):
    (manifest,) = json.loads(longshore("process", samples / "roster-brno.csv", "--json", cwd=project).stdout)
    shown = json.loads(longshore("show", manifest["delivery"][:6], "--json", cwd=project).stdout)
    assert shown["manifest"] == manifest
    assert shown["sha256"] == manifest["input"]["sha256"]
    assert manifest["outputs"][0]["name"] in longshore("show", manifest["delivery"], cwd=project).stdout


@pytest.mark.parametrize("command", ["show", "retry"])
def test_an_unknown_delivery_is_misuse(longshore, project, samples, command):
    longshore("process", samples / "roster-brno.csv", cwd=project)
    done = longshore(command, "ffffffff", cwd=project)
    assert (done.returncode, done.stderr) == (
        2,
        "error: delivery ffffffff: there is none; `longshore status` lists them\n",
    )


def test_a_failed_delivery_is_run_again_after_a_retry(longshore, project, samples):
    (failed,) = json.loads(longshore("process", samples / "shipping-list.csv", "--json", cwd=project).stdout)
    (project / "jobs" / "ship.py").write_text(
        "from worker import job\n@job(files='shipping*.csv')\ndef ship(row, ctx):\n    return dict(row)\n"
    )
    retried = longshore("retry", failed["delivery"], cwd=project)
    assert retried.returncode == 0
    assert "longshore run" in retried.stdout
    assert longshore("run", "--once", cwd=project).returncode == 0
    assert manifests(project)[0]["delivery"] == failed["delivery"]


def test_a_delivery_that_did_not_fail_is_not_run_again(longshore, project, samples):
    (done,) = json.loads(longshore("process", samples / "roster-brno.csv", "--json", cwd=project).stdout)
    retried = longshore("retry", done["delivery"], cwd=project)
    assert retried.returncode == 2
    assert "is done; only a failed one can be run again" in retried.stderr


def test_rejected_rows_are_dropped_into_the_inbox_as_a_delivery_of_their_own(longshore, project, samples):
    (done,) = json.loads(longshore("process", samples / "roster-brno.csv", "--json", cwd=project).stdout)
    retried = longshore("retry", done["delivery"], "--rejected", cwd=project)
    name = f"roster-brno-{done['delivery']}.rejected.csv"
    assert (retried.returncode, retried.stdout.split()[0]) == (0, name)
    again = longshore("retry", done["delivery"], "--rejected", cwd=project)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert longshore("run", "--once", cwd=project).returncode == 0
    (second,) = [manifest for manifest in manifests(project) if manifest["delivery"] != done["delivery"]]
    assert (second["source"], second["rows_in"]) == (name, done["rejected"])


REJECTING = """
from worker import Reject, job

@job(files={files!r}, done_suffix={done_suffix!r})
def picky(row, ctx):
    raise Reject("no")
"""


def test_rejected_rows_of_a_job_that_waits_for_a_done_file_get_one(longshore, project):
    (project / "jobs" / "picky.py").write_text(REJECTING.format(files="signed*.csv", done_suffix=".done"))
    inbox = project / "inbox"
    inbox.mkdir()
    (inbox / "signed.csv").write_text("id\n1\n")
    (inbox / "signed.csv.done").touch()
    assert longshore("run", "--once", cwd=project).returncode == 0
    (first,) = manifests(project)
    assert longshore("retry", first["delivery"], "--rejected", cwd=project).returncode == 0
    assert longshore("run", "--once", cwd=project).returncode == 0
    sources = {manifest["source"] for manifest in manifests(project)}
    assert sources == {"signed.csv", f"signed-{first['delivery']}.rejected.csv"}
    assert list(inbox.iterdir()) == []


@pytest.mark.parametrize("name", ["exact.csv", "other.txt"])
def test_rejected_rows_whose_name_is_not_for_their_job_are_told_to_be_processed_and_the_command_works(
    longshore, project, tmp_path, name
):
    (project / "jobs" / "picky.py").write_text(REJECTING.format(files="exact.csv", done_suffix=None))
    (tmp_path / name).write_text("id\n1\n")
    (first,) = json.loads(longshore("process", tmp_path / name, "--job", "picky", "--json", cwd=project).stdout)
    told = longshore("retry", first["delivery"], "--rejected", cwd=project)
    assert (told.returncode, list((project / "inbox").iterdir())) == (2, [])
    command = told.stderr.strip().partition(": longshore ")[2].split()
    assert command[0] == "process"
    assert longshore(*command, cwd=project).returncode == 0
    assert [manifest["job"] for manifest in manifests(project)] == ["picky", "picky"]


def test_rejected_rows_in_a_file_with_too_long_a_name_are_not_dropped_where_nobody_would_take_them(longshore, project):
    (project / "jobs" / "picky.py").write_text(REJECTING.format(files="x*.csv", done_suffix=None))
    (project / "inbox").mkdir()
    (project / "inbox" / f"{'x' * 200}.csv").write_text("id\n1\n")
    assert longshore("run", "--once", cwd=project).returncode == 0
    (first,) = manifests(project)
    told = longshore("retry", first["delivery"], "--rejected", cwd=project)
    assert (told.returncode, "under a shorter name" in told.stderr) == (2, True)
    assert list((project / "inbox").iterdir()) == []


def test_a_failed_message_is_not_looked_for_among_the_files(longshore, project):
    (project / ".longshore").mkdir()
    with contextlib.closing(Ledger(f"sqlite:///{project}/.longshore/state.db", owner="a-worker")) as ledger:
        claim = Claim("clients.summary", "message-1", "0123456789abcdef", "client_summary", "00" * 32, 2)
        ledger.messages.record([claim], [], lambda _owner: False)
        ledger.messages.record([], [Note(claim, attempts=1, end="failed")], lambda _owner: False)
    retried = longshore("retry", claim.delivery, cwd=project)
    assert (retried.returncode, "clients.summary.dead" in retried.stderr) == (2, True)


def test_a_delivery_without_rejected_rows_has_none_to_retry(longshore, project, samples):
    (done,) = json.loads(longshore("process", samples / "clients.csv", "--json", cwd=project).stdout)
    retried = longshore("retry", done["delivery"], "--rejected", cwd=project)
    assert (retried.returncode, "it has no rejected rows" in retried.stderr) == (2, True)


def test_verify_is_content_with_the_outbox_until_something_in_it_changes(longshore, project, samples):
    (done,) = json.loads(longshore("process", samples / "roster-brno.csv", "--json", cwd=project).stdout)
    assert longshore("verify", cwd=project).returncode == 0
    results = project / "outbox" / done["outputs"][0]["name"]
    results.write_bytes(results.read_bytes() + b"one more\n")
    changed = longshore("verify", "--json", cwd=project)
    assert (changed.returncode, json.loads(changed.stdout)["ok"]) == (1, False)
    manifest = project / "outbox" / f"roster-brno-{done['delivery']}.manifest.json"
    named = longshore("verify", manifest, cwd=project)
    assert named.returncode == 1
    assert f"{results.name} has" in named.stderr
    missing = longshore("verify", "nowhere.manifest.json", cwd=project)
    assert (missing.returncode, missing.stderr) == (2, "error: nowhere.manifest.json: there is no such file\n")


def test_verify_does_not_take_an_outbox_that_is_not_there_for_an_empty_one(longshore, project, samples):
    longshore("process", samples / "roster-brno.csv", cwd=project)
    (project / "outbox").rename(project / "elsewhere")
    done = longshore("verify", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "outbox: cannot be looked into: No such file or directory" in done.stderr


def test_a_ledger_that_is_newer_than_the_program_is_told_without_a_traceback(longshore, project):
    import sqlite3

    longshore("jobs", cwd=project)
    ledger = sqlite3.connect(project / ".longshore" / "state.db")
    ledger.execute("UPDATE longshore SET schema = 999")
    ledger.commit()
    ledger.close()
    done = longshore("status", cwd=project)
    assert done.returncode == 2
    assert "use a newer Longshore" in done.stderr
    assert "Traceback" not in done.stderr


# check, jobs, token, call


def test_check_looks_at_everything_and_is_content(longshore, project):
    done = longshore("check", "--json", cwd=project)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["ok"]
    assert all(set(each) == {"what", "name", "ok", "detail"} for each in found["checks"])
    looked_at = {(each["what"], each["name"]) for each in found["checks"]}
    assert looked_at >= {("job", "client_summary"), ("ledger", "state"), ("auth", "hospital"), ("backend", "ehr")}
    assert "sandbox-secret" not in done.stdout


def test_check_tells_which_backend_does_not_answer_and_goes_on(longshore, project):
    settings = project / "longshore.toml"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    settings.write_text(settings.read_text() + f'\n[backends.away]\ntype = "rest"\nurl = "http://127.0.0.1:{port}"\n')
    done = longshore("check", cwd=project)
    assert done.returncode == 2
    bad = [line for line in done.stdout.splitlines() if line.startswith("not ok")]
    assert len(bad) == 1
    assert "away" in bad[0]


def test_check_shows_every_mistake_of_the_configuration_as_a_check(longshore, project):
    (project / "longshore.toml").write_text('[worker]\nthreds = 3\nlog_level = "loud"\n')
    done = longshore("check", "--json", cwd=project)
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert {each["name"] for each in found["checks"]} == {"worker.threds", "worker.log_level"}
    assert done.stderr == ""


def test_jobs_are_listed_with_their_first_sentence(longshore, project):
    done = longshore("jobs", cwd=project)
    assert "clients*.csv" in done.stdout
    assert "A client's billing plan beside the practitioner" in done.stdout


def test_a_token_is_shown_masked(longshore, project):
    found = json.loads(longshore("token", "hospital", "--json", cwd=project).stdout)
    assert "…" in found["token"]
    assert found["expires_in"] > 0
    assert "billing.read" in found["scopes"]


def test_a_token_of_an_unknown_auth_is_misuse(longshore, project):
    done = longshore("token", "hospitel", cwd=project)
    assert done.returncode == 2
    assert "did you mean 'hospital'?" in done.stderr


def test_a_backend_is_called_the_way_a_job_would(longshore, project):
    done = longshore("call", "ehr", "Practitioner?_count=1", cwd=project)
    assert done.returncode == 0
    assert json.loads(done.stdout)["resourceType"] == "Bundle"


def test_a_call_that_the_backend_refuses_exits_with_1_and_its_reason(longshore, project):
    done = longshore("call", "billing", "/plans?client_id=none", cwd=project)
    assert done.returncode == 1
    assert done.stderr == "error: billing: answered 404 Not Found: There is no such client.\n"


# sandbox, init, demo


def test_a_new_project_works_against_a_sandbox(longshore, tmp_path, sandbox, monkeypatch):
    assert "longshore sandbox" in longshore("init", "new").stdout
    folders = {"inbox", "outbox", "archive", "failed", "jobs", ".longshore"}
    assert {path.name for path in (tmp_path / "new").iterdir() if path.is_dir()} == folders
    assert (tmp_path / "new" / ".longshore" / "work").is_dir()
    assert sandbox_settings_of(tmp_path / "new") == Addresses(*DEFAULT_PORTS).settings_toml()
    monkeypatch.setenv("LONGSHORE_AUTH__HOSPITAL__TOKEN_URL", sandbox.token_url)
    monkeypatch.setenv("LONGSHORE_BACKENDS__BILLING__URL", sandbox.billing_url)
    monkeypatch.setenv("LONGSHORE_BACKENDS__EHR__URL", sandbox.fhir_url)
    project = tmp_path / "new"
    shutil.copy(project / "clients.csv", project / "inbox")
    assert longshore("run", "--once", cwd=project).returncode == 0
    assert manifests(project)[0]["results"] == 300


def sandbox_settings_of(project: Path) -> str:
    settings = (project / "longshore.toml").read_text()
    return settings[settings.index("[auth") :]


def test_the_sandbox_says_where_it_is_and_ends_when_told_to(tmp_path):
    port = three_free_ports()
    with started("sandbox", "--port", str(port), cwd=tmp_path) as sandbox:
        assert sandbox.stdout
        assert Addresses(port, port + 1, port + 2).oauth_url in sandbox.stdout.readline()
        with socket.create_connection(("127.0.0.1", port + 2), timeout=5):
            pass
        sandbox.terminate()
        sandbox.communicate(timeout=10)
    assert sandbox.returncode == 0


def test_a_sandbox_whose_port_is_taken_says_which(longshore):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = longshore("sandbox", "--port", port)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 cannot be used" in done.stderr


def three_free_ports() -> int:
    """The first of three in a row."""
    for port in range(18100, 19000, 3):
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for each in range(port, port + 3):
                probes.enter_context(socket.create_server(("127.0.0.1", each)))
            return port
    raise AssertionError("no three ports are free")


def test_init_leaves_a_folder_with_something_in_it_alone(longshore, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear")
    done = longshore("init", "mine")
    assert (done.returncode, done.stderr) == (2, "error: mine: is not empty; name a new folder\n")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_the_demo_shows_every_sample_file_one_token_request_and_fewer_calls_than_rows(longshore, tmp_path):
    shown = longshore("demo", "--json")
    assert shown.returncode == 0
    found = json.loads(shown.stdout)
    assert len(found["deliveries"]) == 5
    assert [each["source"] for each in found["deliveries"] if each.get("state") == "failed"] == ["shipping-list.csv"]
    assert (found["rows_in"], found["token_requests"]) == (480, 1)
    assert found["calls"]["ehr"] < 100
    assert len(manifests(tmp_path / "demo")) == 4


def test_the_demo_replaces_only_what_a_demo_made(longshore, tmp_path):
    (tmp_path / "demo").mkdir()
    done = longshore("demo")
    assert done.returncode == 2
    assert "no demo made it" in done.stderr
    assert list((tmp_path / "demo").iterdir()) == []


def test_the_demo_stays_up_for_files_of_ones_own_until_it_is_stopped(tmp_path, samples):
    with started("demo", "--keep", cwd=tmp_path) as demo:
        assert demo.stdout
        wait_until(lambda: "cp YOUR.csv demo/inbox/" in demo.stdout.readline(), seconds=60)
        shutil.copy(samples / "clients-archive.csv.gz", tmp_path / "demo" / "inbox" / "clients-mine.csv.gz")
        wait_until(lambda: list((tmp_path / "demo" / "outbox").glob("clients-mine-*.manifest.json")))
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=20)
    assert demo.returncode == 0


def test_a_reader_that_goes_away_is_no_traceback(project):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "worker", "jobs"]
    done = subprocess.run(command, cwd=project, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert "Traceback" not in done.stderr
