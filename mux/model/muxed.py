"""The encoder with its multiplexer and demultiplexer.

R rows (instances), B groups, N slots, L positions of a row, F positions with its prefix, D width, M wanted states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, ElectraModel, PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from mux.model.backbone import encode
from mux.model.config import MuxConfig
from mux.model.demultiplexer import PUBLISHED, SHARED, EveryRow, LearnedKeys, Pairs, Wanted, picked
from mux.model.multiplexer import MULTIPLEXERS, Multiplexer
from mux.model.parts import part
from mux.model.rows import RowPreparation, Rows

BACKBONES: dict[str, Any] = {
    "bert": lambda config: BertModel(config, add_pooling_layer=False),
    "electra": ElectraModel,
}


@dataclass
class MuxModelOutput(ModelOutput):
    """`last_hidden_state` [R, L, D] of each instance; `muxed_hidden_state` [B, F, D] of the backbone.

    `hidden_states` and `attentions` are the backbone's, per layer, of the muxed sequence.
    """

    last_hidden_state: Tensor | None = None
    muxed_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Encoded:
    """What the heads demultiplex from: the backbone's output [B, F, D] for whole groups, and the rows it is of."""

    hidden_BFD: Tensor  # or its first positions only, where no more were wanted
    rows: Rows
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class MuxPreTrainedModel(PreTrainedModel):
    config_class = MuxConfig
    base_model_prefix = "mux"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["BertLayer", "ElectraLayer"]  # noqa: RUF012 - transformers' own convention
    accepts_loss_kwargs = False  # losses are means: transformers' Trainer divides them by its accumulation steps

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Multiplexer | LearnedKeys):
            module.initialize()


    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As transformers do it. Raises ValueError for a prefix demultiplexer, whose markers stand behind the
        vocabulary."""
        if self.config.marker_ids:
            raise ValueError("the vocabulary of a model with prefix markers cannot be resized: they stand behind it")
        return super().resize_token_embeddings(*args, **kwargs)


class MuxModel(MuxPreTrainedModel):
    """Multiplex, encode, demultiplex. N = 1 is transformers' encoder and nothing else, unless `compat` is set."""

    def __init__(self, config: MuxConfig, reads: str = "tokens") -> None:
        """`reads`: what the head on top does, pretraining | sequence | tokens; see `RowPreparation`."""
        super().__init__(config)
        self.N = config.num_instances
        self.prepare = RowPreparation(config, reads)
        self.backbone = BACKBONES[config.family](config.backbone())
        if config.multiplexed:
            demultiplexers = SHARED if config.shared_demultiplexer else PUBLISHED
            self.multiplexer = variant(MULTIPLEXERS, "multiplexer", config)(config)
            self.demultiplexer = variant(demultiplexers, "demultiplexer", config)(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def encode(self, rows: Rows, first: int | None = None, **kwargs: Any) -> Encoded:
        """Multiplex and encode whole groups. `first`: how many F positions are wanted, from the first on; None: all."""
        ids, segments, padding = rows.input_ids, rows.token_type_ids, self.prepare.padding(rows)
        if self.config.multiplexed:
            with part("embedding and multiplexer"):
                muxed_BFE = self.multiplexer(
                    self.backbone.embeddings, ids.unflatten(0, (-1, self.N)),
                    None if segments is None else segments.unflatten(0, (-1, self.N)), padding)
            # The published models embed twice: the backbone adds positions and its layer norm to the mux (numerics D2).
            # A position is masked where it is padding in every slot (design section 4, departure 2).
            real_BF = None if padding.counted_BNL is None else padding.counted_BNL.any(1)
            inputs: dict[str, Any] = {"inputs_embeds": muxed_BFE}
        else:
            real_BF = rows.attention_mask.bool() if rows.padded else None
            inputs = {"input_ids": ids, "token_type_ids": segments}
        with part("backbone"):
            out = encode(self.backbone, real_BF, first, asked=kwargs, **inputs)
        return Encoded(out.last_hidden_state, rows, out.hidden_states, out.attentions)

    def demultiplex(self, encoded: Encoded, rows_M: Tensor, positions_M: Tensor,
                    for_vocabulary: bool = False) -> Tensor:
        """The states [M, D] of the rows `rows_M` (0 .. B*N - 1) at F positions `positions_M`.

        `for_vocabulary`: as the vocabulary head reads them, which differs under the published numerics.
        """
        hidden_BFD, groups_M = encoded.hidden_BFD, rows_M.div(self.N, rounding_mode="floor")
        if not self.config.multiplexed:
            return hidden_BFD[groups_M, positions_M]
        hidden_PD, states_M = hidden_BFD.flatten(0, 1), groups_M * hidden_BFD.shape[1] + positions_M
        if states_M.shape[0] < hidden_PD.shape[0]:  # fewer wanted states than positions: gather first, then project
            hidden_PD, states_M = picked(hidden_PD, states_M), torch.arange(states_M.shape[0], device=states_M.device)
        pairs = Pairs(hidden_PD, states_M, self.demultiplexer.key_numbers(rows_M))
        return self._demultiplexed(encoded, pairs, for_vocabulary)

    @property
    def first_position(self) -> int:
        """The F position that sequence classifiers read, of a row's first token or of the last marker's successor
        (numerics section 1.4)."""
        return self.N if self.config.prefix_length else 0

    def first_states(self, encoded: Encoded) -> Tensor:
        """[R, D]: each instance at `first_position`."""
        return self._every_row(encoded, encoded.hidden_BFD.narrow(1, self.first_position, 1), False)[:, 0]

    def all_states(self, encoded: Encoded, for_vocabulary: bool = False) -> Tensor:
        """[R, L, D]: each instance at each position of its row."""
        rows, hidden_BLD = encoded.rows, encoded.hidden_BFD[:, encoded.rows.offset :]
        # A published prefix cuts the row's end in training: what was cut reads the last position, and no loss reads it.
        cut = rows.length - hidden_BLD.shape[1]
        if cut:
            hidden_BLD = torch.cat([hidden_BLD, hidden_BLD[:, -1:].expand(-1, cut, -1)], dim=1)
        return self._every_row(encoded, hidden_BLD, for_vocabulary)

    def _every_row(self, encoded: Encoded, hidden_BLD: Tensor, for_vocabulary: bool) -> Tensor:
        if not self.config.multiplexed:
            return hidden_BLD
        return self._demultiplexed(encoded, EveryRow(hidden_BLD, self.N, encoded.rows.given), for_vocabulary)

    def _demultiplexed(self, encoded: Encoded, wanted: Wanted, for_vocabulary: bool) -> Tensor:
        with part("demultiplexer"):
            keys_KD = self.demultiplexer.keys_for(encoded.hidden_BFD)
            read = self.demultiplexer.for_vocabulary if for_vocabulary else self.demultiplexer
            demuxed: Tensor = read(keys_KD, wanted)
        return demuxed

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        filler_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> MuxModelOutput:
        """`input_ids` [R, L], grouped N by N in order; any R >= 1. See `RowPreparation` for the other arguments."""
        encoded = self.encode(self.prepare(input_ids, attention_mask, token_type_ids, filler_rows), **kwargs)
        return MuxModelOutput(
            last_hidden_state=self.all_states(encoded),
            muxed_hidden_state=encoded.hidden_BFD,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


# What MUX models look at: whether anything is padded, which places are asked for.
LOOKED_AT = ("attention_mask", "labels", "retrieval_labels", "retrieval_slots")


def placed(model: nn.Module, batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch of CPU tensors where its model wants it: on the device. What a MUX model looks at stays on the CPU, where
    it is seen without waiting for the device."""
    stays = LOOKED_AT if isinstance(model, MuxPreTrainedModel) else ()
    return {name: tensor if name in stays else tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def variant(table: dict[str, Any], field: str, config: MuxConfig) -> Any:
    """The class that `config.<field>` names. Raises ValueError if there is none."""
    name = getattr(config, field)
    if name not in table:
        raise ValueError(f"no {field} {name!r}; there are {', '.join(table)}")
    return table[name]
