"""Who may know what (design section 3): launcher -> mux.{recipe,event,run}; stages -> train, data, model."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "deepspeed", "transformers", "datasets", "tokenizers", "sentencepiece", "numpy"}
LIGHT = ("mux.recipe", "mux.event", "mux.journal", "mux.plan", "mux.run", "mux.size", "mux.trace", "mux.manifest",
         "mux.secrets", "mux.handshake", "mux.disk")  # what the launcher may import

# layer -> what it may import of the project
ALLOWED = {
    "mux.recipe": ("mux.recipe", "mux.size", "mux.secrets"),
    "mux.event": (),
    "mux.journal": ("mux.event", "mux.content"),
    "mux.content": ("mux.secrets",),
    "mux.secrets": (),
    "mux.handshake": (),
    "mux.disk": (),
    "mux.plan": (),
    "mux.run": ("mux.plan",),
    "mux.size": (),
    "mux.trace": (),
    "mux.manifest": ("mux.run",),
    "mux.rank": ("mux.event", "mux.journal", "mux.run", "mux.secrets"),
    "mux.model": ("mux.model", "mux.size"),
    "mux.data": ("mux.data", "mux.recipe"),
    "mux.train": ("mux.train", "mux.event", "mux.journal", "mux.run", "mux.model", "mux.trace", "mux.manifest",
                  "mux.disk"),
    "mux.hub": ("mux.hub", "mux.model", "mux.data", "mux.recipe", "mux.plan", "mux.run"),
    "mux.predict": ("mux.predict", "mux.hub", "mux.model", "mux.data", "mux.recipe"),
    "mux.report": ("mux.report", "mux.run", "mux.recipe", "mux.event"),
    "mux.stages": ("mux.stages", "mux.train", "mux.hub", "mux.data", "mux.model", "mux.recipe", "mux.event", "mux.plan",
                   "mux.run", "mux.rank", "mux.size", "mux.manifest"),
    "mux.worker": ("mux.stages", "mux.train", "mux.recipe", "mux.event", "mux.plan", "mux.run", "mux.rank"),
    # Its heavy imports are inside the functions, as a test below sees.
    "launcher.model_commands": ("launcher", *LIGHT, "mux.hub", "mux.predict", "mux.stages"),
    "launcher.report_commands": ("launcher", *LIGHT, "mux.report"),
    "launcher.choices": ("launcher", *LIGHT, "mux.report"),
    "launcher": ("launcher", *LIGHT),
}


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            module = node.module or ""
            # `from mux import event` imports mux.event
            found += [f"{module}.{alias.name}" for alias in node.names] if module in ("mux", "launcher") else [module]
    return found


def modules() -> dict[str, Path]:
    files = [path for folder in ("mux", "launcher") for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def within(name: str, layers: tuple[str, ...]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def test_no_arrow_is_reversed():
    found = modules()
    assert len(found) > 60
    wrong = []
    for name, path in found.items():
        layer = next((layer for layer in ALLOWED if within(name, (layer,))), None)
        if layer is None:
            assert name in ("mux", "launcher"), f"{name} has no layer"
            continue
        for imported in imports(path):
            ours = imported.split(".")[0] in ("mux", "launcher")
            if ours and not within(imported, ALLOWED[layer]):
                wrong.append(f"{name} imports {imported}")
    assert not wrong, wrong


def test_only_the_engine_knows_deepspeed():
    knowing = [name for name, path in modules().items()
               if any(imported.split(".")[0] == "deepspeed" for imported in imports(path))]
    assert knowing == ["mux.train.engine"]


def test_the_model_knows_no_deepspeed_no_data_no_recipe_at_run_time():
    code = ("import sys, mux.model; "
            "print(sorted(n for n in sys.modules if n.split('.')[0] == 'deepspeed' or n.startswith(('mux.data', "
            "'mux.recipe', 'mux.train', 'launcher'))))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_refusals_dry_runs_and_help_import_nothing_heavy():
    code = f"""
import sys
from launcher import cli
for words in (["recipes/bert_large_n2.toml", "--hostfile", "hostfiles/8x_a100.txt", "--dry-run"], ["--help"],
              ["recipes/none.toml"], ["recipes/quickstart.toml", "--set", "model.Q=1"]):
    try:
        cli.launch(words, standalone_mode=False)
    except SystemExit:
        pass
    assert not (set({HEAVY!r}) & set(sys.modules)), words
for words in (["--help"], ["predict", "--help"], ["report", "--help"], ["choose", "--help"],
              ["import", "princeton", "--help"], ["runs", "ls"]):
    try:
        cli.mux(words, standalone_mode=False)
    except SystemExit:
        pass
    assert not (set({HEAVY!r}) & set(sys.modules)), words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "a100-08" in done.stdout and "no such" in done.stderr and "model.Q" in done.stderr
