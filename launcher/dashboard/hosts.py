"""The panel with a row a host: its ranks, how long they have been silent, what they use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from rich.text import Text

from launcher.dashboard.figures import DASH, age, clean, count, numbers, percent, size
from launcher.dashboard.rows import BAD, DIM, WARNING, Block, Column, padded, panel, table
from launcher.dashboard.state import Rank, State

LATE, LOST = 10, 30  # seconds without a heartbeat

Ranks = dict[int, Rank]


def hosts_panel(state: State, now: float, width: int, limit: int) -> Block:
    hosts = list(state.hosts.items())
    if len(hosts) > limit:  # those first that deserve a look
        hosts.sort(key=lambda host: (not _faults(host[1]), host[0] not in state.dropped, -_silence(host[1], now)))
    shown, hidden = hosts[:limit], hosts[limit:]
    running = not state.ended
    columns = [
        Column("host", [Text(clean(name)) for name, _ in shown], worth=9),
        Column("ranks", [_ranks(state, name, ranks) for name, ranks in shown], worth=8),
        Column("device", [Text(_devices(ranks.values())) for _, ranks in shown], worth=2),
        Column("step", [Text(_steps(ranks.values())) for _, ranks in shown], right=True, worth=1),
        Column("heartbeat", [_heartbeat(ranks, now, running) for _, ranks in shown], right=True, worth=7),
        Column("memory", [_total(ranks, "memory") for _, ranks in shown], right=True, worth=5),
        Column("GPU memory", [_total(ranks, "gpu_memory") for _, ranks in shown], right=True, worth=4),
        Column("GPU use", [_use(ranks.values()) for _, ranks in shown], right=True, worth=3),
    ]
    rows = [padded(row, width - 4) for row in table(columns, width - 4)]
    if hidden:
        rest = Text(f"… {len(hidden)} more hosts", DIM)
        if running:
            oldest = max(_silence(ranks, now) for _, ranks in hidden)
            rest.append(f", heartbeats of at most {age(oldest)}", DIM)
        rows.append(padded(rest, width - 4))
    return panel("hosts", rows, width)


def _silence(ranks: Ranks, now: float) -> float:
    return max((max(now - rank.seen, 0.0) for rank in ranks.values()), default=0.0)


def _ranks(state: State, name: str, ranks: Ranks) -> Text:
    if ranks:
        return Text(numbers(list(ranks)))
    return Text("dropped", BAD) if name in state.dropped else Text("idle")


def _faults(ranks: Ranks) -> dict[str, list[int]]:
    """What is wrong with ranks, and with which."""
    found: dict[str, list[int]] = {}
    for number, rank in ranks.items():
        if rank.fault:
            found.setdefault(rank.fault, []).append(number)
    return found


def _heartbeat(ranks: Ranks, now: float, running: bool) -> Text:
    """How long the most silent rank of a host has been silent."""
    if faults := _faults(ranks):
        return Text(", ".join(f"rank {numbers(at)} {fault}" for fault, at in faults.items()), BAD)
    if not ranks or not running:
        return Text(DASH, DIM)
    if all(not rank.device and rank.step is None for rank in ranks.values()):
        return Text("starting", DIM)
    silence = _silence(ranks, now)
    return Text(age(silence), BAD if silence > LOST else WARNING if silence > LATE else "")


def _devices(ranks: Iterable[Rank]) -> str:
    """`8 x NVIDIA A100` from eight times `cuda:0 NVIDIA A100`."""
    names = Counter(re.sub(r"^cuda:\d+ +", "", clean(rank.device)) for rank in ranks if rank.device)
    return ", ".join(name if number == 1 else f"{number} x {name}" for name, number in names.items())


def _steps(ranks: Iterable[Rank]) -> str:
    steps = [rank.step for rank in ranks if rank.step is not None]
    if not steps:
        return ""
    low, high = min(steps), max(steps)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def _total(ranks: Ranks, attribute: str) -> Text:
    values = [value for rank in ranks.values() if (value := getattr(rank, attribute)) is not None]
    return Text(size(sum(values)) if values else "")


def _use(ranks: Iterable[Rank]) -> Text:
    values = [rank.gpu_use for rank in ranks if rank.gpu_use is not None]
    return Text(percent(sum(values) / len(values)) if values else "")
