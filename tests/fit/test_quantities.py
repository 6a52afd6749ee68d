"""Numbers as people write and read them."""

import pytest

from fit.errors import QueryError
from fit.quantities import (
    count_noun,
    duration,
    parse_count,
    parse_flops,
    power,
    short,
    three_digits,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7B", 7e9),
        ("1.4T", 1.4e12),
        ("1e21", 1e21),
        ("2.5e9", 2.5e9),
        (" 3 M ", 3e6),
        ("12k", 12e3),
        ("7b", 7e9),
        ("1_000_000", 1e6),
        (".5M", 5e5),
        ("1E3", 1e3),
        ("10,000", 1e4),
        ("1,234,567.5", 1234567.5),
        ("1,500M", 1.5e9),
        ("8e3", 8e3),
    ],
)
def test_counts_are_read_with_units(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "abc", "1e400", "nan", "inf", "", "7Q", "1e", "0B", "1e-400", "-7B"]
    + [
        "1,00",
        "1,0000",
        ",100",
        "0,5B",
        "1__0",
        "10_",
        "1 000",
        "1.000,5",
        "\u0663M",
        "7B B",
        "0x10",
    ],
)
def test_what_is_not_a_positive_number_is_refused_in_one_line(text):
    with pytest.raises(QueryError, match="a positive finite number is needed") as caught:
        parse_count(text)
    assert "\n" not in str(caught.value)


def test_a_budget_with_the_unit_of_a_count_is_refused():
    assert parse_flops("2.5e9") == 2.5e9
    for text in ("7B", "1.4T", "300k", "5 M"):
        with pytest.raises(QueryError, match="a number of FLOP is needed, such as"):
            parse_flops(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.47e7, "94.7M"),
        (2.22e9, "2.22B"),
        (999.6e6, "1.00B"),
        (1234, "1.23k"),
        (55.5, "55.5"),
        (1.4e12, "1.40T"),
        (3e16, "3e16"),
        (float("inf"), "unbounded"),
    ],
)
def test_counts_are_written_with_three_digits_and_a_unit(value, text):
    assert short(value) == text


def test_every_short_count_reads_back_to_three_digits():
    for value in (1.5, 99.95, 1e3, 123456, 7.7e9, 9.994e14):
        assert parse_count(short(value)) == pytest.approx(value, rel=6e-3)


def test_powers_and_digits_are_trimmed():
    assert [power(v) for v in (1e18, 5.76e23, 2.504e13)] == ["1e18", "5.76e23", "2.5e13"]
    assert [three_digits(v) for v in (0, 9.999, 25.04, 0.01234, 3.1e7)] == [
        "0",
        "10.0",
        "25.0",
        "0.0123",
        "3.1e7",
    ]


def test_nouns_are_in_the_right_number():
    assert [count_noun(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def test_times_have_the_unit_that_reads_best():
    times = (0.4, 42, 210, 7560, 86400 * 4)
    assert [duration(t) for t in times] == ["0 s", "42 s", "3.50 min", "2.10 h", "4.00 d"]
