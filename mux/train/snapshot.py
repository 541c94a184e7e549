"""What a rank writes of a checkpoint: copied into memory at once, written to files while training goes on."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from mux.manifest import FileEntry


class Snapshot:
    """Files to be written, by name. Cleared and filled again at every save; its memory is kept from save to save."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []  # in the order in which they are taken, which is the same at every save
        self._taken = 0
        self._files: dict[str, bytes] = {}  # pickles in which a tensor is the number of its copy

    def clear(self) -> None:
        """Begin anew. What was taken before must have been written."""
        self._taken = 0
        self._files = {}

    def take(self, name: str, state: Any) -> None:
        """Freeze what the file is to hold. Tensors that share their memory have one copy."""
        seen: dict[tuple[Any, ...], tuple[int, Tensor]] = {}

        def copied(tensor: Tensor) -> int:
            place = tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride()
            if place not in seen:
                seen[place] = self._copy(tensor), tensor  # held, so that its memory becomes no other tensor's
            return seen[place][0]

        buffer = io.BytesIO()
        _Freezing(buffer, copied).dump(state)
        self._files[name] = buffer.getvalue()

    def settle(self) -> None:
        """Wait until the copies are whole. What was taken may change from now on."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    @property
    def bytes(self) -> int:
        """About what the files will have."""
        tensors = sum(copy.nbytes for copy in self._copies[: self._taken])
        return tensors + sum(map(len, self._files.values()))

    def write(self, folder: Path) -> dict[str, FileEntry]:
        """Write and flush every file, as `torch.load` reads it. Raises OSError."""
        return {name: _write(folder / name, _Thawing(io.BytesIO(frozen), self._copies).load())
                for name, frozen in self._files.items()}

    def _copy(self, tensor: Tensor) -> int:
        """Copy to the host, into memory of an earlier save if that fits: new memory takes longer than the copy."""
        number, self._taken = self._taken, self._taken + 1
        kept = self._copies[number] if number < len(self._copies) else None
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[number : number + 1] = [kept]
        kept.copy_(tensor.detach(), non_blocking=True)
        return number


class _Freezing(pickle.Pickler):
    def __init__(self, file: BinaryIO, copied: Callable[[Tensor], int]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._copied = copied

    def persistent_id(self, value: Any) -> int | None:
        return self._copied(value) if isinstance(value, Tensor) else None


class _Thawing(pickle.Unpickler):
    def __init__(self, file: BinaryIO, copies: list[Tensor]) -> None:
        super().__init__(file)
        self._copies = copies

    def persistent_load(self, number: int) -> Tensor:
        return self._copies[number]


class _Hashed:
    """The file that torch.save writes to. It keeps the first error: torch's archive would hide it behind its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self._file.write(content)
                self._sha256.update(content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        """The file's own flush is at its end."""

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _write(path: Path, state: Any) -> FileEntry:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        hashed = _Hashed(file)
        torch.save(state, cast(IO[bytes], hashed))
        if hashed.error is not None:
            raise hashed.error
        file.flush()
        os.fsync(file.fileno())
        return FileEntry(bytes=os.fstat(file.fileno()).st_size, sha256=hashed.hexdigest())
