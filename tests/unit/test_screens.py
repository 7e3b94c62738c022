"""What people see is what was written, whatever that is."""

import json

import pytest

from worker.commands import screens

FAILED = {"job": "j", "state": "failed", "rows_done": 0, "attempts": 1, "delivery": "1", "error": "it cannot be"}
MESSAGE, FILE = {**FAILED, "source": "q", "trigger": "queue"}, {**FAILED, "source": "a.csv", "trigger": "inbox"}


def test_a_text_does_nothing_to_the_terminal():
    assert screens.printable("a\x1b[31m\u202eb\n") == "a\\x1b[31m\\u202eb\\n"


def test_markup_in_a_text_is_shown_not_obeyed(capsys):
    screens.say("[bold]clients[/bold].csv :smile:")
    assert capsys.readouterr().out == "[bold]clients[/bold].csv :smile:\n"


def test_a_path_is_not_folded_however_narrow_the_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    screens.say("/a/path/that/is/longer/than/the/screen")
    assert capsys.readouterr().out == "/a/path/that/is/longer/than/the/screen\n"


def test_a_complaint_is_one_line_on_standard_error(capsys):
    screens.complain("this\nand that")
    assert capsys.readouterr().err == "error: this\\nand that\n"


@pytest.mark.parametrize("text", ["no\u00a0break", "\x7f\x9b\u2028\u202e", "\U000e0001", "a\nb\x1b"])
@pytest.mark.parametrize("indent", [False, True])
def test_json_with_what_cannot_be_printed_does_nothing_to_the_terminal_and_stays_json(capsys, text, indent):
    screens.say(screens.as_json({"name": text}, indent=indent))
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": text}
    assert shown.replace("\n", "").isprintable()


def test_a_line_break_in_a_name_does_not_make_a_line_of_its_own(capsys):
    name = "a\nstate done.csv"
    line = {**FILE, "source": name, "error": name}
    screens.accounts([{**line, "rows_in": 1}], "outbox")
    screens.accounts([{**line, "outputs": [{"name": name}]}], "outbox")
    screens.status([line], {"failed": 1})
    counts = {"rows_in": 1, "results": 1, "rejected": 0, "skipped": 0, "token_requests": 0}
    manifest = {**counts, "outputs": [{"name": name, "rows": 1}]}
    screens.show({"source": name, "manifest": manifest, "history": []}, "outbox")
    shown = capsys.readouterr().out
    assert shown.count("a\\nstate done.csv") > 6
    assert "a\nstate" not in shown


def test_a_table_keeps_every_character_on_a_narrow_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    screens.table(("file", "rows"), [("clients-of-the-north.csv", 1234567)])
    shown = capsys.readouterr().out
    assert "1,234,567" in shown
    assert "clients-of-the-north.csv" in "".join(shown.split()).replace("1,234,567", "")


def test_an_account_names_the_outputs_or_the_reason_why_there_are_none(capsys):
    done = {"source": "a.csv", "job": "sums", "rows_in": 2, "results": 1, "rejected": 1, "skipped": 0}
    failed = {"source": "b.csv", "job": "", "state": "failed", "error": "no job takes it"}
    screens.accounts([{**done, "outputs": [{"name": "a-1.csv"}]}, failed], "outbox")
    shown = capsys.readouterr().out
    assert "a.csv went through sums:\n  outbox/a-1.csv\n" in shown
    assert "b.csv failed:\n  no job takes it\n" in shown


@pytest.mark.parametrize(("deliveries", "said"), [(1, ""), (3, " (the newest 1 are shown)")])
def test_a_status_says_when_it_shows_only_a_part(capsys, deliveries, said):
    line = {"source": "a.csv", "job": "j", "state": "done", "rows_done": 1, "attempts": 1, "delivery": "1", "error": ""}
    screens.status([line], {"waiting": 0, "running": 0, "done": deliveries, "failed": 0})
    assert capsys.readouterr().out.endswith(f"{deliveries} done, 0 failed{said}\n")


MOVE_BACK = "failed messages lie in q.dead: mend the cause, then move them back to q\n"


@pytest.mark.parametrize(
    ("lines", "count", "said"),
    [
        ([MESSAGE, MESSAGE], 2, MOVE_BACK),
        ([MESSAGE], 2, f"`longshore retry ID` runs a failed file or tick again\n{MOVE_BACK}"),
        ([MESSAGE, FILE], 2, f"`longshore retry ID` runs a failed file or tick again\n{MOVE_BACK}"),
        ([FILE], 1, "`longshore retry ID` runs a failed one again\n"),
    ],
)
def test_a_status_says_how_a_failed_message_is_run_again_which_is_not_by_retry(capsys, lines, count, said):
    screens.status(lines, {"waiting": 0, "running": 0, "done": 0, "failed": count})
    assert capsys.readouterr().out.partition(f"{count} failed")[2].partition("\n")[2] == said


def test_a_status_says_before_when_what_waits_is_not_tried_again(capsys):
    line = {**FILE, "state": "waiting", "error": "billing: answered 503"}
    wait = {"delivery": "1", "not_before": "2026-11-23T02:00:04Z"}
    screens.status([line], {"waiting": 1, "running": 0, "done": 0, "failed": 0}, waits=[wait])
    said = "1 a.csv is waiting, and is not tried again before 2026-11-23T02:00:04Z:\n  billing: answered 503\n"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"ended": "02:09"}, "02:00 to 02:09 on host.7: 3 rows done\n"),
        ({"ended": "02:09", "error": "it is no CSV"}, "02:00 to 02:09 on host.7: 3 rows done; it is no CSV\n"),
        ({"ended": None}, "02:00 without an end: it runs, or its worker died on host.7\n"),
    ],
)
def test_an_attempt_is_shown_with_its_worker_and_how_it_ended(capsys, end, said):
    attempt = {"attempt": 1, "worker": "host.7", "started": "02:00", "rows_done": 3, "error": "", **end}
    screens.show({"manifest": None, "history": [attempt]}, "outbox")
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize(("seconds", "said"), [(22.6, "left alone for 23 s more"), (0.3, "asked again just now")])
def test_a_status_says_which_backends_are_left_alone_by_whom_and_why(capsys, seconds, said):
    pause = {"backend": "billing", "state": "down", "seconds": seconds, "reason": "answered 503", "worker": "host.7"}
    screens.status([], {"waiting": 0, "running": 0, "done": 0, "failed": 0}, backends=[pause])
    assert f"backend billing is down, {said} by host.7: answered 503" in capsys.readouterr().out


def test_a_status_says_that_the_broker_is_away_by_whom_and_why(capsys):
    broker = {"worker": "host.7", "reason": "is not connected since 2026-11-23T02:00:04Z: Connection refused; start it"}
    screens.status([], {"waiting": 0, "running": 0, "done": 0, "failed": 0}, broker=[broker])
    assert f"the broker {broker['reason']} (told by host.7)" in capsys.readouterr().out


def test_a_status_says_which_disks_take_nothing_and_what_to_do(capsys):
    full = {"folders": ["/a/.longshore", "/a/outbox"], "reason": "is full (0 bytes are left); make room"}
    screens.status([], {"waiting": 0, "running": 0, "done": 0, "failed": 0}, disks=[full])
    said = "the disk of /a/.longshore, /a/outbox is full (0 bytes are left); make room: what waits for it goes on"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "said"), [(2, "2 files in the inbox, the first since 2026-11-23T02:00:04Z"), (0, "")]
)
def test_a_status_says_what_lies_in_the_inbox(capsys, files, said):
    inbox = {"files": files, "since": "2026-11-23T02:00:04Z" if files else None}
    screens.status([], {"waiting": 0, "running": 0, "done": 0, "failed": 0}, inbox=inbox)
    shown = capsys.readouterr().out
    assert said in shown
    assert ("inbox" in shown) == bool(files)
