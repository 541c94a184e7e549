"""Files for a test, and what reading them is refused with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mux.recipe import Refusal


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(Refusal) as refused:
        list(call())
    return str(refused.value)


def write(name: str, data: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path
