"""The one file that knows DeepSpeed: joining the ranks, one optimizer step, saving, loading, whole weights."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor, nn

from mux.train.snapshot import Snapshot


class Ranks:
    """All processes of a job. Control values travel on the CPU (gloo), beside the gradients."""

    def __init__(self, timeout_seconds: float) -> None:
        """Join the processes that `launcher.agent` started, as its environment variables say."""
        timeout = timedelta(seconds=timeout_seconds)
        # ZeRO makes sub-groups of its own, which take this default and not init_distributed's argument.
        dist.distributed_c10d.default_pg_timeout = timeout
        dist.distributed_c10d.default_pg_nccl_timeout = timeout
        on_cpu = get_accelerator().device_name() == "cpu"
        if on_cpu:
            # Else every start compiles a shared-memory op for a minute, hangs on a stale lock and leaks /dev/shm.
            deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(timeout=timeout, verbose=False)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.device = torch.device("cpu") if on_cpu else torch.device("cuda", self.local_rank)
        if not on_cpu:
            torch.cuda.set_device(self.device)
        self._control = None if on_cpu else dist.new_group(backend="gloo", timeout=timeout)

    @property
    def first(self) -> bool:
        """True on the rank that writes what is written once."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else f"{self.device} {torch.cuda.get_device_name(self.device)}"

    def gpu(self) -> tuple[int | None, float | None]:
        """Bytes of this rank's GPU in use and how busy it is (0..1); None where there is none or no way to know."""
        if self.device.type == "cpu":
            return None, None
        free, total = torch.cuda.mem_get_info(self.device)
        try:
            return total - free, torch.cuda.utilization(self.device) / 100
        except Exception:  # the vendor's management library is missing: a number less on the dashboard
            return total - free, None

    def sum(self, values: Iterable[float]) -> list[float]:
        """Element-wise sum over all ranks."""
        total = torch.tensor(list(values), dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(total, group=self._control)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self._control)

    def leave(self, code: int) -> None:
        """End this process. On gloo by os._exit: at a normal exit one of its threads may abort the interpreter."""
        if code == 0:
            self.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        if self.device.type == "cpu" or code != 0:
            os._exit(code)
        dist.destroy_process_group()
        sys.exit(code)


@dataclass(frozen=True)
class Step:
    """What an optimizer step did."""

    grad_norm: float | Tensor | None  # a tensor may not be known yet: to read it is to wait for the device
    loss_scale: float | None  # fp16 only
    skipped: int  # steps skipped so far because a gradient overflowed
    at_smallest_scale: bool = False  # this one was, although the loss scale could not be smaller


class Alone(Ranks):
    """A process by itself, without a job: what it would ask of others it knows."""

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank, self.device, self._control = 0, 1, 0, torch.device("cpu"), None


class Copying(TorchCheckpointEngine):
    """Takes from DeepSpeed what it would write, and touches no disk."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = Snapshot()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """The folder is made by who writes to it."""

    def save(self, state_dict: Any, path: str) -> None:
        self.snapshot.take(Path(path).name, state_dict)


class Engine:
    """A model in training under DeepSpeed: ZeRO 0 to 3, fp32 | fp16 | bf16, accumulation, clipping, as `config` says.

    `config` is the DeepSpeed config of the plan's stage.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any], *, weight_decay: float,
                 betas: tuple[float, float], epsilon: float) -> None:
        decayed, others = trained(model)
        groups = [{"params": list(decayed.values()), "weight_decay": weight_decay},
                  {"params": list(others.values()), "weight_decay": 0.0}]
        # One pass over the weights instead of six: on a CPU, too, where the update of BERT's 30,522 embedded WordPieces
        # is most of a small model's step.
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=[*decayed.values(), *others.values()],
            config=config)
        self._engine.checkpoint_engine = self._copying = Copying()
        self._engine._copy_recovery_script = lambda folder: None  # a script beside the shards, which nothing covers
        self.fp16 = bool(config.get("fp16", {}).get("enabled"))
        self.accumulation = int(config["gradient_accumulation_steps"])
        self.model: nn.Module = self._engine.module
        self.forward = self._engine  # call it as the model
        self._go_on_at_smallest_scale()

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradients. `loss` counts 1 / accumulation, and its mean over ranks is taken."""
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> Step | None:
        """Update the weights if this was the step's last micro-batch; else only count it (None)."""
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return None
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._stage_0_norm()
        skipped, smallest = self._engine.skipped_steps, self._at_smallest_scale()
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        scale = self._engine.optimizer.loss_scale if self.fp16 else None
        return Step(norm, None if scale is None else float(scale), int(self._engine.skipped_steps),
                    smallest and self._engine.skipped_steps > skipped)

    def _at_smallest_scale(self) -> bool:
        """Whether another overflow would leave the loss scale where it is; without fp16 it never moves."""
        if not self.fp16:
            return True
        scaler = self._engine.optimizer.loss_scaler
        return bool(scaler.cur_scale <= scaler.min_scale)

    def _stage_0_norm(self) -> Tensor | None:
        """DeepSpeed records no norm for fp32 at ZeRO 0, where each rank has all gradients."""
        if self._engine.zero_optimization_stage() != 0 or self.fp16 or self._engine.bfloat16_enabled():
            return None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads) if grads else None

    def snapshot(self) -> Snapshot:
        """Copies of this rank's shards, good until the next call; all ranks must call it."""
        self._copying.snapshot.clear()
        self._engine.save_checkpoint("nowhere", tag="none", save_latest=False)
        self._copying.snapshot.settle()
        return self._copying.snapshot

    def load(self, folder: Path, tag: str, converted: bool = False) -> None:
        """Load weights, optimizer and loss-scaler state. Unpickles: verify the shards first.

        `converted`: `folder`/`tag` is what DeepSpeed's ds_to_universal made of shards for other ranks.
        """
        options = [dict(group) for group in self._engine.optimizer.param_groups]
        self._engine._config.load_universal_checkpoint = converted
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:  # DeepSpeed takes paths for patterns: it gets one without letters that mean something
            path, _ = self._engine.load_checkpoint(f"/proc/self/fd/{handle}", tag=tag, load_lr_scheduler_states=False)
        finally:
            os.close(handle)
        if path is None:  # DeepSpeed only warns
            raise ValueError(f"DeepSpeed found no checkpoint in {folder / tag}")
        # At ZeRO 3 DeepSpeed gives all groups of a converted checkpoint the first one's options and one step counter,
        # which each of them would then advance. The options are the recipe's.
        for group, option in zip(self._engine.optimizer.param_groups, options, strict=True):
            group.update({name: value for name, value in option.items() if name != "params"})
        for master, state in self._engine.basic_optimizer.state.items():
            state["step"] = state["step"].to(master.device, copy=True)  # the fused optimizer wants it there
        self._go_on_at_smallest_scale()

    def _go_on_at_smallest_scale(self) -> None:
        """Let the training judge how many overflows are too many, where DeepSpeed would fail at the first."""
        if self.fp16:
            self._engine.optimizer.loss_scaler.raise_error_at_min_scale = False

    def finite(self) -> bool:
        """Whether this rank's part of the weights and of the optimizer's state has neither infinities nor NaN."""
        parts = [part for master, state in self._engine.basic_optimizer.state.items()
                 for part in (master, *state.values()) if isinstance(part, Tensor) and part.numel()]
        if not parts:  # before the first step
            return True
        highest = torch.stack([torch.linalg.vector_norm(part.detach().float(), float("inf")).cpu() for part in parts])
        return bool(highest.isfinite().all())

    def whole_weights(self) -> dict[str, Tensor]:
        """The full state dict in fp32 on the CPU: on rank 0; empty elsewhere. All ranks must call it.

        Tied weights appear under each of their names, as one storage.
        """
        first = dist.get_rank() == 0
        copies: dict[int, Tensor] = {}
        masters = self._stage_0_masters()
        for parameter in self.model.parameters():
            whole = masters.get(id(parameter))
            if whole is None:
                whole = deepspeed.utils.safe_get_full_fp32_param(parameter)
            if whole is None:  # trained in fp32, or not trained at all
                whole = self._gathered(parameter)
            if first:
                copies[id(parameter)] = whole.detach().float().cpu().clone()
        if not first:
            return {}
        persistent = set(self.model.state_dict().keys())
        named = {name: copies[id(p)] for name, p in self.model.named_parameters(remove_duplicate=False)}
        buffers = {name: b.detach().cpu().float() if b.is_floating_point() else b.detach().cpu().clone()
                   for name, b in self.model.named_buffers() if name in persistent}
        return named | buffers

    def _stage_0_masters(self) -> dict[int, Tensor]:
        """The fp32 copies of half-precision parameters at ZeRO 0, by the parameter's id."""
        optimizer = self._engine.optimizer
        groups = zip(getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()), strict=True)
        if self._engine.zero_optimization_stage() != 0:
            return {}
        return {id(half): full for halves, fulls in groups for half, full in zip(halves, fulls, strict=True)}

    @staticmethod
    def _gathered(parameter: nn.Parameter) -> Tensor:
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            return parameter.detach().clone()

    def close(self) -> None:
        """Let go of the weights and the optimizer's state, so that the next engine has their room."""
        self._engine.destroy()
        del self._engine, self.forward, self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def trained(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The parameters that are trained, by name: with weight decay, and without (biases, layer norms)."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return ({name: parameter for name, parameter in named.items() if parameter.dim() > 1},
            {name: parameter for name, parameter in named.items() if parameter.dim() <= 1})


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path, zero_stage: int) -> None:
    """Put the fp32 weights of a checkpoint, of any number of ranks, into a model on the CPU; tied ones stay tied.

    Unpickles: verify the shards first. Raises ValueError if they are not of this model.
    """
    weights = _zero_weights(folder) if zero_stage else _stage_0_weights(model, folder)
    persistent = set(model.state_dict())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name not in persistent:
            continue
        if name not in weights or weights[name].shape != tensor.shape:
            raise ValueError(f"{folder} is not of this model: {name} is missing there, or of another shape")
        tensor.copy_(weights[name])


def _zero_weights(folder: Path) -> dict[str, Tensor]:
    handle = os.open(folder.parent, os.O_RDONLY)  # DeepSpeed takes the path for a pattern: one without stars, then
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # it prints a page
            return get_fp32_state_dict_from_zero_checkpoint(f"/proc/self/fd/{handle}", folder.name)
    finally:
        os.close(handle)


def _stage_0_weights(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """One file holds everything; of what was trained in half precision the optimizer has the fp32 copies."""
    state = torch.load(folder / "mp_rank_00_model_states.pt", map_location="cpu", mmap=True, weights_only=False)
    masters = state["optimizer"].get("fp32_groups", ())
    whole = (zip(named, group, strict=True) for named, group in zip(trained(model), masters, strict=False))
    return state["module"] | dict(pair for pairs in whole for pair in pairs)
