from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mux.data.packing import Packer

CLS, SEP, PAD = 2, 3, 0
FIRST = 10  # ids of documents start here


def packed(documents: list[list[int]], length: int, open_rows: int = 256) -> tuple[list[list[int]], Packer]:
    packer = Packer(length, CLS, SEP, PAD, open_rows)
    rows = [row for ids in documents for row in packer.add(ids)]
    return rows + list(packer.finish()), packer


def pieces(row: list[int]) -> list[list[int]]:
    """The pieces of a row; asserts its form."""
    assert row[0] == CLS
    end = len(row) - row[::-1].index(SEP)
    assert all(id == PAD for id in row[end:])
    found: list[list[int]] = [[]]
    for id in row[1 : end - 1]:
        if id == SEP:
            found.append([])
        else:
            found[-1].append(id)
    assert all(found) and not {CLS, PAD} & {id for piece in found for id in piece}
    return found


@given(lengths=st.lists(st.integers(0, 70), max_size=40), length=st.integers(3, 20),
       open_rows=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_every_token_stays_in_its_document_in_order(lengths, length, open_rows):
    documents, next_id = [], FIRST
    for size in lengths:
        documents.append(list(range(next_id, next_id + size)))
        next_id += size
    rows, packer = packed(documents, length, open_rows)
    assert all(len(row) == length for row in rows)
    found = sorted((piece for row in rows for piece in pieces(row)), key=lambda piece: piece[0])
    assert [id for piece in found for id in piece] == list(range(FIRST, next_id))
    starts = {document[0] for document in documents if document}
    for piece in found:
        assert piece == list(range(piece[0], piece[-1] + 1))
        assert not starts & set(piece[1:]), "a piece crosses into another document"
    assert packer.padding == sum(id == PAD for row in rows for id in row)


def test_a_long_document_is_cut_into_full_rows_and_a_rest():
    rows, _ = packed([list(range(10, 25))], length=8)
    assert rows == [[2, 10, 11, 12, 13, 14, 15, 3], [2, 16, 17, 18, 19, 20, 21, 3],
                    [2, 22, 23, 24, 3, 0, 0, 0]]


def test_a_piece_goes_where_it_fits_best():
    rows, packer = packed([[10] * 4, [11] * 6, [12] * 2], length=10)
    assert rows == [[2, 10, 10, 10, 10, 3, 12, 12, 3, 0], [2, 11, 11, 11, 11, 11, 11, 3, 0, 0]]
    assert packer.padding == 3


def test_the_fullest_row_closes_when_too_many_are_open():
    packer = Packer(10, CLS, SEP, PAD, open_rows=2)
    closed = [list(packer.add(ids)) for ids in ([10] * 5, [11] * 6, [12] * 4)]
    assert [len(rows) for rows in closed] == [0, 0, 1] and closed[2][0][1] == 11
    assert [row[1] for row in packer.finish()] == [10, 12]


def test_padding_of_real_text_is_small(tokenizer, leads):
    documents = tokenizer(leads, add_special_tokens=False)["input_ids"]
    for length in (64, 128):
        rows, packer = packed(documents, length)
        assert packer.padding / (len(rows) * length) < 0.03


def test_a_row_without_room_for_a_token_is_refused():
    with pytest.raises(ValueError, match="a row of 2 ids has no room"):
        Packer(2, CLS, SEP, PAD)
