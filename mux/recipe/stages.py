"""The stages that a recipe may list: a pydantic model a kind. Numbers are those of Tables 7 and 8 of the paper."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mux.recipe.section import (
    Beside,
    CompositionName,
    Count,
    Counts,
    Decay,
    DemultiplexerName,
    Length,
    MultiplexerName,
    Natural,
    Naturals,
    Positive,
    Positives,
    Rate,
    Section,
    SizeName,
    Text,
    Texts,
)


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
    keep_checkpoints: Count = 2  # the last so many stay
    keep_every: Count | None = None  # and those of steps that are multiples of this


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
    """A grid over these keys. The point with the best mean over seeds (and tickets) on rows that the task names for
    this is kept: part of the train rows, which no point then trains on, or the task's dev rows.

    GLUE's dev rows are also the reported ones, as in the paper; a choice on them flatters the result.
    """

    learning_rate: Positives = ()
    batch: Counts = ()
    choose_on: Literal["held_out", "dev"] = "held_out"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the train rows


class FinetuneStage(TrainingStage):
    """Train each task; loss = (1 - r) task + r retrieval with r = `retrieval_rate` (T-MUX: 0.1).

    With a `teacher`, a run with a model of each of these tasks, the task's loss is (1 - t) labels + t teacher with
    t = `teacher_rate`: the divergence from the teacher's answers, softened by `temperature` (Hinton et al. 2015).
    """

    kind: Literal["finetune"]
    tasks: Texts
    steps: Count | dict[str, Count] | None = None  # None or a task not named: its own (Table 8)
    batch: Count = 32
    learning_rate: Positive = 5e-5
    warmup_fraction: Rate = 0.1
    adam_epsilon: Positive = 1e-8
    retrieval_rate: Beside = 0.0
    teacher: Text | None = None  # run:PATH
    teacher_rate: Rate = 0.5
    temperature: Positive = 2.0
    sequence_length: Length = 128
    seeds: Naturals = (0,)
    tickets: Count = 5
    search: Search = Search()
    save_every: Count = 5_000


class EvaluateStage(StageSection):
    """Evaluate the fine-tuned models of an earlier stage over `tickets` compositions of the test rows into groups.

    `compositions` says who shares a group: anyone (random), rows of similar length (length), rows with common words
    (similar) or with as few as possible (dissimilar).
    """

    kind: Literal["evaluate"]
    tickets: Count = 5
    compositions: Annotated[tuple[CompositionName, ...], Field(strict=False, min_length=1)] = ("random",)


class EnsembleStage(StageSection):
    """Each instance `copies` times, all rows permuted together, logits averaged (section 5.4, D.1)."""

    kind: Literal["ensemble"]
    copies: Counts | None = None  # None: every number from 1 to N
    tickets: Count = 5


class ThroughputModels(Section):
    """Models to time: every `size` with every N, multiplexer and demultiplexer, and encoders of transformers.

    What is left out has the recipe's own value (N: that and 1). At N = 1 there is one model of a size, whatever the
    multiplexers are.
    """

    family: Annotated[tuple[Literal["bert", "electra"], ...], Field(strict=False)] = ()
    size: Annotated[tuple[SizeName, ...], Field(strict=False)] = ()
    N: Counts = ()
    multiplexer: Annotated[tuple[MultiplexerName, ...], Field(strict=False)] = ()
    demultiplexer: Annotated[tuple[DemultiplexerName, ...], Field(strict=False)] = ()
    hub: Texts = ()  # hub:ID[@REVISION] | path:DIR, each at N = 1


class ThroughputStage(StageSection):
    """Instances per second against N = 1 of the same size and BERT BASE in the same process (appendix C).

    `batches_of` says what one batch is: "instances", ceil(batch / N) full groups (the paper's words); "groups", `batch`
    groups at every N (what its scripts did); "one_group", a single group, whose time is the latency; "ragged", texts
    of about 27 tokens, sorted by length, 8 batches of them at once (eager alone).
    """

    kind: Literal["throughput"]
    batch: Count = 128
    sequence_length: Length = 128
    trials: Count = 3
    batches: Count = 200  # per trial
    heads: Annotated[
        tuple[Literal["sequence", "token"], ...], Field(strict=False, min_length=1)
    ] = ("sequence", "token")
    batches_of: Annotated[
        tuple[Literal["instances", "groups", "one_group", "ragged"], ...], Field(strict=False, min_length=1)
    ] = ("instances", "groups", "one_group")
    modes: Annotated[tuple[Literal["eager", "compiled"], ...], Field(strict=False, min_length=1)] = ("eager",)
    models: ThroughputModels = ThroughputModels()  # none: the recipe's own and its N = 1


class MuxologyStage(StageSection):
    """Mean absolute activation and attention entropy of every layer over an evaluation corpus (section 5.5, D.2)."""

    kind: Literal["muxology"]
    corpus: Text = "hub:Salesforce/wikitext/wikitext-103-raw-v1:validation"  # as in [corpus] sources, with a split
    models: Texts = ()  # further ones, as in `from`: their own N, their own tokenizer
    batch: Count = 16  # groups per forward
    sequence_length: Length | None = None  # None: that of [corpus]
    groups: Count | None = None  # at most so many are read; None: all


Stage = Annotated[
    RetrievalStage | PretrainStage | FinetuneStage | EvaluateStage | EnsembleStage
    | ThroughputStage | MuxologyStage,
    Field(discriminator="kind"),
]
