"""The dry run's text: the facts of a plan, the origins of its values, nothing that a terminal would obey."""

import re
import shlex
from pathlib import Path

import pytest

from launcher import gpu, hostfile, plan, preview, process
from mux.plan import Plan
from mux.recipe import Loaded, load
from mux.recipe.digest import leaves

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setattr(gpu, "installed", list)


def made(name: str, *changes: str, hosts: str | None = None) -> tuple[Plan, Loaded]:
    loaded = load(ROOT / "recipes" / name, changes)
    cluster = hostfile.read(ROOT / "hostfiles" / hosts) if hosts else hostfile.this_host(2)
    return plan.make(loaded, cluster, Path("/runs") / loaded.recipe.name), loaded


def rendered(name: str, *changes: str, hosts: str | None = None) -> str:
    return preview.render(*made(name, *changes, hosts=hosts))


def section(text: str, title: str) -> str:
    """The body under an underlined title."""
    return text.partition(f"\n{title}")[2].partition("\n")[2].partition("\n")[2].partition("\n\n")[0]


def test_the_papers_recipe_on_64_devices():
    text = rendered("bert_large_n2.toml", hosts="8x_a100.txt")
    for fact in (
        "bert_large_n2: dry run, nothing was started",
        "bert LARGE, N = 2\n",
        "24 layers x 1024, 16 heads, intermediate 4096",
        "338,330,426 (2,048 of them frozen keys)",
        "8 hosts x 8 slots = 64 devices (cuda)",
        "256 groups = 64 devices x 4 micro batch x 1 accumulation\n"
        "  = 512 instances of N = 2, 262,144 tokens a step",
        "1,000,000 steps = 512,000,000 instances",
        "learning rate 0 to 1e-4 in 10,000 steps, then linearly to 0 at 1,000,000",
        "job 0: 8 hosts x 8 slots = 64 ranks",
        "|- a100-08  ranks 56-63",
        "`- stage pretrain, from retrieval",
        '"train_micro_batch_size_per_gpu": 4',
        "1        0.68 GB     0.68 GB    63.44 MB",
        "pretrain/checkpoints/",
    ):
        assert fact in text


def test_one_host():
    text = rendered("bert_large_n2.toml", hosts="one_host_8x_a100.txt")
    assert "256 groups = 8 devices x 32 micro batch x 1 accumulation" in text
    assert "|- localhost  ranks 0-7" in text


def test_every_value_has_its_origin():
    planned, loaded = made("bert_large_n2.toml", "stages.pretrain.steps=500_000", hosts="8x_a100.txt")
    body = section(preview.render(planned, loaded), "Values, and where each comes from")
    origins = r"(default|--set|\S+\.toml:\d+)$"
    shown = [line for line in body.splitlines() if re.search(origins, line)]
    assert len(shown) == sum(value not in (None, {}) for value in leaves(planned.recipe).values())
    assert re.search(r"\[stages.pretrain\]\n(  .*\n)*  steps +500_000 +--set\n", body)
    assert re.search(r'\[model\]\n(  .*\n)*  size +"LARGE" +\S+bert_large_n1.toml:\d+\n', body)
    assert re.search(r"\[engine\]\n(  .*\n)*  gradient_clipping +\S+ +default\n", body)


def test_all_commands_are_the_ones_that_are_started():
    planned, loaded = made("bert_large_n2.toml", hosts="8x_a100.txt")
    lines = section(preview.render(planned, loaded), "Commands").splitlines()
    expected = [line for job in planned.jobs
                for line in (f"job {job.id}:", *map(shlex.join, process.host_commands(planned, job, None)))]
    assert lines == expected
    assert len(lines) == 9 + 2 * len(planned.stage("finetune").trainings) + 2
    assert all(line.startswith("ssh ") and "--port=PORT" in line for line in lines[1:9])


def test_a_local_command_shows_the_variables_it_is_given():
    planned, loaded = made("quickstart.toml")
    line = section(preview.render(planned, loaded), "Commands").splitlines()[1]
    words = shlex.split(line)
    assert words[0] == "env" and "DS_ACCELERATOR=cpu" in words
    assert words[-4:] == ["-m", "mux.worker", "/runs/quickstart", "0"]


def test_nothing_secret_is_printed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_secret")
    for hosts in (None, "8x_a100.txt"):
        assert "secret" not in rendered("bert_large_n2.toml", hosts=hosts)


def test_finetuning_in_words():
    body = section(rendered("bert_large_n2.toml", hosts="8x_a100.txt"), "Batches and schedules")
    finetune = body.partition("\nfinetune\n")[2]
    assert "16 groups = 1 device x 16 micro batch x 1 accumulation\n  = 32 instances of N = 2" in finetune
    assert "64 groups = 1 device x 32 micro batch x 2 accumulation" in finetune
    assert "  2,000 steps for rte, wnli\n" in finetune
    assert "x 1 seed x 4 points of the search = 1,256,000 steps in all" in finetune
    assert "learning rate 0 to 2e-5 or 5e-5 in the first 10 % of the steps" in finetune


def test_sizes_by_stage():
    planned, loaded = made("quickstart.toml")
    text = preview.render(planned, loaded)
    memory = section(text, "Memory per device, an estimate")
    assert [line for line in memory.splitlines() if not line.startswith(" ")] == [
        "retrieval, on 2 devices", "pretrain, on 2 devices", "finetune, on 1 device"]
    assert [line.split()[0] for line in memory.splitlines() if line.endswith("<- recipe")] == ["1", "1", "1"]
    total = f"at most {planned.disk_bytes / 1e9:.2f} GB"
    assert section(text, "Disk").splitlines()[-1].split() == total.split()


def test_lines_fit_a_terminal_but_for_commands_and_long_values():
    batches = [f"stages.{stage}.batch=64" for stage in ("retrieval", "pretrain")]
    text = rendered("quickstart.toml", *batches, hosts="8x_a100.txt")
    others = text.replace(section(text, "Commands"), "").replace(f"{ROOT}/", "")
    assert max(map(len, others.splitlines())) <= 80
    assert text.isascii()


def test_the_same_plan_prints_the_same():
    assert rendered("quickstart.toml") == rendered("quickstart.toml")


def test_models_in_words():
    def head(name: str, *changes: str) -> str:
        return rendered(name, *changes).partition("cluster  ")[0]

    assert ("electra BASE, N = 2\n            12 layers x 768 from embeddings of 128, 12 heads, intermediate 3072\n"
            "            gaussian multiplexer, rsa demultiplexer of 3 layers\n") in head(
                "electra_base_n2.toml", "model.embedding=128")
    assert "demultiplexer" not in head("electra_base_n1.toml")
    assert ("gaussian multiplexer, prefix demultiplexer of 1 layer\n            numerics of the published models\n"
            in head("prefix_base_n2.toml", 'model.compat="princeton"'))
    assert "contextual multiplexer, rsa demultiplexer of 3 layers" in head("contextual_base_n10.toml")


def test_an_encoder_of_the_hub_is_not_invented():
    text = rendered("hub_distilbert.toml")
    assert "model       hub:distilbert/distilbert-base-uncased, N = 1\n            a plain encoder" in text
    assert "parameters  not known before the encoder is fetched\n" in text
    assert "|- stage throughput, from new weights" in text
    assert "|- stage finetune, from hub:distilbert/distilbert-base-uncased" in text
    values = section(text, "Values, and where each comes from")
    model = values.partition("[model]\n")[2].partition("[tokenizer]")[0]
    assert [line.split()[0] for line in model.splitlines()] == ["family", "source", "N"]
    assert section(text, "Memory per device, an estimate").startswith("not known")
    assert section(text, "Disk") == "checkpoints and models: not known before the encoder is fetched"


def test_warnings_come_first():
    planned, loaded = made("quickstart.toml")
    head = preview.render(planned, loaded, ["no GPU here\n    --set x=1", "and more"]).partition("Values")[0]
    assert "warning     no GPU here\n            --set x=1\nwarning     and more\n" in head


def test_no_control_character_reaches_the_terminal(tmp_path):
    (tmp_path / "x\x1b[31m").mkdir()
    path = tmp_path / "x\x1b[31m" / "case.toml"
    path.write_text((ROOT / "recipes" / "quickstart.toml").read_text())
    loaded = load(path)
    text = preview.render(plan.make(loaded, hostfile.this_host(2), tmp_path / "\x1b]0;x\x07"), loaded)
    assert r"\u001b[31m" in text
    assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(("value", "text"), [
    (1e-4, "1e-4"), (2.5e-5, "2.5e-5"), (0.1, "0.1"), (0.999, "0.999"), (0.0, "0"), (1800.0, "1800"),
    (1e-12, "1e-12"), (0.001, "0.001"), (3e9, "3e9"), (123456.0, "123456"),
])
def test_numbers(value, text):
    assert preview.number(value) == text
    assert float(text) == value


def test_values_as_toml_writes_them():
    import tomli

    values = {"a": True, "b": 1_000_000, "c": 'x "y" \\ ü', "d": [1, 2], "e": ["one"] * 20, "f": [], "g": 0.1}
    text = "\n".join(f"{key} = {' '.join(preview._value(value))}" for key, value in values.items())
    assert tomli.loads(text) == values
    assert "b = 1_000_000\n" in text
    assert all(len(line) <= 50 for line in preview._value(values["e"]))
