"""What a recipe may say: a frozen pydantic model a table, unknown keys refused, the paper's defaults.

Each part of the program is handed its own section, never the whole recipe; only the launcher's plan and
`mux.worker` see a `Recipe`. Numbers come from Tables 7 and 8 of the MUX-PLM paper unless a comment says
otherwise.
"""


from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from mux.size import SIZES

LIMIT = 10**12  # no count of anything here is larger; below it the plan's floats cannot overflow

Text = Annotated[str, Field(min_length=1, pattern=r"^\P{Cc}+$")]  # no control characters: it is printed
Count = Annotated[int, Field(ge=1, le=LIMIT)]
Natural = Annotated[int, Field(ge=0, le=LIMIT)]
Length = Annotated[int, Field(ge=8, le=LIMIT)]  # of a row, in tokens
Rate = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average: 1 would never move
Beside = Annotated[float, Field(ge=0, lt=1)]  # share of a loss beside another, which does not vanish
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Strict (no string for a number, no bool for an int), frozen, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )


# TOML arrays become tuples; their items stay strict.
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
Naturals = Annotated[tuple[Natural, ...], Field(strict=False)]
Positives = Annotated[tuple[Positive, ...], Field(strict=False)]


class Shape(Section):
    """The encoder's dimensions (paper Table 7)."""

    layers: Count
    hidden: Count
    heads: Count
    intermediate: Count


SHAPES = {name: Shape(**numbers) for name, numbers in SIZES.items()}


class Departures(Section):
    """Where the numerics are better than the published ones: the fields of this name in `mux.model.MuxConfig`.

    None: as `compat` says, true without it and false under "princeton" (weight 1, and 50).
    """

    shared_demultiplexer: bool | None = None
    mask_padding: bool | None = None
    segment_ids: bool | None = None
    exact_replacement: bool | None = None
    uncorrupted_retrieval: bool | None = None
    deterministic_fillers: bool | None = None
    own_special_ids: bool | None = None
    plain_single: bool | None = None
    discriminator_weight: Positive | None = None


class ModelSection(Section):
    """The model. Of family "hub" it is `source`, a plain encoder at N = 1, and only `HUB_KEYS` speak of it."""

    family: Literal["bert", "electra", "hub"] = "bert"
    source: Text | None = None  # of family "hub": hub:ID[@REVISION] | path:DIR
    size: Literal["TINY", "SMALL", "BASE", "LARGE"] | Shape = "BASE"
    embedding: Count | None = None  # ELECTRA may embed narrower than it encodes; None: as wide
    N: Count = 1
    multiplexer: Literal[
        "gaussian", "contextual", "contextual_v1", "orthogonal", "orthogonal_low_rank", "binary"
    ] = "gaussian"
    demultiplexer: Literal["rsa", "prefix"] = "rsa"
    demultiplexer_layers: Count = 3
    learn_keys: bool = False  # train the multiplexing keys; the published models never did
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    max_positions: Count = 512
    compat: Literal["princeton"] | None = None  # the numerics of the published models
    departures: Departures = Departures()

    @property
    def shape(self) -> Shape:
        return self.size if isinstance(self.size, Shape) else SHAPES[self.size]

    @property
    def embedding_width(self) -> int:
        return self.embedding or self.shape.hidden

    @property
    def multiplexed(self) -> bool:
        """Whether there is a multiplexer and a demultiplexer around the encoder."""
        return self.N > 1 or not self.departs("plain_single")

    @property
    def prefix_length(self) -> int:
        """Tokens in front of every row: a marker for each text, under published ids a [CLS] behind them."""
        if not self.multiplexed or self.demultiplexer != "prefix":
            return 0
        return self.N + (0 if self.departs("own_special_ids") else 1)

    @property
    def marker_ids(self) -> int:
        """Rows of the vocabulary that prefix markers add: one for each text, and the one between markers."""
        return self.N + 1 if self.prefix_length and self.departs("own_special_ids") else 0

    def positions(self, length: int, *, pretraining: bool) -> int:
        """Positions of the encoder for rows of `length` tokens: under published ids pre-training cuts rows to make
        room for the prefix."""
        return length if pretraining and not self.departs("own_special_ids") else length + self.prefix_length

    def departs(self, name: str) -> bool:
        """Whether the numerics depart from the published ones in this respect."""
        value: bool | None = getattr(self.departures, name)
        return self.compat is None if value is None else value


HUB_KEYS = ("family", "source", "N")  # size, dropout, positions and numerics are the encoder's own


class TokenizerSection(Section):
    source: Text  # hub:ID | path:DIR | sentencepiece
    vocabulary: Annotated[int, Field(ge=100, le=LIMIT)] = 30_522


class CorpusSection(Section):
    sources: Texts  # hub:ID[/CONFIG][@REVISION] | path:GLOB | builtin:NAME
    sequence_length: Length = 512


class EngineSection(Section):
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1  # not a Literal: those take true for 1
    micro_batch: Count = 32  # at most so many groups per device and forward
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # 0: none
    activation_checkpointing: bool = False
    initial_loss_scale_power: Annotated[int, Field(ge=0, le=32)] = 16  # fp16: the scale starts at 2 ** this


class ClusterSection(Section):
    processes: Count = 1  # only without a hostfile and without GPUs
    min_hosts: Count = 1
    max_restarts: Natural = 0
    heartbeat_seconds: Positive = 30.0  # a rank silent for longer is reported
    collective_timeout_seconds: Positive = 1800.0  # a collective that hangs for longer ends the job


Metric = Literal["accuracy", "f1", "matthews", "spearman", "pearson"]


class TaskDefinition(Section):
    """A task of classes or numbers, for texts or for their words, in `mux.recipe.tasks.TASKS` or in
    `[tasks.define.NAME]`.

    A row of words is {"tokens": ["Ada", "wrote"], "labels": ["PERSON", "O"]}, say: `tokens` and `label` name its
    columns, and `text` and `text_pair` have no meaning.
    """

    train: Text  # path:FILE (jsonl, tsv, csv) | hub:ID[/CONFIG][@REVISION]:SPLIT | builtin:NAME
    test: Text  # the rows that are reported (GLUE: the validation split, as in the paper)
    text: Text = "text"  # column names
    text_pair: Text | None = None
    tokens: Text | None = None  # the column with the list of words, each of which gets a class
    label: Text = "label"  # a class or a number, or the list of the words' classes
    label_name: Text | None = None  # a column that names the classes; without it the label itself is the name
    metric: Metric = "accuracy"
    others: Annotated[tuple[Metric, ...], Field(strict=False)] = ()
    regression: bool = False
    steps: Count | None = None  # default of fine-tuning steps (Table 8)


class TasksSection(Section):
    root: Text = "hub"
    define: dict[str, TaskDefinition] = {}


class StageSection(Section):
    """What all stages have. `from` names what the stage's model starts from: a stage id | run:PATH | path:DIR |
    hub:ID[@REVISION] | princeton:NAME. A plain BERT or ELECTRA in a folder or on the hub starts the backbone alone.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_\-]{0,63}$")]  # the loader fills in the kind
    from_: Text | None = Field(None, alias="from")  # None: the stage before

    everywhere: ClassVar[bool] = False  # True: takes every device of the cluster; False: one device


class TrainingStage(StageSection):
    """Linear warm-up to `learning_rate`, linear decay to 0 at `steps`; AdamW."""

    batch: Count = 256  # groups per optimizer step over the whole cluster
    learning_rate: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.999)
    adam_epsilon: Positive = 1e-6
    log_every: Count = 10
    save_every: Count = 10_000
    keep_checkpoints: Count = 2


class RetrievalStage(TrainingStage):
    """Prime the multiplexer: decode the input tokens of the group (paper section 3, stage 1)."""

    kind: Literal["retrieval"]
    seed: Natural = 0
    steps: Count = 10_000
    warmup_steps: Natural = 0

    everywhere: ClassVar[bool] = True


class PretrainStage(TrainingStage):
    """BERT: masked language modelling; ELECTRA: telling replaced tokens, with the uniform random generator.

    loss = (1 - r) task + r retrieval with r = `retrieval_rate` (Table 12).
    """

    kind: Literal["pretrain"]
    seed: Natural = 0
    steps: Count = 1_000_000
    warmup_steps: Natural = 10_000
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15  # share of the tokens that are masked or replaced
    retrieval_rate: Rate = 0.0

    everywhere: ClassVar[bool] = True


class Search(Section):
    """A grid over these keys; the best point by the mean over tickets on the test rows is reported."""

    learning_rate: Positives = ()
    batch: Counts = ()


class FinetuneStage(TrainingStage):
    """Train each task; loss = (1 - r) task + r retrieval with r = `retrieval_rate` (T-MUX: 0.1)."""

    kind: Literal["finetune"]
    tasks: Texts
    steps: Count | dict[str, Count] | None = None  # None or a task not named: the task's own (Table 8)
    batch: Count = 32
    learning_rate: Positive = 5e-5
    warmup_fraction: Rate = 0.1
    adam_epsilon: Positive = 1e-8
    retrieval_rate: Beside = 0.0
    sequence_length: Length = 128
    seeds: Naturals = (0,)
    tickets: Count = 5
    search: Search = Search()
    save_every: Count = 5_000


class EvaluateStage(StageSection):
    """Evaluate the fine-tuned models of an earlier stage over `tickets` compositions of the test rows."""

    kind: Literal["evaluate"]
    tickets: Count = 5


class EnsembleStage(StageSection):
    """Each instance `copies` times, all rows permuted together, logits averaged (section 5.4, D.1)."""

    kind: Literal["ensemble"]
    copies: Counts
    tickets: Count = 5


class ThroughputStage(StageSection):
    """Instances per second against N = 1 of the same size and BERT BASE in the same process (appendix C)."""

    kind: Literal["throughput"]
    batch: Count = 128  # instances: ceil(batch / N) full groups
    sequence_length: Length = 128
    trials: Count = 3
    batches: Count = 200  # per trial


Stage = Annotated[
    RetrievalStage | PretrainStage | FinetuneStage | EvaluateStage | EnsembleStage | ThroughputStage,
    Field(discriminator="kind"),
]


class Recipe(Section):
    """A whole run. The loader has already merged `extends`, `drop` and `before`, which do not appear here."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")]
    model: ModelSection
    tokenizer: TokenizerSection
    corpus: CorpusSection
    engine: EngineSection = EngineSection()
    cluster: ClusterSection = ClusterSection()
    tasks: TasksSection = TasksSection()
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]
