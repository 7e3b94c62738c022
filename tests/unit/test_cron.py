import pytest

from worker import cron


def test_stars_allow_everything():
    parsed = cron.parse("* * * * *")
    assert parsed.minutes == frozenset(range(60))
    assert parsed.hours == frozenset(range(24))
    assert parsed.days == frozenset(range(1, 32))
    assert parsed.months == frozenset(range(1, 13))
    assert parsed.weekdays == frozenset(range(7))
    assert parsed.every_hour
    assert not parsed.either_day


@pytest.mark.parametrize(
    ("field", "minutes"),
    [
        ("0", {0}),
        ("1,5,59", {1, 5, 59}),
        ("10-13", {10, 11, 12, 13}),
        ("*/20", {0, 20, 40}),
        ("10-30/10", {10, 20, 30}),
        ("5,50-59/3", {5, 50, 53, 56, 59}),
    ],
)
def test_a_field_is_a_number_a_list_a_range_or_steps(field, minutes):
    assert cron.parse(f"{field} * * * *").minutes == minutes


@pytest.mark.parametrize(
    ("field", "weekdays"), [("0", {0}), ("7", {0}), ("MON-fri", {1, 2, 3, 4, 5}), ("5-7", {0, 5, 6})]
)
def test_sunday_is_both_0_and_7_and_days_have_names(field, weekdays):
    assert cron.parse(f"0 0 * * {field}").weekdays == weekdays


def test_months_have_names():
    assert cron.parse("0 0 1 JAN,mar-may *").months == {1, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "either"),
    [
        ("0 0 13 * 5", True),
        ("0 0 13 * *", False),
        ("0 0 * * 5", False),
        ("0 0 */2 * 5", False),
        ("0 0 1-7 * */2", False),
    ],
)
def test_either_day_will_do_only_where_both_are_named(text, either):
    assert cron.parse(text).either_day is either


def test_an_hour_that_is_named_is_not_every_hour():
    assert not cron.parse("*/15 0-22 * * *").every_hour
    assert cron.parse("*/15 0-23 * * *").every_hour


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it has 0 fields; write five"),
        ("0 2 * *", "it has 4 fields; write five"),
        ("0 0 2 * * *", "it has 6 fields; write five"),
        ("@daily", "it has 1 fields; write five"),
        ("60 2 * * *", "'60' is no minute; write 0 to 59"),
        ("0 24 * * *", "'24' is no hour; write 0 to 23"),
        ("0 0 0 * *", "'0' is no day of the month; write 1 to 31"),
        ("0 0 * 13 *", "'13' is no month; write 1 to 12 or JAN to DEC"),
        ("0 0 * * 8", "'8' is no day of the week; write 0 to 7 or SUN to SAT"),
        ("0 0 * * MO", "'MO' is no day of the week"),
        ("0 0 L * *", "'L' is no day of the month"),
        ("0 ٣ * * *", "is no hour"),
        ("-1 * * * *", "'-1' is no minute; write *, a number"),
        ("1.5 * * * *", "'1.5' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("5/15 * * * *", "has a step without a range; write 5-59/15"),
        ("60/5 * * * *", "'60' is no minute; write 0 to 59"),
        ("SUN/2 * * * *", "'SUN' is no minute"),
        ("*/0 * * * *", "the step of '*/0' must be from 1 to 59"),
        ("0 22-2 * * *", "goes backwards; write two ranges: 22-23,0-2"),
        ("0 0 30 2 *", "no such day comes in any of its months"),
        ("0 0 31 4,6 *", "no such day comes in any of its months"),
    ],
)
def test_what_cannot_be_understood_is_told(text, complaint):
    with pytest.raises(ValueError, match=complaint.replace("*", r"\*").replace("(", r"\(")):
        cron.parse(text)


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 31 4 5", "0 0 31 4,5 *"])
def test_a_day_that_comes_now_and_then_is_fine(text):
    cron.parse(text)
