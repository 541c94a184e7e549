"""What a recipe may say: a frozen pydantic model a table, unknown keys refused, the paper's defaults.

Each part of the program is handed its own section, never the whole recipe; only the launcher's plan and
`mux.worker` see a `Recipe`. Numbers come from Tables 7 and 8 of the MUX-PLM paper unless a comment says
otherwise. The stages' sections are in `mux.recipe.stages`.
"""

from typing import Annotated, Literal

from pydantic import Field

from mux.recipe.section import (
    LIMIT,
    Count,
    DemultiplexerName,
    Length,
    MultiplexerName,
    Name,
    Natural,
    Positive,
    Rate,
    Seconds,
    Section,
    SizeName,
    Text,
    Texts,
)
from mux.recipe.stages import Stage
from mux.size import SIZES


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
    size: SizeName | Shape = "BASE"
    embedding: Count | None = None  # ELECTRA may embed narrower than it encodes; None: as wide
    N: Count = 1
    multiplexer: MultiplexerName = "gaussian"
    demultiplexer: DemultiplexerName = "rsa"
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
    def size_name(self) -> str:
        """"BASE", or "4x256"."""
        return self.size if isinstance(self.size, str) else f"{self.size.layers}x{self.size.hidden}"

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
    # At most so many groups per device and forward; "auto": as many as fit, measured when the run starts.
    micro_batch: Count | Literal["auto"] = 32
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # 0: none
    activation_checkpointing: bool = False
    initial_loss_scale_power: Annotated[int, Field(ge=0, le=32)] = 16  # fp16: the scale starts at 2 ** this
    profile: bool = False  # record a few steps of every training: a trace, and a table of where their time goes


class ClusterSection(Section):
    processes: Count = 1  # only without a hostfile and without GPUs
    min_hosts: Count | None = None  # with fewer healthy hosts the run stops; None: every host of the hostfile is needed
    max_restarts: Natural = 0  # of a job, without progress in between
    heartbeat_seconds: Seconds = 30.0  # a rank silent for longer is lost: its job is ended, and started again
    stall_seconds: Seconds = 1800.0  # so is a job none of whose ranks has come further for so long
    collective_timeout_seconds: Seconds = 1800.0  # a collective that hangs for longer ends the job


RowFormat = Literal["jsonl", "tsv", "csv", "conll", "conllu"]
Metric = Literal["accuracy", "f1", "entity_f1", "matthews", "spearman", "pearson"]


class HealthSection(Section):
    """What happens when a training's loss is not finite, jumps, or its gradients overflow step after step."""

    policy: Literal["stop", "rollback"] = "stop"  # rollback: to the newest checkpoint, past the batches since then
    rollbacks: Count = 3  # of a training; at the next one it stops
    spike: Annotated[float, Field(gt=1)] | None = None  # a loss so many times the median of late is one; None: none is
    overflows: Count = 100  # fp16: so many skipped steps in a row at the smallest loss scale


class SlurmSection(Section):
    """What `--slurm` asks the scheduler for. Nodes without GPUs run `cluster.processes` ranks on their CPUs."""

    nodes: Count = 1
    gpus_per_node: Natural = 8
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,3}(:\d{1,2}){0,2}$")] = "1-00:00:00"  # as sbatch takes it
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Name | None = None
    # before the time is up, the run saves a checkpoint and is queued again; sbatch takes no more
    signal_seconds: Annotated[int, Field(ge=10, le=65_535)] = 120


class TaskDefinition(Section):
    """A task of classes or numbers, for texts or for their words, in `mux.recipe.tasks` or in `[tasks.define.NAME]`.

    A row of words is {"tokens": ["Ada", "wrote"], "labels": ["PERSON", "O"]}, say: `tokens` and `label` name its
    columns, and `text` and `text_pair` have no meaning. Files in columns (conll) have "tokens" and "labels", the first
    and the last column; CoNLL-U has its own names in small letters ("form", "upos", "xpos").
    """

    train: Text  # path:FILE | hub:ID[/CONFIG][@REVISION]:SPLIT | builtin:NAME
    test: Text  # the rows that are reported (GLUE: the validation split, as in the paper)
    dev: Text | None = None  # rows to choose on, where a search says choose_on = "dev"; None: the test rows
    also: dict[str, Text] = Field(default_factory=dict)  # further rows that are reported, by name (MNLI: mismatched)
    format: RowFormat | None = None  # of the files; None: as their suffix says
    columns: Texts = ()  # names, for tsv and csv files whose first line has none
    broken_lines: Natural = 0  # of tsv and csv files: so many without a value for each column may be left out
    text: Text = "text"  # column names
    text_pair: Text | None = None
    tokens: Text | None = None  # the column with the list of words, each of which gets a class
    label: Text = "label"  # a class or a number, or the list of the words' classes
    label_name: Text | None = None  # a column that names the classes; without it the label itself is the name
    labels: Texts = ()  # the classes' names in order; rows have a name or, counted from 0, its number. (): as found
    metric: Metric = "accuracy"
    others: Annotated[tuple[Metric, ...], Field(strict=False)] = ()
    regression: bool = False
    steps: Count | None = None  # default of fine-tuning steps (Table 8)


class TasksSection(Section):
    """Where the tasks that have a name (`mux.recipe.tasks`) are read: on the hub, or in a folder of original files."""

    root: Text = "hub"  # hub | path:DIR
    define: dict[str, TaskDefinition] = Field(default_factory=dict)


class Recipe(Section):
    """A whole run. The loader has already merged `extends`, `drop` and `before`, which do not appear here."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")]
    model: ModelSection
    tokenizer: TokenizerSection
    corpus: CorpusSection
    engine: EngineSection = EngineSection()
    cluster: ClusterSection = ClusterSection()
    health: HealthSection = HealthSection()
    slurm: SlurmSection = SlurmSection()
    tasks: TasksSection = TasksSection()
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]
