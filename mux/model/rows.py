"""Rows on their way to the embeddings: the last group filled, prefixes put in front, published ids put in.

R rows (instances) as given; B groups of N rows; L positions as given, F with the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import logging
from transformers.utils.import_utils import is_tracing

from mux.model.config import MuxConfig
from mux.model.multiplexer import Padding
from mux.model.published import CLS_ID, FIRST_MARKER_ID, PREFIX_PAD_ID, READINGS

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Rows:
    """Whole groups: rows g*N .. g*N + N-1 are group g."""

    input_ids: Tensor  # [B*N, F]
    attention_mask: Tensor  # [B*N, F]
    given_mask: Tensor  # [R, L]: the caller's, where the caller has it
    padded: bool  # whether any token may be padding
    token_type_ids: Tensor | None  # [B*N, F]
    given: int  # R: the first so many rows are the caller's, the rest fillers
    length: int  # L of the caller's rows
    offset: int  # F position of a row's first token


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. A GPU is not waited for: the copy is queued, which takes pinned memory."""
    to_gpu = device.type == "cuda" != tensor.device.type
    if to_gpu and not is_tracing(tensor):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=to_gpu)


def check_shapes(input_ids: Tensor, **tensors: Tensor | None) -> None:
    """Raise ValueError where one is not of the shape of the ids."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != input_ids.shape:
            raise ValueError(f"{name}: {list(tensor.shape)} where the rows are {list(input_ids.shape)}")


class RowPreparation:
    """For a head that `reads` pretraining | sequence | tokens: as published, each treats rows in its own way."""

    def __init__(self, config: MuxConfig, reads: str) -> None:
        self.config, self.N = config, config.num_instances
        self.reading = READINGS[config.family, reads]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                 filler_rows: Tensor | None = None, labelled: bool = False) -> Rows:
        """`input_ids`, `attention_mask` (default: not padding), `token_type_ids` [R, L], any R >= 1.

        Without padding no mask is made. A mask on the CPU is looked at for that, whatever the device of the ids; one
        on a GPU is not, for then the CPU would wait, nor one in a traced graph.

        The last group is filled with the rows that `filler_rows` names: [missing] row numbers of the batch, or
        [missing, L] token ids; by default the batch's first rows again, so that a call's result depends on its input
        alone. Raises ValueError: an empty batch, another number of fillers, rows longer than there are positions or
        shorter than a prefix that cuts them, tensors of another shape.
        """
        if 0 in input_ids.shape:
            raise ValueError("the batch has no rows" if len(input_ids) == 0 else "the rows have no tokens")
        check_shapes(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        given, length = input_ids.shape
        offset, limit = self.config.prefix_length, self.config.max_position_embeddings
        cut = labelled and self.reading.cuts_rows and not self.config.own_special_ids
        if cut and length <= offset:
            raise ValueError(f"rows of {length} tokens end before the prefix of {offset} that cuts them in training")
        if length + (0 if cut else offset) > limit:
            raise ValueError(f"rows of {length} tokens{f' and a prefix of {offset}' if offset else ''} do not fit in "
                             f"max_position_embeddings = {limit}; truncate them to {limit - offset}")
        padded = attention_mask is not None or self.config.pad_token_id is not None
        attention_mask = self.not_padding(input_ids) if attention_mask is None else attention_mask
        if padded and not is_tracing(attention_mask) and attention_mask.device.type == "cpu":
            padded = not attention_mask.all()
        padded |= filler_rows is not None and filler_rows.dim() == 2
        given_mask, attention_mask = attention_mask, moved(attention_mask, input_ids.device)
        if not (self.config.segment_ids or self.reading.embeds_segments):
            token_type_ids = None
        published_ids = self.config.multiplexed and not self.config.own_special_ids
        if published_ids and self.reading.overwrites_first and not offset:
            input_ids = input_ids.clone()
            input_ids[:, 0] = CLS_ID
        ids, mask, segments = self._filled(input_ids, attention_mask, token_type_ids, filler_rows)
        if offset:
            prefix, end = self._prefix(ids), length if cut else None
            ids = torch.cat([prefix, ids], dim=1)[:, :end]
            mask = torch.cat([torch.ones_like(prefix), mask], dim=1)[:, :end]
            segments = None if segments is None else torch.cat([torch.zeros_like(prefix), segments], dim=1)[:, :end]
        return Rows(ids, mask, given_mask, padded, segments, given=given, length=length, offset=offset)

    def padding(self, rows: Rows) -> Padding:
        """Which tokens of the groups are real, [B, N, F], for the multiplexer."""
        if not rows.padded:
            return Padding()
        real_BNF = rows.attention_mask.unflatten(0, (-1, self.N)).bool()
        if self.config.mask_padding:
            return Padding(real_BNF, real_BNF, real_BNF)
        return Padding(None, real_BNF, real_BNF if self.reading.hides_across else None)

    def not_padding(self, input_ids: Tensor) -> Tensor:
        """The attention mask that the padding id implies."""
        if self.config.pad_token_id is None:
            return torch.ones_like(input_ids)
        return input_ids.ne(self.config.pad_token_id).long()

    @property
    def retrieves_first(self) -> bool:
        """Whether position 0 of a row is among the tokens that retrieval decodes."""
        return bool(self.config.own_special_ids) or self.reading.retrieves_first

    # --- filling ----------------------------------------------------------------------------------------------
    def _filled(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None,
                filler_rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        rows, missing = input_ids.shape[0], -input_ids.shape[0] % self.N
        if filler_rows is not None and len(filler_rows) != missing:
            raise ValueError(f"{rows} rows in groups of {self.N} need {missing} filler rows, not {len(filler_rows)}")
        if missing == 0:
            return input_ids, attention_mask, token_type_ids
        if rows < self.N:
            logger.warning_once(f"{rows} of {self.N} rows: each pass encodes fillers beside them. Send batches that "
                                f"are multiples of {self.N}, as mux.model.pipeline does.")
        if filler_rows is not None and filler_rows.dim() == 2:
            ids, mask = filler_rows, self.not_padding(filler_rows)
            segments = None if token_type_ids is None else torch.zeros_like(filler_rows)
        else:
            named = None if filler_rows is None else filler_rows.to(input_ids.device)
            ids_from, mask_from = self._drawn(rows, missing, input_ids.device) if named is None else (named, named)
            ids, mask = input_ids[ids_from], attention_mask[mask_from]
            segments = None if token_type_ids is None else token_type_ids[ids_from]
        return (torch.cat([input_ids, ids]), torch.cat([attention_mask, mask]),
                token_type_ids if segments is None or token_type_ids is None
                else torch.cat([token_type_ids, segments]))

    def _drawn(self, rows: int, missing: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row numbers whose ids, and whose masks, the fillers get."""
        if self.config.deterministic_fillers:
            first = torch.arange(missing, device=device) % rows
            return first, first
        ids_from, mask_from = torch.randint(rows, (2, missing)).to(device)  # apart, as published (1.8)
        return ids_from, mask_from

    # --- prefixes ------------------------------------------------------------------------------------------------
    def _prefix(self, input_ids: Tensor) -> Tensor:
        """The ids in front of every row, [B*N, offset]."""
        N, markers = self.N, torch.arange(self.N, device=input_ids.device)
        if self.config.own_special_ids:  # the rows after the vocabulary: a marker per slot, then the one between them
            marker_ids, pad_id, ends = self.config.vocab_size + markers, self.config.vocab_size + N, 0
        else:
            marker_ids, pad_id, ends = FIRST_MARKER_ID - markers, PREFIX_PAD_ID, 1
        own = torch.eye(N, dtype=torch.bool, device=input_ids.device)
        ids_NF = torch.cat([marker_ids.where(own, pad_id), input_ids.new_full((N, ends), CLS_ID)], dim=1)
        return ids_NF.repeat(input_ids.shape[0] // N, 1)
