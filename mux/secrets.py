"""Secrets: what looks like one is refused in recipes and never printed. Standard library only.

A run keeps its recipe, its plan and all it prints; run directories are copied, shown and given to others. So a secret
is either the value of an environment variable whose name says so, or a text of a shape that services give to theirs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, TextIO
from urllib.parse import quote

REDACTED = "[redacted]"
SHORTEST = 8  # characters of a variable's value: shorter ones are found in any text

_NAMES = re.compile(
    r"(?:TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|PWD|(?:API|ACCESS|PRIVATE)_?KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE
)
_NO_SECRETS = ("PWD", "OLDPWD")  # every shell has them: where it is

# What it is -> parts of which it has one, in lower case, and how it reads. Each begins where no word goes on, so that
# "disk-" is no "sk-".
_SHAPES = {
    "a Hugging Face token": (("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{10,}"),
    "a GitHub token": (("gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_"),
                       r"\b(?:gh[opsur]_[A-Za-z0-9]{10,}|github_pat_\w{10,})"),
    "a GitLab token": (("glpat-", "gldt-", "glrt-", "glptt-"), r"\bgl(?:pat|dt|rt|ptt)-[\w-]{10,}"),
    "an API key": (("sk-", "pypi-", "aiza", "npm_"),
                   r"\b(?:sk|pypi)-[\w-]{16,}|\bAIza[\w-]{30,}|\bnpm_[A-Za-z0-9]{20,}"),
    "an AWS key": (("akia", "asia"), r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Slack token": (("xox",), r"\bxox[a-z]-[\w-]{10,}"),
    "a signed token": (("eyj",), r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?"),
    "a private key": (("private key-----",),
                      r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
    "an address with a password": (
        ("://",),
        r"(?<=://)[^\s/:@]*:(?!\[redacted\]@)[^\s/@]+(?=@)|(?<=http://)[^\s/:@\[]+(?=@)|(?<=https://)[^\s/:@\[]+(?=@)"),
    "a header with credentials": (
        ("authorization", "bearer "),
        r"(?i:\bauthorization['\"]?\s*[:=]\s*['\"]?(?:\w+ )?|\bbearer )[\w.~+/=-]{10,}"),
}


class Secrets:
    """The secrets of one environment, and everything that has the shape of one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """A variable that names a file is no secret: the file may be one."""
        self._variables = {spelling: name for name, value in environment.items()
                           if _NAMES.search(name) and name not in _NO_SECRETS and len(value) >= SHORTEST
                           and not os.path.exists(value) for spelling in _spellings(value)}
        longest_first = sorted(self._variables, key=len, reverse=True)  # one may begin with another
        shapes = (f"(?P<shape{index}>{shape})" for index, (_, shape) in enumerate(_SHAPES.values()))
        self._pattern = re.compile("|".join((*map(re.escape, longest_first), *shapes)), re.DOTALL)
        parts = (part for parts, _ in _SHAPES.values() for part in parts)
        self._parts = (*parts, *(spelling.casefold() for spelling in self._variables))

    def found(self, text: str) -> str | None:
        """What secret is in a text, in words that do not give it away: "a GitHub token", "the value of MY_PASSWORD"."""
        match = self._pattern.search(text) if self._suspect(text) else None
        if match is None:
            return None
        if match.lastgroup is None:
            return f"the value of the environment variable {self._variables[match.group()]}"
        return list(_SHAPES)[int(match.lastgroup.removeprefix("shape"))]

    def redacted(self, text: str) -> str:
        """The text with its secrets replaced."""
        return self._pattern.sub(REDACTED, text) if self._suspect(text) else text

    def _suspect(self, text: str) -> bool:
        """Whether there may be one: far quicker than the pattern, and of most texts it says no."""
        folded = text.casefold()
        return any(part in folded for part in self._parts)


def _spellings(value: str) -> set[str]:
    """A value as it is, and as Python, JSON and addresses quote it."""
    return {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe="", errors="surrogateescape")}


@cache
def ours() -> Secrets:
    """Those of this process, as it was started."""
    return Secrets(os.environ)


def found(text: str) -> str | None:
    return ours().found(text)


def redacted(text: str) -> str:
    return ours().redacted(text)


def redact_output(*names: Literal["stdout", "stderr"]) -> None:
    """From now on, no secret goes out through these streams of `sys`, tracebacks and what libraries print included."""
    for name in names:
        stream = getattr(sys, name)
        if not isinstance(stream, Redacting | None):
            setattr(sys, name, Redacting(stream))


class Redacting:
    """A text stream that writes no secret; in all else it is the stream it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
