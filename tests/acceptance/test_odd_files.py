"""What becomes of everything that may lie in an inbox: the table of docs/reference/files.md, by a real worker."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from orders import run_once, running, status

JOBS = """
from worker import job

@job(files="odd*.csv*")
def echo(row, ctx):
    return dict(row)

@job(files="signed*.csv", done_suffix=".done")
def signed(row, ctx):
    return dict(row)
"""
CSV = b"id,name\n007,Ann\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("jobs", "inbox"):
        (tmp_path / name).mkdir()
    (tmp_path / "jobs" / "echo.py").write_text(JOBS)
    (tmp_path / "longshore.toml").write_text("[worker]\nsettle_seconds = 0.1\n")
    return tmp_path


def manifests(project: Path) -> dict[str, Any]:
    """By source."""
    found = [json.loads(path.read_bytes()) for path in (project / "outbox").glob("*.manifest.json")]
    return {manifest["source"]: manifest for manifest in found}


def results(project: Path, manifest: dict[str, Any]) -> bytes:
    return (project / "outbox" / manifest["outputs"][0]["name"]).read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_any_name_that_can_be_written_down_is_kept_in_the_outbox_and_the_archive(project: Path) -> None:
    odd = [
        "odd two words.csv",
        "odd $HOME;'\"`č.csv",
        "odd [1]*?.csv",
        "odd..csv",
        "odd\nline.csv",
        "odd\t\x1b[31m.csv",
    ]
    odd.append("odd" + "x" * 213 + ".csv")
    for name in odd:
        (project / "inbox" / name).write_bytes(CSV)
    run_once(project)
    assert names(project / "inbox") == names(project / "failed") == []
    assert names(project / "archive") == sorted(odd)
    assert sorted(manifests(project)) == sorted(odd)
    assert all(results(project, manifest) == CSV for manifest in manifests(project).values())
    log = (project / "run.log").read_text()
    assert "\x1b" not in log
    assert all(line.startswith("20") for line in log.splitlines()), "each line begins with its time"


def test_what_is_no_file_to_take_stays_in_the_inbox_with_one_warning_each(project: Path) -> None:
    inbox, outside = project / "inbox", project / "odd-outside.csv"
    outside.write_bytes(CSV)
    (inbox / "odd-link.csv").symlink_to(outside)
    (inbox / "odd-within.csv").symlink_to(inbox / "odd.csv")
    (inbox / "odd-folder.csv").mkdir()
    os.mkfifo(inbox / "odd-pipe.csv")
    (inbox / os.fsdecode(b"odd-\xff.csv")).write_bytes(CSV)
    (inbox / ("odd" + "x" * 214 + ".csv")).write_bytes(CSV)
    odd = names(inbox)
    (inbox / "odd.csv").write_bytes(CSV)
    run_once(project)
    assert names(inbox) == odd
    assert list(manifests(project)) == ["odd.csv"]
    assert outside.read_bytes() == CSV
    assert (project / "run.log").read_text().count("left alone in the inbox") == len(odd)


def test_hidden_temporary_and_lock_names_are_passed_over_in_silence(project: Path) -> None:
    passed_over = [".odd.csv", "~odd.csv", "odd.csv~", "odd.csv.tmp", "odd.csv.part", "odd.csv.filepart"]
    passed_over += ["odd.csv.crdownload", "odd.csv.swp", "odd.csv.lock", "odd.csv.lck"]
    for name in passed_over:
        (project / "inbox" / name).write_bytes(CSV)
    run_once(project)
    assert names(project / "inbox") == sorted(passed_over)
    assert "warning" not in (project / "run.log").read_text()
    assert status(project)["deliveries"] == []


def test_a_file_that_wants_a_done_file_waits_for_it_and_takes_it_along(project: Path) -> None:
    for name in ("signed-1.csv", "signed-2.csv", "signed-2.csv.done"):
        (project / "inbox" / name).write_bytes(CSV if name.endswith(".csv") else b"")
    run_once(project)
    assert names(project / "inbox") == ["signed-1.csv"]
    assert list(manifests(project)) == ["signed-2.csv"]


def test_a_done_file_that_a_crash_left_does_not_speak_for_the_next_file(project: Path) -> None:
    inbox = project / "inbox"
    (inbox / "signed.csv").write_bytes(CSV)
    (inbox / "signed.csv.done").touch()
    with running(project, point="moved, its done file not removed") as process:
        assert process.wait(60) == -signal.SIGKILL
    with (inbox / "signed.csv").open("wb") as next_one:
        next_one.write(CSV)
        next_one.flush()
        run_once(project)
        assert names(inbox) == ["signed.csv", "signed.csv.done"]
        next_one.write(b"008,Bob\n")
    (inbox / "signed.csv.done").touch()
    run_once(project)
    assert names(inbox) == []
    found = [json.loads(path.read_bytes()) for path in (project / "outbox").glob("*.manifest.json")]
    digests = {manifest["input"]["sha256"]: manifest["rows_in"] for manifest in found}
    archived = [path.read_bytes() for path in (project / "archive").iterdir()]
    assert digests == {hashlib.sha256(data).hexdigest(): data.count(b"\n") - 1 for data in archived}
    assert sorted(digests.values()) == [1, 2]


FAILS = {
    "odd-empty.csv": (b"", "the file is empty"),
    "odd-blank.csv": (b"\n\n\n", "no header"),
    "strange.csv": (CSV, "no job takes a file of this name; the jobs take: "),
    "odd-twice.csv": (b"id,id\n1,2\n", "a name that another has, too"),
    "odd-unnamed.csv": (b"id,\n1,2\n", "no name for column 2"),
    "odd-book.csv": (b"PK\x03\x04rest", "an Excel workbook"),
    "odd-cut.csv.gz": (gzip.compress(CSV)[:-6], "damaged or cut off"),
}


def test_what_can_never_be_read_lies_in_failed_beside_its_reason(project: Path) -> None:
    for name, (content, _) in FAILS.items():
        (project / "inbox" / name).write_bytes(content)
    run_once(project)
    assert names(project / "failed") == sorted([*FAILS, *(f"{name}.error.json" for name in FAILS)])
    for name, (content, reason) in FAILS.items():
        assert (project / "failed" / name).read_bytes() == content
        assert reason in json.loads((project / "failed" / f"{name}.error.json").read_bytes())["detail"]
    assert names(project / "outbox") == names(project / "archive") == names(project / "inbox") == []


def test_what_can_be_read_in_part_has_its_wrong_rows_rejected(project: Path) -> None:
    contents = {
        "odd-header.csv": (b"id,name\n", (0, 0)),
        "odd-rows.csv": (b'id,name\n007,Ann\n008\n009,"B\n"\n010,\xff\n', (2, 2)),
        "odd-mark.csv": (b"\xef\xbb\xbfid;name\r\n007;Ann\r\n", (1, 0)),
        "odd-packed.csv.gz": (gzip.compress(CSV), (1, 0)),
    }
    for name, (content, _) in contents.items():
        (project / "inbox" / name).write_bytes(content)
    run_once(project)
    found = manifests(project)
    for name, (_, counts) in contents.items():
        assert (found[name]["results"], found[name]["rejected"]) == counts, name
    assert results(project, found["odd-header.csv"]) == b""
    rejects = (project / "outbox" / found["odd-rows.csv"]["outputs"][1]["name"]).read_text()
    assert [line.split(",")[2] for line in rejects.splitlines()] == ["_line", "3", "6"]


def test_the_same_file_dropped_again_is_a_delivery_of_its_own(project: Path) -> None:
    for content in (CSV, CSV, b"id\n1\n"):
        (project / "inbox" / "odd.csv").write_bytes(content)
        run_once(project)
    kept = names(project / "archive")
    assert len(kept) == 3
    assert "odd.csv" in kept
    assert sorted((project / "archive" / name).read_bytes() for name in kept) == sorted([CSV, CSV, b"id\n1\n"])
    assert len(names(project / "outbox")) == 6
