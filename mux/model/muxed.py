"""The encoder with its multiplexer and demultiplexer.

R rows (instances; rows g*N .. g*N + N-1 are group g), B groups, N slots, L positions, D width, M wanted states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, PreTrainedModel
from transformers.utils import ModelOutput, logging

from mux.model.config import MuxConfig
from mux.model.demultiplexer import DEMULTIPLEXERS
from mux.model.multiplexer import MULTIPLEXERS

logger = logging.get_logger(__name__)


@dataclass
class MuxModelOutput(ModelOutput):
    """`last_hidden_state` [R, L, D] of each instance; `muxed_hidden_state` [B, L, D] of the backbone.

    `hidden_states` and `attentions` are the backbone's, per layer, of the muxed sequence.
    """

    last_hidden_state: Tensor | None = None
    muxed_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class Encoded:
    """What the heads demultiplex from: the backbone's output for whole groups."""

    hidden_BLD: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class MuxPreTrainedModel(PreTrainedModel):
    config_class = MuxConfig
    base_model_prefix = "mux"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["BertLayer"]  # noqa: RUF012 - transformers' own convention

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (*MULTIPLEXERS.values(), *DEMULTIPLEXERS.values())):
            module.initialize()  # type: ignore[operator]


class MuxModel(MuxPreTrainedModel):
    """Multiplex, encode, demultiplex. N = 1 is transformers' BertModel and nothing else."""

    def __init__(self, config: MuxConfig) -> None:
        super().__init__(config)
        self.N = config.num_instances
        self.backbone = BertModel(config.backbone(), add_pooling_layer=False)
        if self.N > 1:
            self.multiplexer = MULTIPLEXERS[config.multiplexer](config)
            self.demultiplexer = DEMULTIPLEXERS[config.demultiplexer](config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Encoded:
        """Multiplex and encode whole groups: `input_ids` [B*N, L]; see `whole_groups` for other numbers of rows."""
        if attention_mask is None:
            attention_mask = self.not_padding(input_ids)
        if self.N == 1:
            out = self.backbone(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
                                **kwargs)
        else:
            embedded_RLD = self.backbone.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
            embedded_BNLD = embedded_RLD.unflatten(0, (-1, self.N))
            real_BNL = attention_mask.unflatten(0, (-1, self.N)).bool()
            muxed_BLD = self.multiplexer(embedded_BNLD, real_BNL)
            # The published models embed twice: the backbone adds positions and its layer norm to the mux (numerics D2).
            # A position is masked where it is padding in every slot (design section 4, departure 2).
            out = self.backbone(inputs_embeds=muxed_BLD, attention_mask=real_BNL.any(1).long(), **kwargs)
        return Encoded(out.last_hidden_state, out.hidden_states, out.attentions)

    def demultiplex(self, hidden_BLD: Tensor, rows_M: Tensor, positions_M: Tensor) -> Tensor:
        """The states [M, D] of the instances in `rows_M` (0 .. B*N - 1) at `positions_M`."""
        groups_M = rows_M.div(self.N, rounding_mode="floor")
        if self.N == 1:
            return hidden_BLD[groups_M, positions_M]
        length, slots_M = hidden_BLD.shape[1], rows_M.remainder(self.N)
        states_M = groups_M * length + positions_M
        hidden_PD = hidden_BLD.flatten(0, 1)
        if len(states_M) < len(hidden_PD):  # fewer wanted states than positions: gather first, then project
            hidden_PD, states_M = hidden_PD[states_M], torch.arange(len(states_M), device=states_M.device)
        return self.demultiplexer(hidden_PD, states_M, slots_M)

    def not_padding(self, input_ids: Tensor) -> Tensor:
        """The attention mask [R, L] that the padding id implies."""
        if self.config.pad_token_id is None:
            return torch.ones_like(input_ids)
        return input_ids.ne(self.config.pad_token_id).long()

    def whole_groups(self, input_ids: Tensor, *others: Tensor | None,
                     filler_rows: Tensor | None = None) -> tuple[Tensor, *tuple[Tensor | None, ...]]:
        """Fill the last group: each tensor [R, ...] becomes [B*N, ...].

        The fillers are the first rows again (or the rows that `filler_rows` names), so that a call's result depends
        on its input alone and full groups never on the fillers. Heads drop what they compute for fillers.
        """
        rows = len(input_ids)
        missing = -rows % self.N
        if missing == 0:
            return input_ids, *others
        if rows < self.N:
            logger.warning_once(f"{rows} of {self.N} rows: each pass encodes fillers beside them. Send batches that "
                                f"are multiples of {self.N}, as mux.model.pipeline does.")
        if filler_rows is None:
            filler_rows = torch.arange(missing) % rows
        elif len(filler_rows) != missing:
            raise ValueError(f"{rows} rows in groups of {self.N} need {missing} filler rows, not {len(filler_rows)}")
        filler_rows = filler_rows.to(input_ids.device)
        filled = (tensor if tensor is None else torch.cat([tensor, tensor[filler_rows]]) for tensor in others)
        return torch.cat([input_ids, input_ids[filler_rows]]), *filled

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        filler_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> MuxModelOutput:
        """`input_ids` [R, L], grouped N by N in order; any R >= 1."""
        rows, length = input_ids.shape
        whole = self.whole_groups(input_ids, attention_mask, token_type_ids, filler_rows=filler_rows)
        encoded = self.encode(*whole, **kwargs)
        every_row = torch.arange(rows, device=input_ids.device).repeat_interleave(length)
        every_position = torch.arange(length, device=input_ids.device).repeat(rows)
        states_MD = self.demultiplex(encoded.hidden_BLD, every_row, every_position)
        return MuxModelOutput(
            last_hidden_state=states_MD.unflatten(0, (rows, length)),
            muxed_hidden_state=encoded.hidden_BLD,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
