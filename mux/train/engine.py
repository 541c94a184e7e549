"""The one file that knows DeepSpeed: joining the ranks, one optimizer step, saving, loading, whole weights."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn


class Ranks:
    """All processes of a job. Control values travel on the CPU (gloo), beside the gradients."""

    def __init__(self, timeout_seconds: float) -> None:
        """Join the processes that `deepspeed.launcher.launch` started, as its environment variables say."""
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

    grad_norm: float | None
    loss_scale: float | None  # fp16 only
    skipped: int  # steps skipped so far because a gradient overflowed


class Engine:
    """A model in training under DeepSpeed: ZeRO 0 to 3, fp32 | fp16 | bf16, accumulation, clipping, as `config` says.

    `config` is the DeepSpeed config of the plan's stage.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any], *, weight_decay: float,
                 betas: tuple[float, float], epsilon: float) -> None:
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for _, p in trained if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for _, p in trained if p.dim() <= 1], "weight_decay": 0.0},  # biases, layer norms
        ]
        on_gpu = get_accelerator().device_name() != "cpu"
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=on_gpu)
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=[p for _, p in trained], config=config)
        self.fp16 = bool(config.get("fp16", {}).get("enabled"))
        self.accumulation = int(config["gradient_accumulation_steps"])
        self.model: nn.Module = self._engine.module
        self.forward = self._engine  # call it as the model

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
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        scale = self._engine.optimizer.loss_scale if self.fp16 else None
        return Step(None if norm is None else float(norm), None if scale is None else float(scale),
                    int(self._engine.skipped_steps))

    def _stage_0_norm(self) -> float | None:
        """DeepSpeed records no norm for fp32 at ZeRO 0, where each rank has all gradients."""
        if self._engine.zero_optimization_stage() != 0 or self.fp16 or self._engine.bfloat16_enabled():
            return None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else None

    def save(self, folder: Path, tag: str) -> None:
        """Write this rank's shards below `folder`/`tag`; all ranks must call it. Committing them is the caller's."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Load weights, optimizer and loss-scaler state. Unpickles: verify the shards first."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag, load_lr_scheduler_states=False)
        if path is None:  # DeepSpeed only warns
            raise ValueError(f"DeepSpeed found no checkpoint in {folder / tag}")

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
