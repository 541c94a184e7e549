"""How keys, values and lists are written in refusals, and which real word a misspelt one is like."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from mux.recipe.positions import Path

_BARE = re.compile(r"[A-Za-z0-9_-]{1,80}")
_SHOWN_PARTS, _SHOWN_LETTERS = 8, 60  # of a key or value that nobody wants to read whole
_COMPARED = 300  # options; comparing with more takes long


def short_commit(commit: str) -> str:
    """Seven digits, and the "+" of a checkout that differed from it."""
    return commit[:7] + "+" * commit.endswith("+")


def dotted(path: Path) -> str:
    """`stages.pretrain.adam_betas[0]`; parts are quoted where TOML needs it, and endless keys are cut."""
    if len(path) > _SHOWN_PARTS:
        return f"{dotted(path[:_SHOWN_PARTS])}..."
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else shown(part))
    return text


def shown(value: Any) -> str:
    """A value as TOML writes it: on one line, with nothing that a terminal would obey, cut where endless."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        items = ["[...]" if isinstance(item, list | tuple) else shown(item) for item in value[:8]]
        return f"[{', '.join(items + ['...'] * (len(value) > 8))}]"
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN_LETTERS else f"{value[:_SHOWN_LETTERS]}..."
        return printable(json.dumps(cut, ensure_ascii=False))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return str(value)


def printable(text: str) -> str:
    return text if text.isprintable() else "".join(
        letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def some(words: Iterable[str], most: int = 20) -> str:
    """`a, b, c` or, of many, `a, b, ...`: words of the user's, so without what a terminal would obey."""
    words = list(words)
    return printable(", ".join(words[:most] + ["..."] * (len(words) > most))) or "none"


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else "none"


def reason(error: Exception) -> str:
    """The first line of what an error says, or else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: Any, options: Iterable[str]) -> str | None:
    """The option most like a misspelt word, if one is like it and there are not too many."""
    if not isinstance(word, str) or len(word) > 100:
        return None
    by_lower = {option.lower(): option for option in options}
    if len(by_lower) > _COMPARED:
        return None
    found = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=0.66)
    return by_lower[found[0]] if found else None


def did_you_mean(word: Any, options: Iterable[str], what: str) -> str:
    """A hint: the nearest option, else all of them. `what` names the options: "kinds of stage"."""
    options = list(options)
    near = nearest(word, options)
    return f"did you mean {shown(near)}?" if near else f"{what}: {some(options)}"
