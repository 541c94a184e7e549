"""A small all-reduce over one process per host, before a run starts.

    python -m mux.handshake RANK SIZE ADDRESS PORT BACKEND SECONDS

The launcher starts it through the agents that will start the ranks. It prints MET when it has reached the first host,
and DONE with the seconds that the sum took.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

MET, DONE = "mux-met", "mux-done"


def main() -> None:
    import torch
    import torch.distributed as dist

    rank, size, port = (int(sys.argv[place]) for place in (1, 2, 4))
    address, backend, timeout = sys.argv[3], sys.argv[5], timedelta(seconds=float(sys.argv[6]))
    store = dist.TCPStore(address, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False)
    store.set(f"met {rank}", "")
    print(MET, flush=True)
    store.wait([f"met {other}" for other in range(size)])
    started = time.monotonic()
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    total = torch.ones(1, device="cuda" if backend == "nccl" else "cpu")
    dist.all_reduce(total)
    if total.item() != size:
        raise RuntimeError(f"the sum over {size} hosts is {total.item():g}")
    print(DONE, f"{time.monotonic() - started:.2f}", flush=True)
    store.set(f"done {rank}", "")
    if rank == 0:  # the store lives in this process
        store.wait([f"done {other}" for other in range(size)])
    os._exit(0)  # at a normal exit one of gloo's threads may abort the interpreter


if __name__ == "__main__":
    main()
