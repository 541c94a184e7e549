"""Tokens and passwords: refused in recipes and commands, and nowhere in what a run writes, prints and shows."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from mux.event import Notice
from mux.journal import decode, encode
from mux.secrets import REDACTED, Redacting, Secrets
from tests.security.conftest import MUX, RECIPE, REMOTE_TOKEN, SECRETS

SHAPES = {
    "hf_AbCdEfGhIjKlMnOp": "a Hugging Face token",
    "api_org_AbCdEfGhIjKlMnOp": "a Hugging Face token",
    **{f"gh{kind}_0123456789abcdefghij": "a GitHub token" for kind in "opsur"},
    "github_pat_11ABC_0123456789": "a GitHub token",
    **{f"gl{kind}-0123456789abcdefghij": "a GitLab token" for kind in ("pat", "dt", "rt", "ptt")},
    "sk-ant-0123456789abcdefghij": "an API key",
    "pypi-0123456789abcdefghij": "an API key",
    "npm_0123456789abcdefghij": "an API key",
    "AIza0123456789abcdefghij0123456789abcdefghij": "an API key",
    "AKIAIOSFODNN7EXAMPLE": "an AWS key",
    "ASIAIOSFODNN7EXAMPLE": "an AWS key",
    "xoxb-0123456789-abcdef": "a Slack token",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl": "a signed token",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "a private key",
    "https://user:pa55@example.com/x": "an address with a password",
    "postgres://user:pa55@example.com": "an address with a password",
    "https://0123456789abcdef@github.com/a/b": "an address with a password",
    "Authorization: Basic dXNlcjpwYXNzd29yZA==": "a header with credentials",
    "AUTHORIZATION=dXNlcjpwYXNzd29yZA==": "a header with credentials",
    "BEARER dXNlcjpwYXNzd29yZA==": "a header with credentials",
}
HARMLESS = (
    "hub:google-bert/bert-base-uncased@refs/convert/parquet", "path:/disk-0123456789abcdefghij/texts/*.txt",
    "ssh://git@example.com/a", "https://example.com/@user/a", "task-0123456789abcdefghij", "hf_transfer", "model.N=2",
)


# --- what is one ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("secret", "kind"), SHAPES.items())
def test_shapes(secret: str, kind: str) -> None:
    secrets = Secrets({})
    assert secrets.found(f"x = '{secret}'") == kind
    assert REDACTED in secrets.redacted(secret) and secrets.found(secrets.redacted(secret)) is None


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_one(text: str) -> None:
    assert Secrets({}).found(text) is None and Secrets({}).redacted(text) == text


def test_values_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.touch()
    secrets = Secrets({"MY_PASSWORD": "one two three", "PGPASSWORD": "postgres1", "DB_TOKEN_OLD": "one two three four",
                       "TOKENIZERS_PARALLELISM": "sometimes", "MAX_TOKENS": "12345678", "A_SECRET": "short",
                       "GOOGLE_APPLICATION_CREDENTIALS": str(path), "PWD": "/somewhere/gone", "NAME": "harmless"})
    assert secrets.found("is one two three here") == "the value of the environment variable MY_PASSWORD"
    assert secrets.redacted("one two three four, postgres1") == f"{REDACTED}, {REDACTED}"
    harmless = f"sometimes 12345678 short {path} /somewhere/gone harmless"
    assert secrets.redacted(harmless) == harmless


def test_values_in_any_case_and_script() -> None:
    for value in ("ΟΔΥΣΣΕΥΣ", "Straße 12", "İstanbul"):
        assert Secrets({"A_TOKEN": value}).redacted(f"{value}X") == f"{REDACTED}X"


def test_values_as_others_quote_them() -> None:
    value = "pass\"word\\\twith'ümlaut/"
    for spelling in (value, repr(value), json.dumps(value), json.dumps({"a": value}), quote(value, safe="")):
        assert REDACTED in Secrets({"A_TOKEN": value}).redacted(spelling)


@pytest.mark.parametrize("text", ["https://bob:{}@example.com/x", "https://{}@example.com", "Authorization: Bearer {}"])
def test_what_was_redacted_stays_as_it_is(text: str) -> None:
    """Logs are gone over once more when their job has ended."""
    assert Secrets({}).found(text.format("[redacted]")) is None
    assert Secrets({}).found(text.format("0123456789abcdef")) is not None


def test_a_key_of_many_lines_goes_whole() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"
    assert Secrets({}).redacted(f"before {key} after") == f"before {REDACTED} after"


@pytest.mark.parametrize("endless", ["-eyJ", "://:x", "bearer ", "authorization: a ", "-----BEGIN A ", "sk-", "A" * 99])
def test_no_text_takes_long(endless: str) -> None:
    """Patterns that go back and forth would take minutes here, and the hang guard of the suite would end it."""
    Secrets(SECRETS).redacted((endless * 500_000)[:500_000])


def test_a_stream_counts_what_it_was_given() -> None:
    out = io.StringIO()
    assert Redacting(out).write("hf_AbCdEfGhIjKlMnOp!") == 20 and out.getvalue() == f"{REDACTED}!"
    print("a", "ghp_0123456789abcdefghij", file=Redacting(out))
    assert out.getvalue() == f"{REDACTED}!a {REDACTED}\n"


def test_events_carry_none() -> None:
    event = decode(encode(Notice(text="GET https://user:pa55@example.com failed")))
    assert isinstance(event, Notice) and event.text == f"GET https://{REDACTED}@example.com failed"


# --- recipes and commands -------------------------------------------------------------------------------------
TOKEN = "hf_AbCdEfGhIjKlMnOp"


@pytest.mark.parametrize(("recipe", "words", "told"), [
    (f"# {TOKEN}\n{RECIPE}", [], "x.toml:1: holds a Hugging Face token"),
    (RECIPE.replace('"tiny"', f'"{TOKEN}"'), [], "x.toml:7: name: holds a Hugging Face token"),
    (RECIPE.replace('"tiny"', '"hf\\u005fAbCdEfGhIjKlMnOp"'), [], "x.toml:7: name: holds a Hugging Face token"),
    (f'"hf\\u005fAbCdEfGhIjKlMnOp" = 1\n{RECIPE}', [], "x.toml:1: holds a Hugging Face token"),
    (f"{TOKEN} = 1\n{TOKEN} = 1\n", [], "x.toml:1: holds a Hugging Face token"),
    (f"a = {TOKEN}\n", [], "x.toml:1: a: holds a Hugging Face token"),
    (f'{RECIPE}\nx = """\n{TOKEN}"""\n', [], "x.toml:68: holds a Hugging Face token"),
    (f'extends = "{TOKEN}.toml"\n', [], "x.toml:1: extends: holds a Hugging Face token"),
    (RECIPE, ["--set", f'corpus.sources=["path:{TOKEN}"]'], "--set: corpus.sources: holds a Hugging Face token"),
    (RECIPE, ["--set", 'name="hf\\u005fAbCdEfGhIjKlMnOp"'], "--set: name: holds a Hugging Face token"),
    (RECIPE, ["--set", f"{TOKEN}=1"], "--set: holds a Hugging Face token"),
    (RECIPE, ["--run-dir", f"runs/{TOKEN}"], "the command: holds a Hugging Face token"),
    (RECIPE, ["--stages", TOKEN], "the command: holds a Hugging Face token"),
    (RECIPE, ["--hostfile", TOKEN], "the command: holds a Hugging Face token"),
    (RECIPE.replace('"tiny"', '"a_pass_phrase"'), [],
     "x.toml:7: name: holds the value of the environment variable MY_PASSWORD"),
])
def test_refused_without_being_shown(refused, recipe: str, words: list[str], told: str) -> None:
    said = refused(["x.toml", *words], {"x.toml": recipe}, MY_PASSWORD="a_pass_phrase")
    assert said.startswith(f"{told}\n    keep it in the environment")
    assert TOKEN not in said and "a_pass_phrase" not in said


def test_a_file_that_quotes_one_does_not_show_it(refused) -> None:
    """What a refusal quotes of a file of rows."""
    recipe = RECIPE.replace('tasks = ["topic"]', 'tasks = ["mine"]') + (
        '[tasks.define.mine]\ntrain = "path:a.jsonl"\ntest = "path:a.jsonl"\nlabels = ["x", "y"]\n')
    said = refused(["x.toml", "--plain"], {"x.toml": recipe, "a.jsonl": f'{{"text": "a", "label": "{TOKEN}"}}\n'})
    assert f'the task\'s labels lack "{REDACTED}"' in said and TOKEN not in said


# --- a run among secrets --------------------------------------------------------------------------------------
ALL = [*SECRETS.values(), REMOTE_TOKEN]


@pytest.mark.processes
def test_the_run_directory_holds_none(guarded) -> None:
    files = [path for path in guarded.path.parent.parent.rglob("*") if path.is_file()]
    assert len(files) > 60 and any("checkpoints" in path.parts for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in ALL:
            assert secret.encode() not in content and json.dumps(secret)[1:-1].encode() not in content, path


@pytest.mark.processes
def test_ranks_and_launcher_have_said_them(guarded) -> None:
    """Else the test above would prove nothing: each said its environment, and it was taken out."""
    logs = [path.read_text(errors="surrogateescape") for path in guarded.path.glob("logs/localhost.?.log")]
    agents = (guarded.path / "logs/localhost.0.node.log").read_text(errors="surrogateescape")
    past_python = f"in C: {REDACTED}, {REDACTED} \udcff\n"
    assert len(logs) == 2 and all(past_python in text for text in (*logs, agents))
    for text in (*logs, guarded.printed):
        for name in SECRETS:
            assert f"talkative: {name}={REDACTED}" in text
        assert f"https://bob:{REDACTED}@example.com/x" in text and f"cannot log in with {REDACTED}" in text
        assert f"RuntimeError: cannot log in with {REDACTED}" in text and f"the password '{REDACTED}' is weak" in text


@pytest.mark.processes
def test_nothing_printed_and_no_process_list_shows_one(guarded) -> None:
    lines = guarded.command_lines
    assert any("mux.worker" in line for line in lines) and any("launcher.agent" in line for line in lines)
    for secret in ALL:
        assert secret not in guarded.printed and not any(secret in line for line in lines)


@pytest.mark.processes
def test_neither_report_nor_summary_nor_card_shows_one(guarded, tmp_path: Path) -> None:
    shown = b"".join(subprocess.run([MUX, *words], env=guarded.environment | {"PYTHONPATH": ""}, check=True,
                                    capture_output=True).stdout
                     for words in (["runs", "show", guarded.path], ["watch", "--replay", "--plain", guarded.path],
                                   ["report", guarded.path, "--out", tmp_path / "report"]))
    written = b"".join(path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file())
    assert len(shown) > 1000 and len(written) > 10_000
    assert not any(secret.encode() in shown + written for secret in ALL)
