"""What a profiler calls the parts of a step; without one, naming them costs next to nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.profiler import record_function

PREFIX = "mux: "


def part(name: str) -> AbstractContextManager[Any]:
    """What runs inside is a part of the step."""
    unseen = torch.compiler.is_compiling() or not torch.autograd._profiler_enabled()
    return nullcontext() if unseen else record_function(PREFIX + name)
