"""Packing on document boundaries: rows are [CLS] piece [SEP] (piece [SEP])* [PAD]*.

No piece crosses a document. A document longer than a row is cut into pieces that fill a row each, and a
shorter rest. Pieces shorter than a row share rows: each goes into the open row it fills best (best fit), and
when too many rows are open the fullest is closed. Deterministic, and bounded in memory by the open rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

VERSION = 1  # of the rules in this file; another number is another token store
OPEN_ROWS = 256
SHORTEST_ROW = 3  # [CLS], one token, [SEP]


class Packer:
    """Takes documents one at a time and gives rows of exactly `length` ids as they close."""

    def __init__(self, length: int, cls_id: int, sep_id: int, pad_id: int,
                 open_rows: int = OPEN_ROWS) -> None:
        if length < SHORTEST_ROW:
            raise ValueError(f"a row of {length} ids has no room for [CLS], a token and [SEP]")
        self.length, self.cls_id, self.sep_id, self.pad_id = length, cls_id, sep_id, pad_id
        self.open_rows = open_rows
        self.padding = 0  # [PAD] ids in the rows closed so far
        self._open: list[list[list[int]]] = [[] for _ in range(length)]  # rows by how many ids still fit
        self._sizes = 0  # bit i is set if self._open[i] holds a row
        self._count = 0

    def add(self, ids: Sequence[int]) -> Iterator[list[int]]:
        """Place one document (ids without special tokens); the rows that closed by it."""
        piece = self.length - 2
        for start in range(0, len(ids), piece):
            yield from self._place(ids[start : start + piece])

    def finish(self) -> Iterator[list[int]]:
        """Close every open row, the fullest first."""
        while self._sizes:
            yield self._close_fullest()

    def _place(self, piece: Sequence[int]) -> Iterator[list[int]]:
        need = len(piece) + 1
        fitting = self._sizes >> need
        row = self._take(need + _lowest_bit(fitting)) if fitting else [self.cls_id]
        row.extend(piece)
        row.append(self.sep_id)
        free = self.length - len(row)
        if free < 2:  # no room for a token and its [SEP]
            yield self._padded(row)
            return
        self._open[free].append(row)
        self._sizes |= 1 << free
        self._count += 1
        if self._count > self.open_rows:
            yield self._close_fullest()

    def _take(self, free: int) -> list[int]:
        row = self._open[free].pop()
        if not self._open[free]:
            self._sizes ^= 1 << free
        self._count -= 1
        return row

    def _close_fullest(self) -> list[int]:
        return self._padded(self._take(_lowest_bit(self._sizes)))

    def _padded(self, row: list[int]) -> list[int]:
        missing = self.length - len(row)
        self.padding += missing
        return row + [self.pad_id] * missing


def _lowest_bit(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
