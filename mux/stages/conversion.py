"""Going on from shards that were cut for other ranks or another ZeRO stage, through DeepSpeed's universal format."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from mux.manifest import Manifest, folder_name
from mux.rank import die_with_parent
from mux.stages.context import Context
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine

LOOK_SECONDS = 0.5  # how often the ranks look whether the conversion is done, and whether to stop
INNER = "universal"
COPIES = 2  # of the states: cut into pieces, and put together from them


def load_resized(context: Context, checkpoints: Checkpoints, engine: Engine, manifest: Manifest) -> None:
    """Load a verified checkpoint that other ranks have saved; all ranks must call it.

    What it is converted to lies beside it for as long as this takes, under a name that is no checkpoint's. Raises
    OSError if the disk has too little room.
    """
    source = checkpoints.folder / folder_name(manifest.step)
    made = source.with_suffix(".resized")
    if context.ranks.first:
        for old in (made, _part(made)):
            shutil.rmtree(old, ignore_errors=True)
    free, needed = shutil.disk_usage(checkpoints.folder).free, COPIES * manifest.bytes
    if context.ranks.from_first(free < needed):
        raise OSError(f"resizing {source} needs {needed:,} bytes beside it for a moment, {free:,} are free: make room, "
                      "and start again")
    convert(context, source, made)
    engine.load(made, INNER, converted=True)
    context.ranks.barrier()
    if context.ranks.first:
        shutil.rmtree(made)


def convert(context: Context, source: Path, made: Path) -> None:
    """Have rank 0 write `made`/universal/ from the shards in `source`, while the others wait.

    Raises Stopped on all ranks if a stop is asked for, and RuntimeError if DeepSpeed fails.
    """
    part, process = _part(made), None
    if context.ranks.first:
        part.mkdir(mode=0o700)
        process = _converting(source, part)
    try:
        seconds = 0.0
        while context.ranks.from_first(process is not None and _goes_on(process)):
            seconds += LOOK_SECONDS
            context.progress_together("resizing the checkpoint", int(seconds), None, "s")
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    code = context.ranks.from_first(process.returncode if process is not None else None)
    if code != 0:
        raise RuntimeError(f"{source} could not be resized: ds_to_universal ended with {code}; its words are in the "
                           "log of rank 0")
    if context.ranks.first:
        part.rename(made)
    context.ranks.barrier()


def _converting(source: Path, part: Path) -> subprocess.Popen[bytes]:
    """DeepSpeed's converter, in a process that can be stopped; it does not outlive this one.

    It takes paths for patterns, so it is given relative ones, of which all letters are known.
    """
    output = Path(part.name) / INNER
    return subprocess.Popen(
        [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", source.name,
         "--output_folder", str(output), "--num_extract_workers", "1", "--num_merge_workers", "1",
         "--inject_missing_state"],
        cwd=source.parent, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)


def _part(made: Path) -> Path:
    return made.with_suffix(".resized.part")


def _goes_on(process: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(LOOK_SECONDS)
    return process.poll() is None
