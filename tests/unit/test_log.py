"""The log: one line an event, nothing forged, nothing quoted that should not be."""

import errno
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from worker import log

Configure = Callable[..., io.StringIO]


def two_o_clock() -> datetime:
    return datetime(2026, 11, 23, 2, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def configure() -> Iterator[Configure]:
    handlers = logging.getLogger().handlers

    def configured(level: str = "info", stream: Any = None, **options: Any) -> Any:
        stream = stream or io.StringIO()
        handlers[:] = [ours for ours in handlers if type(ours).__module__ == log.__name__]  # pytest's raise
        log.configure(level, stream=stream, clock=two_o_clock, **options)
        return stream

    yield configured
    structlog.reset_defaults()
    handlers[:] = [other for other in handlers if type(other).__module__ != log.__name__]


def test_an_event_is_one_line_of_time_level_phrase_and_values(configure: Configure) -> None:
    stream = configure()
    log.get_logger().info("delivery taken", source="clients.csv", rows=10)
    assert stream.getvalue() == "2026-11-23T02:00:00.123Z info  delivery taken source=clients.csv rows=10\n"


def test_what_is_bound_comes_before_the_events_own_values_and_ends_with_its_block(configure: Configure) -> None:
    stream = configure()
    with log.bound(delivery="3f9a1c2b", job="client_summary"):
        log.get_logger().info("delivery taken", source="clients.csv")
    log.get_logger().info("idle")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("delivery taken delivery=3f9a1c2b job=client_summary source=clients.csv")
    assert second.endswith("info  idle")


def test_what_joins_bound_values_later_is_added_until_they_are_unbound(configure: Configure) -> None:
    stream = configure()
    with log.bound(worker="one"):
        known: dict[str, object] = {"delivery": "3f9a1c2b"}
        before = log.bind(known)
        known["job"] = "client_summary"
        log.get_logger().info("delivery taken")
        log.unbind(before)
        log.get_logger().info("idle")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("delivery taken worker=one delivery=3f9a1c2b job=client_summary")
    assert second.endswith("idle worker=one")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("Žofie.csv", "Žofie.csv"),
        ("tab\there", r'"tab\there"'),
        ("\x1b[31mred", r'"\x1b[31mred"'),
        ("right\u202eleft", r'"right\u202eleft"'),
        ("undecodable\udcff", r'"undecodable\udcff"'),
    ],
)
def test_a_value_that_could_be_misread_is_quoted_and_escaped(configure: Configure, value: str, written: str) -> None:
    stream = configure()
    log.get_logger().info("seen", source=value)
    assert stream.getvalue().endswith(f"seen source={written}\n")


@pytest.mark.parametrize("newline", ["\n", "\r", "\x0b", "\x85", "\u2028"])
def test_a_hostile_file_name_cannot_forge_a_line(configure: Configure, newline: str) -> None:
    stream = configure()
    forged = f"x.csv{newline}2026-11-23T02:00:00.123Z error all is lost"
    log.get_logger().info(forged, source=forged, **{forged: forged})
    assert len(stream.getvalue().splitlines()) == 1


def test_a_value_cannot_pose_as_the_time_or_the_level(configure: Configure) -> None:
    stream = configure()
    log.get_logger().info("seen", time="1999", level="error")
    assert stream.getvalue() == "2026-11-23T02:00:00.123Z info  seen\n"


def test_events_below_the_level_are_left_out(configure: Configure) -> None:
    stream = configure("warning")
    log.get_logger().info("idle")
    log.get_logger().warning("backend is slow")
    assert stream.getvalue().count("\n") == 1


def test_json_lines_hold_the_same(configure: Configure) -> None:
    stream = configure(json=True)
    with log.bound(delivery="3f9a1c2b"):
        log.get_logger().info("delivery taken", source="a\nb")
    assert json.loads(stream.getvalue()) == {
        "time": "2026-11-23T02:00:00.123Z",
        "level": "info",
        "event": "delivery taken",
        "delivery": "3f9a1c2b",
        "source": "a\nb",
    }


def test_other_libraries_are_heard_from_warnings_on_even_where_their_level_is_lower(configure: Configure) -> None:
    stream = configure("debug")
    library = logging.getLogger("urllib3.connectionpool")
    library.setLevel(logging.DEBUG)
    try:
        library.debug("GET /patients?name=Novak")
        library.warning("connection pool is full")
    finally:
        library.setLevel(logging.NOTSET)
    line = "2026-11-23T02:00:00.123Z warning connection pool is full logger=urllib3.connectionpool\n"
    assert stream.getvalue() == line


def test_the_query_and_the_credentials_of_an_address_in_a_foreign_message_are_left_out(configure: Configure) -> None:
    stream = configure()
    logging.getLogger("urllib3").warning("no headers (url=%s)", "https://user:hunter2@ehr.example/Patient?name=Novak")
    assert "ehr.example/Patient" in stream.getvalue()
    assert "Novak" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_a_foreign_message_that_its_values_do_not_fit_is_still_a_line(configure: Configure) -> None:
    stream = configure()
    logging.getLogger("waitress").error("%d rows", "Novak")
    assert "error a message that its values do not fit logger=waitress" in stream.getvalue()
    assert "Novak" not in stream.getvalue()


def test_configuring_again_does_not_double_the_lines(configure: Configure) -> None:
    first = configure()
    second = configure()
    logging.getLogger("waitress").warning("queue depth is 3")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def divide(row: dict[str, str]) -> float:
    return 1 / int(row["born"])


def a_bug() -> ValueError:
    try:
        divide({"born": "Novak"})
    except ValueError as error:
        return error
    raise AssertionError


def test_a_bug_is_located_by_file_line_and_function_without_its_message() -> None:
    where = log.location(a_bug())
    assert re.search(r"test_log\.py:\d+ in a_bug, \S*test_log\.py:\d+ in divide$", where)
    assert "Novak" not in where


def test_a_very_deep_bug_is_located_by_its_innermost_frames() -> None:
    def down(depth: int) -> None:
        if depth == 0:
            divide({"born": "Novak"})
        down(depth - 1)

    try:
        down(100)
    except ValueError as error:
        frames = log.location(error).split(", ")
    assert len(frames) == 20
    assert frames[-1].endswith("in divide")


def test_a_logged_exception_is_named_and_located_but_not_quoted(configure: Configure) -> None:
    stream = configure()
    log.get_logger().error("job failed", exc_info=a_bug())
    try:
        divide({"born": "Novak"})
    except ValueError:
        log.get_logger().exception("job failed")
        logging.getLogger("waitress").exception("job failed")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all("error=ValueError" in line and "in divide" in line for line in lines)
    assert "Novak" not in stream.getvalue()


class FullDisk(io.StringIO):
    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_stops_nobody_and_the_lost_lines_are_counted(configure: Configure) -> None:
    stream = configure(stream=FullDisk())
    log.get_logger().info("first")
    log.get_logger().info("second")
    stream.full = False
    log.get_logger().info("third")
    third, counted = stream.getvalue().splitlines()
    assert third.endswith("third")
    assert counted.endswith("warning log could not be written lines=2")
