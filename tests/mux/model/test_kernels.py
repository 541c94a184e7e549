"""The fused multiplexer in Triton's interpreter, on a CPU, against the plain path; that it compiles for GPUs."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mux.model
from tests.mux.model import fused_cases

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of the largest


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What another process found, in which Triton interprets its kernels."""
    path = tmp_path_factory.mktemp("kernels") / "found.pt"
    done = subprocess.run([sys.executable, "-m", "tests.mux.model.fused_cases", str(path)], text=True,
                          cwd=Path(__file__).parents[3], env=os.environ | {"TRITON_INTERPRET": "1"},
                          capture_output=True)
    assert not done.returncode, done.stderr
    return torch.load(path)


@pytest.fixture(scope="module")
def plain():
    return fused_cases.answers()


@pytest.mark.parametrize("name", [*fused_cases.CASES, "a model"])
def test_answers_and_gradients(name, interpreted, plain):
    found, expected = interpreted["answers"][name], plain[name]
    dtype, fields = fused_cases.CASES.get(name, (torch.float64, {}))
    assert found.keys() == expected.keys() and len(found) >= 7
    assert ("keys" in found) == bool(fields.get("learn_keys"))
    for part, tensor in expected.items():
        assert tensor.dtype == torch.float64 and found[part].dtype == dtype and tensor.any()
        # A key's bias has no gradient: what is found there is rounding.
        apart = (found[part].double() - tensor).abs().max() / tensor.abs().max().clamp(min=1e-4)
        assert apart < TOLERANCE[dtype], f"{part}: {apart:.1e} apart"


def test_a_device_on_which_it_does_not_work_takes_the_plain_path(interpreted):
    """It is tried once against the plain path, which is loudly taken where they differ, or where it cannot run."""
    found = interpreted["faults"]
    assert [found[str(dtype)] for dtype in TOLERANCE] == [None] * 4
    assert found["another"].startswith("the two differ by ") and found["none"] == "RuntimeError: no such instruction"
    assert not found["another is taken"] and not found["none is taken"]


def test_what_others_put_in_is_called(interpreted):
    assert interpreted["path taken"] == {"nothing": True, "a hook": False, "an adapter": False}
    assert not any(fused_cases.path_taken().values())


def test_compiled(interpreted):
    assert interpreted["compiled"]


def test_ids_that_no_table_has(interpreted):
    """They are seen, and no memory is read that is not the table's."""
    assert interpreted["beyond the vocabulary"].isnan().all(-1).tolist() == [[False, True, False, True]]
    assert interpreted["beyond the vocabulary"].isnan().any(-1).tolist() == [[False, True, False, True]]


def test_gradients_of_what_was_dropped(interpreted):
    assert interpreted["dropout gradients"]


def test_dropout(interpreted):
    once, again, otherwise = (interpreted["dropped"][name] * 0.75 for name in ("once", "again", "otherwise"))
    assert torch.equal(once, again) and not torch.equal(once, otherwise)
    shares = {value: torch.isclose(once, torch.tensor(value).double()).double().mean().item()
              for value in (0.0, 1.0, 10.0, 11.0)}
    expected = {0.0: 0.0625, 1.0: 0.1875, 10.0: 0.1875, 11.0: 0.5625}  # each slot for itself
    assert shares == pytest.approx(expected, abs=0.04)  # 3072 values: a standard deviation is at most 0.009
    assert len(once.flatten(0, 1).unique(dim=0)) == 32  # positions and groups, too


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("pointed", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optional", [True, False])
def test_compilers_take_it(architecture, pointed, optional, tmp_path, monkeypatch):
    """To machine code, which takes no GPU. The interpreter forgives what a compiler does not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mux.model import kernels

    types = dict.fromkeys(("d_gains", "d_biases", "d_keys"), "*fp32") | dict.fromkeys("VTLP", "i32") | {
        "ids": "*i64", "segments": "*i64", "counted": "*i1", "seed": "i64"}
    absent = {} if optional else dict.fromkeys(("segments", "counted", "d_keys"))
    constants = absent | {"N": 10, "E": 768, "EPSILON": 1e-12, "DROPPED": 0.1 * optional, "BLOCK": 1024,
                          "WIDE": kernels.WIDE[torch.float32], "POSITIONS": kernels.POSITIONS}
    for kernel in (kernels.forward_kernel, kernels.backward_kernel):
        signature = {name: "constexpr" if name in constants else types.get(name, f"*{pointed}")
                     for name in kernel.arg_names}
        given = {name: value for name, value in constants.items() if name in signature}
        made = triton.compile(ASTSource(kernel, signature, given), target=GPUTarget("cuda", architecture, 32))
        assert "cubin" in made.asm


def test_without_triton(monkeypatch, caplog):
    """Loudly, and once: the plain path."""
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "mux.model.kernels", raising=False)
    monkeypatch.delattr(mux.model, "kernels", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with caplog.at_level(logging.WARNING):
        assert not any(fused_cases.path_taken().values())
    assert [record.message for record in caplog.records if "Triton" in record.message] == [
        "The multiplexer's kernel for GPUs needs Triton (import of triton halted; None in sys.modules): pip install "
        "triton. Without it the plain path is taken, which computes the same with more traffic of memory."]
