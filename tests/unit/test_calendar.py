"""When a cron expression comes, above all where clocks are changed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker import cron
from worker.triggers.schedule import Calendar


def times(expression, zone, start, end):
    """Each time of the expression, as the zone's clocks show it with their offset."""
    calendar = Calendar(expression, zone)
    start, end = (datetime.fromisoformat(each).astimezone(UTC) for each in (start, end))
    return [found.isoformat(timespec="minutes")[:16] for found in calendar.between(start, end)]


def test_a_day_has_one_nightly_tick():
    assert times("0 2 * * *", None, "2026-11-22T02:00Z", "2026-11-24T02:00Z") == [
        "2026-11-23T02:00",
        "2026-11-24T02:00",
    ]


def test_a_time_zone_decides_when_it_is_two_o_clock():
    found = times("0 2 * * *", "Europe/Prague", "2026-07-01T12:00Z", "2026-07-02T12:00Z")
    assert found == ["2026-07-02T00:00"]


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("0", ["2026-11-22", "2026-11-29"]),  # a Sunday, as cron counts
        ("1", ["2026-11-23", "2026-11-30"]),
        ("6", ["2026-11-21", "2026-11-28"]),
        ("SUN", ["2026-11-22", "2026-11-29"]),
        ("1-5", ["2026-11-20", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26", "2026-11-27", "2026-11-30"]),
    ],
)
def test_weekdays_are_those_of_cron(weekday, days):
    found = times(f"0 12 * * {weekday}", None, "2026-11-20T00:00Z", "2026-12-01T00:00Z")
    assert [each[:10] for each in found] == days


def test_a_day_of_the_month_or_a_weekday_will_do_where_both_are_named():
    found = times("0 0 13 * FRI", None, "2026-11-01T00:00Z", "2026-11-30T00:00Z")
    assert [each[8:10] for each in found] == ["06", "13", "20", "27"]
    found = times("0 0 14 * FRI", None, "2026-11-01T00:00Z", "2026-11-30T00:00Z")
    assert [each[8:10] for each in found] == ["06", "13", "14", "20", "27"]


def test_a_leap_day_is_waited_for():
    assert times("0 0 29 2 *", None, "2026-03-01T00:00Z", "2030-01-01T00:00Z") == ["2028-02-29T00:00"]


# In Prague, clocks leap from 02:00 to 03:00 on 2026-03-29 at 01:00 UTC, and back from 03:00 to 02:00 on 2026-10-25 at
# 01:00 UTC.


def test_a_time_that_clocks_leap_over_comes_at_the_leap():
    found = times("30 2 * * *", "Europe/Prague", "2026-03-27T12:00Z", "2026-03-30T12:00Z")
    assert found == ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]


def test_several_times_that_clocks_leap_over_make_one_tick():
    found = times("0,15,30,45 2 * * *", "Europe/Prague", "2026-03-29T00:00Z", "2026-03-29T12:00Z")
    assert found == ["2026-03-29T01:00"]


def test_a_time_leapt_over_and_the_time_of_the_leap_make_one_tick():
    found = times("30 2,3 * * *", "Europe/Prague", "2026-03-29T00:00Z", "2026-03-29T12:00Z")
    assert found == ["2026-03-29T01:00", "2026-03-29T01:30"]
    found = times("0 2,3 * * *", "Europe/Prague", "2026-03-29T00:00Z", "2026-03-29T12:00Z")
    assert found == ["2026-03-29T01:00"]


def test_a_time_that_clocks_show_twice_comes_the_first_time_only():
    found = times("30 2 * * *", "Europe/Prague", "2026-10-24T12:00Z", "2026-10-26T12:00Z")
    assert found == ["2026-10-25T00:30", "2026-10-26T01:30"]


def test_a_worker_that_starts_between_the_two_does_not_make_the_second_a_tick():
    found = times("30 2 * * *", "Europe/Prague", "2026-10-25T00:45Z", "2026-10-26T12:00Z")
    assert found == ["2026-10-26T01:30"]


@pytest.mark.parametrize(
    ("start", "end"), [("2026-03-29T00:00Z", "2026-03-29T03:00Z"), ("2026-10-25T00:00Z", "2026-10-25T03:00Z")]
)
def test_a_schedule_that_names_no_hour_goes_on_evenly_where_clocks_change(start, end):
    found = times("*/30 * * * *", "Europe/Prague", start, end)
    hours = [f"{hour:02}:{minute}" for hour in range(3) for minute in ("00", "30")]
    assert [each[11:] for each in found] == [*hours[1:], "03:00"]


def test_it_goes_on_evenly_where_the_change_is_half_an_hour():
    # Lord Howe leaps from 02:00 (+10:30) to 02:30 (+11) on 2026-10-04 at 15:30 UTC of the day before.
    found = times("0 * * * *", "Australia/Lord_Howe", "2026-10-03T13:00Z", "2026-10-03T18:00Z")
    assert [each[11:] for each in found] == ["13:30", "14:30", "16:00", "17:00", "18:00"]


def test_the_minute_of_the_change_itself_counts():
    found = times("30 * * * *", "Australia/Lord_Howe", "2026-10-03T15:00Z", "2026-10-03T17:00Z")
    assert [each[11:] for each in found] == ["15:30", "16:30"]


def test_a_day_that_a_zone_leaps_over_comes_at_the_leap():
    # Samoa crossed the date line: 2011-12-30 did not come; the leap was on the 30th at 10:00 UTC.
    found = times("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00Z", "2011-12-31T12:00Z")
    assert found == ["2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00"]


@pytest.mark.parametrize("expression", ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 1 *", "0 12 * * FRI"])
def test_the_last_time_is_found_from_the_end(expression):
    calendar = Calendar(expression, "Europe/Prague")
    start, end = datetime(2026, 10, 20, tzinfo=UTC), datetime(2026, 10, 26, 11, 11, 11, tzinfo=UTC)
    assert calendar.last(start, end) == max(calendar.between(start, end), default=None)


def test_the_last_of_a_century_of_minutes_is_found_at_once():
    calendar = Calendar("* * * * *", None)
    start, end = datetime(1926, 1, 1, tzinfo=UTC), datetime(2026, 10, 26, 11, 11, 11, tzinfo=UTC)
    assert calendar.last(start, end) == datetime(2026, 10, 26, 11, 11, tzinfo=UTC)


def test_nothing_comes_twice_within_one_year_of_any_zone():
    for zone in ("Europe/Prague", "America/New_York", "Australia/Lord_Howe", "America/St_Johns"):
        for expression in ("*/30 1-3 * * *", "*/20 * * * SUN"):
            found = times(expression, zone, "2026-01-01T00:00Z", "2026-12-31T00:00Z")
            assert found == sorted(set(found))


CHANGES = [
    ("Europe/Prague", "2026-03-28T20:00Z"),
    ("Europe/Prague", "2026-10-24T20:00Z"),
    ("America/New_York", "2026-11-01T01:00Z"),
    ("America/Havana", "2026-03-08T00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T08:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T08:00Z"),
    ("Africa/Casablanca", "2026-03-21T20:00Z"),
]


@pytest.mark.parametrize(("zone", "start"), CHANGES)
@pytest.mark.parametrize("expression", ["*/7 0-3 * * *", "30 1,2 * * *", "10,50 * * * *", "5 */2 * * SUN", "0 0 * * *"])
def test_it_is_what_one_finds_by_looking_at_each_minute_around_a_change(zone, start, expression):
    start = datetime.fromisoformat(start)
    minutes = [start + timedelta(minutes=number) for number in range(1, 12 * 60)]
    parsed = cron.parse(expression)
    expected = [minute for minute in minutes if comes(parsed, minute, ZoneInfo(zone))]
    assert list(Calendar(expression, zone).between(start, minutes[-1])) == expected


def comes(parsed, minute, zone):
    """Whether a tick comes at that minute, by cron(8)."""
    shown, before = minute.astimezone(zone), (minute - timedelta(minutes=1)).astimezone(zone)
    if parsed.every_hour:
        return fits(parsed, shown)
    leap = int((shown.utcoffset() - before.utcoffset()).total_seconds()) // 60
    leapt_over = [shown.replace(tzinfo=None) - timedelta(minutes=number) for number in range(1, leap + 1)]
    return (fits(parsed, shown) and not shown.fold) or any(fits(parsed, each) for each in leapt_over)


def fits(parsed, wall):
    day, weekday = wall.day in parsed.days, wall.isoweekday() % 7 in parsed.weekdays
    return (
        wall.minute in parsed.minutes
        and wall.hour in parsed.hours
        and wall.month in parsed.months
        and ((day or weekday) if parsed.either_day else (day and weekday))
    )
