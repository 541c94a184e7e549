from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.text import Text

from launcher.dashboard import figures
from launcher.dashboard.rows import bar, chart, padded

NUMBERS = [
    (figures.count, 0, "0"),
    (figures.count, 1204, "1,204"),
    (figures.count, 1204.4, "1,204"),
    (figures.count, 38.21, "38.2"),
    (figures.count, 0.519, "0.52"),
    (figures.count, None, "–"),
    (figures.short, 4.1234, "4.12"),
    (figures.short, 38.21, "38.2"),
    (figures.short, 1204.0, "1,204"),
    (figures.short, 0.3124, ".312"),
    (figures.short, -0.5, "-.500"),
    (figures.short, 4.1e-6, "4.1e-06"),
    (figures.short, 0.0, ".000"),
    (figures.short, None, "–"),
    (figures.decimal, 4.12345, "4.123"),
    (figures.decimal, 12_345.6, "12,345.600"),
    (figures.decimal, 3e9, "3.0e+09"),
    (figures.fraction, 0.3124, ".312"),
    (figures.fraction, 1.0, "1.000"),
    (figures.fraction, -0.031, "-.031"),
    (figures.percent, 0.725, "72 %"),
    (figures.rate, 9.1e-4, "9.1e-04"),
    (figures.rate, 0.0, "0"),
    (figures.size, 999, "999 B"),
    (figures.size, 812 * 2**20, "812 MiB"),
    (figures.size, 1.2 * 2**30, "1.2 GiB"),
    (figures.size, 3.5 * 2**50, "3,584.0 TiB"),
    (figures.size, None, "–"),
    (figures.duration, 34.4, "0:34"),
    (figures.duration, 3723, "1:02:03"),
    (figures.duration, 59.6, "1:00"),
    (figures.duration, 2 * 86_400 + 3 * 3600 + 240, "2 d 03:04"),
    (figures.duration, -5, "0:00"),
    (figures.duration, float("inf"), "–"),
    (figures.duration, None, "–"),
    (figures.interval, 0.0012, "1.2 ms"),
    (figures.interval, 0.026, "26 ms"),
    (figures.interval, 1.236, "1.24 s"),
    (figures.interval, 75.0, "75 s"),
    (figures.age, 3.9, "3 s"),
    (figures.age, 119, "119 s"),
    (figures.age, 250, "4 min"),
    (figures.age, 7300, "2 h"),
    (figures.age, 5 * 86_400, "5 d"),
    (figures.age, -3, "0 s"),
    (figures.clock, 1_800_000_000.0, "08:00:00"),
    (figures.clock, 1e300, "--:--:--"),
    (figures.numbers, [0, 1, 2, 3, 6], "0-3, 6"),
    (figures.numbers, [], ""),
]


@pytest.mark.parametrize(("write", "value", "text"), NUMBERS)
def test_numbers(write: Callable[[object], str], value: object, text: str) -> None:
    assert write(value) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m and \x1b]0;title\x07bell\x07", "red and bell"),
        ("two\nlines\tand\r\nmore  ", "two lines and more"),
        ("\x9b31mC1 \u202eright-to-left \ud800half", "31mC1 right-to-left half"),
        ("[red]markup[/red] :smile: 日本語 ± ß", "[red]markup[/red] :smile: 日本語 ± ß"),
        (None, "None"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert figures.clean(text) == cleaned


def test_a_page_of_error_is_one_bounded_line() -> None:
    text = figures.clean("word \n" * 100_000)
    assert len(text) == figures.LONGEST and text.endswith("…")


def test_chart_has_the_largest_value_on_top() -> None:
    assert chart([8, 4, 0], 3, 1) == ["█▄▁"]
    assert chart([16, 8, 0], 3, 2) == ["█  ", "██▁"]
    assert chart([1, 1], 4, 1) == ["▄▄▄▄"]
    assert chart([], 3, 2) == ["   ", "   "]
    assert chart([0, 8, 8, 0], 2, 1) == ["▄▄"]  # means of 4 and 4
    assert chart([-1e308, 1e308], 2, 1) == ["▄▄"]


def test_bar() -> None:
    assert [bar(share, 4).plain for share in (0, 0.5, 0.6, 1, 7, -1)] == [
        "────",
        "━━──",
        "━━╸─",
        "━━━━",
        "━━━━",
        "────",
    ]


def test_padded_counts_cells() -> None:
    assert padded(Text("日本語"), 5).plain == "日本…" and padded(Text("日本"), 5).plain == "日本 "
    assert padded(Text("ab"), 4, right=True).plain == "  ab" and padded(Text("abc"), 0).plain == ""
