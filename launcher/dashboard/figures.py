"""Numbers and names as people read them: 1,204 and .312 and 0:34, and text that cannot steer a terminal.

Every function takes None (a number that was not finite is written as null) and answers with a dash.
"""

from __future__ import annotations

import re
import time
import unicodedata

from mux.secrets import redacted

DASH = "–"
LONGEST = 400  # characters of one text; an error message can be a whole page

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS, ...: titles, links, with their text
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)


def clean(text: object) -> str:
    """One line of printable characters: no terminal escapes, controls, direction marks, lone surrogates or secrets."""
    line = _ESCAPES.sub("", str(text)[: 4 * LONGEST])
    if not (line.isascii() and line.isprintable()):
        line = "".join(_printable(character) for character in line)
    line = redacted(" ".join(line.split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zl", "Zp", "Zs") or character in "\t\n\r\v\f":
        return " "
    return "" if category in ("Cc", "Cf", "Co", "Cs", "Cn") else character


def count(value: float | None) -> str:
    """1,204 or 38.2 or 0.52: thousands separators, and three digits where the number is small."""
    if value is None:
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 or value == 0 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def short(value: float | None) -> str:
    """Three significant digits: 4.12, 38.2, 1,204, .312, 4.1e-06."""
    if value is None:
        return DASH
    size = abs(value)
    if value and (size < 0.001 or size >= 1e7):
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:,.0f}"
    return _without_zero(f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}")


def decimal(value: float | None, digits: int = 3) -> str:
    """A fixed number of digits, so that a number that is redrawn does not dance: 4.123, 0.087."""
    if value is None:
        return DASH
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:,.{digits}f}"


def fraction(value: float | None, digits: int = 3) -> str:
    """An accuracy or another metric of at most 1, as the paper prints it: .312, 1.000, -.031."""
    return DASH if value is None else _without_zero(f"{value:.{digits}f}")


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def rate(value: float | None) -> str:
    """A learning rate: 9.1e-04."""
    return DASH if value is None else "0" if value == 0 else f"{value:.1e}"


def size(value: float | None) -> str:
    """Bytes: 812 MiB, 1.2 GiB."""
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1000:
            return f"{value:.1f} {unit}" if unit != "B" and abs(value) < 9.95 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def duration(seconds: float | None) -> str:
    """0:34, 1:02:03, 2 d 03:04; a dash for what is longer than centuries."""
    if seconds is None or not seconds < 1e10:
        return DASH
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours < 1:
        return f"{minute}:{second:02}"
    if hours < 48:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{hours // 24:,} d {hours % 24:02}:{minute:02}"


def interval(seconds: float | None) -> str:
    """A short time: 26 ms, 1.24 s, 0.8 s as 800 ms."""
    if seconds is None:
        return DASH
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms" if seconds < 0.0095 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:,.0f} s"


def age(seconds: float) -> str:
    """How long ago, in its largest unit: 3 s, 4 min, 2 h, 5 d."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def clock(moment: float) -> str:
    """The local time of day, 12:03:04."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(moment))
    except (OverflowError, OSError, ValueError):
        return "--:--:--"


def numbers(values: list[int]) -> str:
    """Runs of consecutive numbers put together: 0-3, 6."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _without_zero(text: str) -> str:
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
