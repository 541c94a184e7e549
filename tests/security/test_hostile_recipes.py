"""Hostile recipes, changes and places through the real command: one clear block, exit status 2, nothing written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.conftest import RECIPE

Refused = Callable[..., str]


def changed(old: str, new: str) -> str:
    assert old in RECIPE, old
    return RECIPE.replace(old, new, 1)


def with_rate(value: str) -> str:
    return changed("learning_rate = 1e-3", f"learning_rate = {value}")


def with_steps(value: str) -> str:
    return changed("steps = 6", f"steps = {value}")


def named(name: str) -> str:
    return changed('name = "tiny"', f"name = {name}")


RATE, STEPS = "x.toml:29: stages.retrieval.learning_rate:", "x.toml:27: stages.retrieval.steps:"
NAME = "x.toml:7: name: is "

# --- what the file holds ----------------------------------------------------------------------------------------
TEXTS: dict[str, tuple[str | bytes, str]] = {
    "500 nested arrays": (f"x = {'[' * 500}{']' * 500}\n{RECIPE}", "x.toml:1: is nested too deeply"),
    "300 nested inline tables": (f"x = {'{a = ' * 300}1{'}' * 300}\n{RECIPE}", "x.toml:1: x: is not a key"),
    "a key of 1000 parts": (f"{'.'.join('a' * 1000)} = 1\n{RECIPE}", "x.toml:1: a: is not a key"),
    "a table of 1000 parts": (f"{RECIPE}\n[{'.'.join('a' * 1000)}]\n", "x.toml:67: a: is not a key"),
    "an integer of 5000 digits": (with_steps("9" * 5000), "x.toml:27: has an integer of too many digits"),
    "a hexadecimal of 5000 digits": (with_steps("0x" + "f" * 5000), f"{STEPS} must be at most 1e+12, is a number of"),
    "an octal that is too large": (with_steps("0o" + "7" * 40), f"{STEPS} must be at most 1e+12"),
    "NaN": (with_rate("nan"), f"{RATE} must be a finite number, is nan"),
    "infinity": (with_rate("inf"), f"{RATE} must be a finite number, is inf"),
    "minus infinity": (with_rate("-inf"), f"{RATE} must be a finite number, is -inf"),
    "1e400": (with_rate("1e400"), f"{RATE} must be a finite number, is inf"),
    "1e-400": (with_rate("1e-400"), f"{RATE} must be more than 0, is 0.0"),
    "minus zero": (with_rate("-0.0"), f"{RATE} must be more than 0, is -0.0"),
    "a truth for a number": (with_rate("true"), f"{RATE} must be a number, is true"),
    "a text for a number": (with_rate('"1e-3"'), f'{RATE} must be a number, is "1e-3"'),
    "a date for a number": (with_rate("1979-05-27"), f"{RATE} must be a number, is 1979-05-27"),
    "a time for a number": (with_steps("07:32:00"), f"{STEPS} must be a whole number, is 07:32:00"),
    "a moment for a number": (with_steps("1979-05-27T07:32:00Z"), f"{STEPS} must be a whole number, is 1979-05-27"),
    "a truth for a whole number": (with_steps("true"), f"{STEPS} must be a whole number, is true"),
    "no steps": (with_steps("0"), f"{STEPS} must be at least 1, is 0"),
    "minus no steps": (with_steps("-0"), f"{STEPS} must be at least 1, is 0"),
    "N = 0": (changed("N = 2", "N = 0"), "x.toml:11: model.N: must be at least 1, is 0"),
    "N = 10^12": (changed("N = 2", "N = 1000000000000"),
                  "x.toml:19: corpus.sources: 963144 bytes of text do not fill a group"),
    "batch that devices do not divide": (changed("batch = 4", "batch = 3"),
                                         "x.toml:28: stages.retrieval.batch: batch 3 is"),
    "a key twice": (f"{RECIPE}\n[model]\n", "x.toml:67: model: is given twice, first in line 9"),
    "not UTF-8": (RECIPE.encode() + b"# \xff\n", "x.toml:66: is not UTF-8: byte 0xff"),
    "NUL": (f"{RECIPE}# \0\n", "x.toml:66: is not TOML, column 3: found invalid character"),
    "100 MB": (b"#" * 100_000_000, "x.toml: is larger than 200_000 bytes, which no recipe is"),
    "20,000 keys": ("".join(f"k{i}=1\n" for i in range(20_000)), "x.toml: name: is missing"),
    "20,000 tables": ("".join(f"[k{i}]\n" for i in range(20_000)), "x.toml: name: is missing"),
    "a key of controls and directions": (f'"\\u001b[31m\\u202e\\u0000\\u200b" = 1\n{RECIPE}',
                                         'x.toml:1: "\\u001b[31m\\u202e\\u0000\\u200b": is not a key'),
    "unknown keys, deep": (changed("trials = 2", "trials = 2\nmodels = {sizes = 1}"),
                           "x.toml:63: stages.throughput.models.sizes: is not a key"),
    "no corpus": (changed('["builtin:wiki_leads"]', "[]"), "x.toml:19: corpus.sources: is empty"),
    "an address for a corpus": (changed("builtin:wiki_leads", "http://x/y"),
                                'x.toml:19: corpus.sources[0]: "http://x/y" is none of'),
    "a command for a corpus": (changed("builtin:wiki_leads", "path:$(touch p)`touch p`;touch p"),
                               'x.toml:19: corpus.sources: "path:$(touch p)`touch p`;touch p" matches no file'),
    "a device for a corpus": (changed("builtin:wiki_leads", "path:/dev/zero"),
                              'x.toml:19: corpus.sources: "path:/dev/zero" matches no file'),
    "a memory for a corpus": (changed("builtin:wiki_leads", "path:/proc/self/mem"), "/proc/self/mem: must be a .txt"),
    "a line break in a path": (changed("builtin:wiki_leads", "path:a\\nb"),
                               'x.toml:19: corpus.sources[0]: is "path:a\\nb"'),
    "a stage outside": (changed('kind = "retrieval"', 'kind = "retrieval"\nid = "../x"'),
                        'x.toml:27: stages."../x".id: is "../x"'),
    "a task outside": (changed('["topic"]', '["../x"]'),
                       'x.toml:44: stages.finetune.tasks[0]: "../x" is no known task'),
    "10^9 layers": (changed("layers = 2", "layers = 1000000000"), "GB"),
    "10^12 ranks": (changed("processes = 2", "processes = 1000000000000"),
                    "x.toml:23: cluster.processes: 1,000,000,000,000 are more than 1,024 ranks on one host"),
    "10^12 tickets": (changed("tickets = 2", "tickets = 1000000000000"),
                      "x.toml:49: stages.finetune.tickets: 1,000,000,000,000 are more than 1,000 tickets"),
    "20,000 seeds": (changed('["topic"]', f'["topic"]\nseeds = [{",".join(map(str, range(20_000)))}]'),
                     "x.toml:42: stages.finetune: 20,000 are more than 2,000 trainings"),
    "10^6 points": (changed("tickets = 2", "search = {learning_rate = [" + ",".join(f"{i}e-9" for i in range(1, 1001))
                            + "], batch = [" + ",".join(map(str, range(2, 1002))) + "]}"),
                    "x.toml:42: stages.finetune: 1,000,000 are more than 2,000 trainings"),
    "1500 stages": (RECIPE + "".join(f'[[stages]]\nid = "s{i}"\nkind = "pretrain"\nsteps = 9\n' for i in range(1500)),
                    "x.toml:25: stages: 1,505 are more than 100 stages"),
    "nodes without end": (f"{RECIPE}[slurm]\nnodes = 1000000\n",
                          "x.toml:67: slurm.nodes: 1,000,000 are more than 10,000 nodes"),
}


@pytest.mark.parametrize(("text", "told"), TEXTS.values(), ids=TEXTS)
def test_texts(refused: Refused, text: str | bytes, told: str) -> None:
    assert told in refused(["x.toml", "--plain"], {"x.toml": text})


@pytest.mark.parametrize("name", [
    '"../x"', '"/etc/x"', r'"a\u0000b"', '"-rf"', f'"{"x" * 300}"', r'"a\nb"', r'"a\u001b[31mb"', r'"a\u202eb"',
    '"[link=http://x]y[/link]"', '"$(touch p)"', '"`touch p`"', "\"a'b\"", r'"a\"b"', '"%h"', '".."', '"~"', '""',
])
def test_names(refused: Refused, name: str) -> None:
    said = refused(["x.toml", "--plain"], {"x.toml": named(name)})
    assert said.startswith(NAME) and said.endswith("and begins with a letter or a digit")


@pytest.mark.parametrize(("text", "told"), [
    ("hello world\n", "x.toml:19: corpus.sources: 12 bytes of text do not fill a group of rows: 28 tokens"),
    ("", "x.toml:19: corpus.sources: the corpus has no text in it"),
    (b"\xff\xfe\n", "t.txt:1: is not UTF-8: byte 0xff"),
])
def test_corpora(refused: Refused, text: str | bytes, told: str) -> None:
    recipe = changed("builtin:wiki_leads", "path:t.txt")
    assert told in refused(["x.toml", "--plain"], {"x.toml": recipe, "t.txt": text})


# --- bases ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("base", "files", "told"), [
    ("y.toml", {"y.toml": 'extends = "x.toml"'},
     "y.toml:1: extends: goes round in a circle: x.toml -> y.toml -> x.toml"),
    ("x.toml", {}, "x.toml:1: extends: goes round in a circle"),
    ("z.toml", {}, "x.toml:1: extends: z.toml: no such file"),
    ("/dev/zero", {}, "x.toml:1: extends: /dev/zero: is not a regular file"),
    ("/etc", {}, "x.toml:1: extends: /etc: is a directory, not a recipe"),
    ("/etc/passwd", {}, "/etc/passwd:1: is not TOML"),
    (r"a\u0000b", {}, r"x.toml:1: extends: a\u0000b: cannot be read: embedded null byte"),
    (r"a\u001b[31mb", {}, r"x.toml:1: extends: a\u001b[31mb: no such file"),
    ("a/" * 3000, {}, "cannot be read: file name too long"),
    ("b.toml", {"b.toml": b"#" * 50_000_000}, "x.toml:1: extends: b.toml: is larger than 200_000 bytes"),
    ("0.toml", {f"{i}.toml": f'extends = "{i + 1}.toml"' for i in range(100)},
     "18.toml:1: extends: is one base too many"),
    ("0.toml", {f"{i}.toml": f'extends = "{i + 1}.toml"\n{"#" * 190_000}' for i in range(3)},
     "0.toml:1: extends: is one base too many"),
])
def test_bases(refused: Refused, base: str, files: dict[str, str | bytes], told: str) -> None:
    assert told in refused(["x.toml"], {"x.toml": f'extends = "{base}"\n'} | files)


# --- changes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("change", "told"), [
    ("model.N=nan", "--set: model.N: must be a whole number, is nan"),
    ("model.N=1e400", "--set: model.N: must be a whole number, is inf"),
    ("model.N=-0", "--set: model.N: must be at least 1, is 0"),
    ("", "--set:  is not KEY=VALUE"),
    ("=", "--set: = is not KEY=VALUE"),
    ("..a=1", "--set: ..a=1 has a key that TOML does not read"),
    (f"{'.'.join('a' * 1000)}=1", "--set: a: is not a key"),
    (f"x={'[' * 5000}", "has a value that TOML does not read"),
    (f"model.N={'9' * 5000}", "--set: model.N: must be a whole number, is \"9999"),
    ("a" * 20_000, "is longer than 10_000 characters"),
    ("model.N=1\nmodel.size=2", '--set: model.N: must be a whole number, is "1\\nmodel.size=2"'),
    ("\x1b[31m\u202e=1", "--set: \\u001b[31m\\u202e=1 has a key that TOML does not read"),
    (r'name="a\u0000b"', r'--set: name: is "a\u0000b"'),
    ("name=$(touch p)", '--set: name: is "$(touch p)"'),
    ("name=../x", '--set: name: is "../x"'),
    ("extends=/etc/passwd", "--set: extends: belongs in a recipe file"),
    ("stages=[]", "--set: stages: is not a key"),
    ('stages."../x".steps=1', '--set: stages."../x".steps: "../x" is no stage of this recipe'),
    ("stages.retrieval.id=x", "--set: stages.retrieval.id: belongs in a recipe file"),
    ("model.__class__=1", "--set: model.__class__: is not a key"),
    ("[x]\na=1", "has a key that TOML does not read"),
])
def test_changes(refused: Refused, change: str, told: str) -> None:
    assert told in refused(["x.toml", "--plain", "--set", change], {"x.toml": RECIPE})


# --- what the words of the command name -------------------------------------------------------------------------
def fifo(path: Path) -> None:
    os.mkfifo(path)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(("make", "told"), [
    (fifo, "x.toml: is not a regular file"),
    (listener, "x.toml: is not a regular file"),
    (circle, "x.toml: cannot be read: too many levels of symbolic links"),
    (Path.mkdir, "x.toml: is a directory, not a recipe"),
    (lambda path: path.symlink_to("/dev/zero"), "x.toml: is not a regular file"),
    (lambda path: path.symlink_to("gone.toml"), "x.toml: no such file"),
])
def test_recipes_that_are_no_files(refused: Refused, tmp_path: Path, make: Callable, told: str) -> None:
    make(tmp_path / "x.toml")
    assert refused(["x.toml"]).startswith(told)


@pytest.mark.parametrize(("path", "told"), [
    ("/dev/zero", "/dev/zero: is not a regular file"),
    ("/dev/stdin", "/dev/stdin: is not a regular file"),
    ("-", "-: no such file"),
    ("", ".: is a directory, not a recipe"),
    ("a\nb\x1b[31m.toml", "a\\u000ab\\u001b[31m.toml: no such file"),
    ("[link=x]a[/].toml", "[link=x]a[/].toml: no such file"),
    ("a" * 5000, "cannot be read: file name too long"),
])
def test_paths_of_recipes(refused: Refused, path: str, told: str) -> None:
    assert told in refused(["--", path])


@pytest.mark.parametrize(("make", "told"), [
    (Path.touch, "run: cannot be used: Not a directory"),
    (fifo, "run: cannot be used: Not a directory"),
    (circle, "run: cannot be used: Too many levels of symbolic links"),
    (lambda path: path.symlink_to("/nonexistent/y"), "run: cannot be used: No such file or directory"),
    (lambda path: path.symlink_to("/etc/passwd"), "run: cannot be used: Not a directory"),
    (lambda path: path.symlink_to("/etc"), "run: this folder holds files, but no run"),
])
def test_run_directories(refused: Refused, tmp_path: Path, make: Callable, told: str) -> None:
    make(tmp_path / "run")
    assert told in refused(["x.toml", "--run-dir", "run"], {"x.toml": RECIPE})


@pytest.mark.parametrize(("words", "told"), [
    (["--run-dir", "/dev/null/x"], "/dev/null/x: cannot be"),
    (["--run-dir", "a" * 300], ": cannot be used: File name too long"),
    (["--stages", "../x,\x1b[31m"], "--stages: there is no stage '../x'"),
    (["--resume", "\x1b[31m"], r"--resume: '\x1b[31m' is not one of"),
])
def test_options(refused: Refused, words: list[str], told: str) -> None:
    assert told in refused(["x.toml", *words], {"x.toml": RECIPE})


def test_others_rights(refused: Refused, tmp_path: Path) -> None:
    """A run directory of another user's; only root can make one."""
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 12345, 12345)
    assert "run: belongs to another user" in refused(["x.toml", "--run-dir", "run"], {"x.toml": RECIPE})
