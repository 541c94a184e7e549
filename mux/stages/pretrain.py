"""Pre-training: masked language modelling or replaced-token detection, with the retrieval loss beside it if the recipe
says so.

The retrieval stage is the same training with the retrieval loss alone (paper section 3.4).
"""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mux.data.batches import CorpusBatches, Share, TextQuestions
from mux.data.masking import CORRUPTIONS, Vocabulary
from mux.event import ModelSaved
from mux.hub.provenance import training_texts
from mux.model import MuxConfig, MuxForPreTraining
from mux.model.muxed import placed
from mux.plan import StagePlan
from mux.recipe import PretrainStage, RetrievalStage
from mux.stages.context import Context
from mux.stages.loading import config_of, load_model
from mux.stages.micro_batch import Workload
from mux.stages.model_folder import save_model
from mux.stages.sources import source_folder
from mux.stages.training import identity, limits, profiling, resume, save_memory
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine
from mux.train.loop import Training, seed_of, train
from mux.train.objective import MASKED_TOKENS, REPLACED_TOKENS, Answers, Batch, Objective, weighed
from mux.train.schedule import Schedule

HELD_OUT_GROUPS = 128  # enough for two digits of an accuracy
HELD_OUT_SEED = 2**31  # masks of the held-out rows: the same at every evaluation, of no training step
ANSWERS: dict[str, Answers] = {"bert": MASKED_TOKENS, "electra": REPLACED_TOKENS}


def run(context: Context, stage: PretrainStage) -> None:
    train_on_corpus(context, stage, mask_rate=stage.mask_rate, retrieval_rate=stage.retrieval_rate)


def workload(context: Context, stage: PretrainStage) -> Workload:
    return corpus_workload(context, stage.mask_rate, stage.retrieval_rate)


def corpus_workload(context: Context, mask_rate: float | None, retrieval_rate: float) -> Workload:
    """Of `train_on_corpus`: rows of random tokens."""
    tokenizer, N = context.tokenizer, context.recipe.model.N
    config = config_of(context.recipe.model, tokenizer, retrieval_rate)
    objective = objective_of(config)
    questions = questions_of(config, objective, context, mask_rate)
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def batch(groups: int) -> Batch:
        shape = (groups, N, context.recipe.corpus.sequence_length)
        return questions(np.random.default_rng(0).choice(ordinary, shape), 0, 0, 0)

    model = MuxForPreTraining(config)
    save_memory(context, model)
    return Workload(model, objective, batch)


def train_on_corpus(context: Context, stage: PretrainStage | RetrievalStage, mask_rate: float | None,
                    retrieval_rate: float) -> None:
    """Train on the corpus and leave `<stage>/model/`; the result's accuracies are of held-out rows, without dropout.

    `mask_rate`: share of the tokens that are masked or replaced; None: none are.
    """
    started, plan = time.monotonic(), context.plan.stage(stage.id)
    context.start(plan, stage.steps)
    corpus, N = context.corpus, context.recipe.model.N
    config = config_of(context.recipe.model, context.tokenizer, retrieval_rate)
    objective = objective_of(config)
    questions = questions_of(config, objective, context, mask_rate)
    assert plan.batch is not None and plan.micro_batch is not None and plan.deepspeed is not None
    share = Share(context.ranks.rank, context.ranks.size, plan.batch, plan.micro_batch)
    engine = Engine(starting_model(context, stage, plan, config), plan.deepspeed,
                    weight_decay=stage.weight_decay, betas=stage.adam_betas, epsilon=stage.adam_epsilon)
    checkpoints = Checkpoints(context.run.checkpoints(stage.id), context.ranks, identity(context, stage.id),
                              stage.keep_checkpoints, stage.keep_every)
    again = functools.partial(resume, context, checkpoints, engine, stage.id)
    result: dict[str, Any] = {}
    position = again()
    if position.step:
        context.start(plan, stage.steps, position.step)
    end = train(
        Training(stage=stage.id, steps=stage.steps, batches=CorpusBatches(corpus, questions, N, stage.seed, share),
                 objective=objective, schedule=Schedule(stage.learning_rate, stage.warmup_steps, stage.steps),
                 groups=plan.batch, N=N, seed=stage.seed, log_every=stage.log_every, save_every=stage.save_every,
                 limits=limits(context),
                 profile=profiling(context, stage.id, context.run.stage(stage.id) / "profile", result)),
        engine, context.ranks, checkpoints, position, again, context.say, context.stop, context.moved)
    folder = context.run.model(stage.id)
    save_model(context, engine, folder, stage.id, folder, training_texts(context.plan, stage.id))
    context.say(ModelSaved(stage=stage.id, path=str(folder)))
    result |= {"steps": stage.steps, "model": str(folder.relative_to(context.run.path))}
    result |= held_out(context, engine, config, mask_rate, plan.micro_batch)
    result |= {"retrieval_rate": retrieval_rate, "curve": end.curve.columns()}
    if last := end.last:
        result |= {"instances_per_second": last.instances_per_second, "tokens_per_second": last.tokens_per_second,
                   "training_loss": last.loss, "skipped": last.skipped}
    engine.close()
    context.finish(stage.id, result, started)


def objective_of(config: MuxConfig) -> Objective:
    """The family's task and retrieval by the configuration's weights; all of ELECTRA's loss counts as often as
    published, if so asked."""
    assert config.discriminator_weight is not None
    return Objective(weighed(config.retrieval_weight, config.discriminator_weight if config.family == "electra" else 1),
                     ANSWERS[config.family])


def questions_of(config: MuxConfig, objective: Objective, context: Context, mask_rate: float | None) -> TextQuestions:
    tokenizer = context.tokenizer
    vocabulary = Vocabulary(len(tokenizer), tuple(tokenizer.all_special_ids), tokenizer.mask_token_id,
                            tokenizer.pad_token_id)
    corruption = None if mask_rate is None else CORRUPTIONS[config.family, bool(config.exact_replacement)]
    return TextQuestions(
        vocabulary=vocabulary, corruption=corruption, rate=mask_rate or 0.0, task="task" in objective.weights,
        retrieval="retrieval" in objective.weights, uncorrupted=bool(config.uncorrupted_retrieval),
        unread=0 if config.own_special_ids else config.prefix_length)


def starting_model(context: Context, stage: PretrainStage | RetrievalStage, plan: StagePlan,
                   config: MuxConfig) -> MuxForPreTraining:
    """The model the stage starts from: its source's weights, or new ones; what is new is drawn from the seed."""
    torch.manual_seed(seed_of(stage.seed, "weights"))  # the same on every rank
    model = (MuxForPreTraining(config) if plan.source is None
             else load_model(MuxForPreTraining, source_folder(context, plan.source), config,
                             tell=functools.partial(context.remark, stage.id), another_N=True))
    save_memory(context, model)
    return model


@torch.no_grad()
def held_out(context: Context, engine: Engine, config: MuxConfig, mask_rate: float | None,
             micro_batch: int) -> dict[str, float]:
    """Losses and accuracies over held-out rows. Every rank runs the same number of batches, as ZeRO 3 needs.

    Retrieval is measured whether it was trained or not, of the rows as the stage reads them: what stood where they are
    masked (`mask_rate`) or replaced can only be guessed, so that the number is lower than of whole rows. Without a
    retrieval loss ELECTRA's vocabulary head stands still while the rest moves, and its number is a lower bound.
    """
    objective = objective_of(config)
    if config.multiplexed:
        objective = replace(objective, weights=objective.weights | {
            "retrieval": objective.weights.get("retrieval", 0.0)})
    questions = questions_of(config, objective, context, mask_rate)
    corpus, ranks, N = context.corpus, context.ranks, context.recipe.model.N
    groups = min(HELD_OUT_GROUPS, len(corpus.held_out) // N)
    if groups == 0:
        return {}
    engine.model.eval()
    rounds = -(-groups // (micro_batch * ranks.size))
    sums = {f"{name}.{what}": 0.0 for name in objective.weights for what in ("loss", "correct", "count")}
    usual = objective.answers.usual if "task" in objective.weights else None
    sums |= {"task.usual": 0.0} if usual is not None else {}
    for index in range(rounds):
        context.progress_together("evaluating held-out rows", index, rounds, "batches")
        first = (index * ranks.size + ranks.rank) * micro_batch
        counted = range(first, min(first + micro_batch, groups))  # may be empty: then it runs a group for the others
        chosen = counted or range(1)
        rows = corpus.held_out[chosen.start * N : chosen.stop * N]
        ids_BNL = corpus.take(rows).reshape(len(chosen), N, -1)
        batch = questions(ids_BNL, HELD_OUT_SEED, 0, chosen.start)
        parts = objective(engine.forward, placed(engine.model, batch, ranks.device), objective.counts(batch))
        for name, part in parts.items() if counted else ():
            sums[f"{name}.loss"] += float(part.loss) * part.count
            sums[f"{name}.correct"] += float(part.correct)
            sums[f"{name}.count"] += part.count
        if usual is not None and counted:
            sums["task.usual"] += float(batch["labels"].eq(usual).sum())
    total = dict(zip(sums, ranks.sum(sums.values()), strict=True))
    losses = {name: total[f"{name}.loss"] / max(total[f"{name}.count"], 1) for name in objective.weights}
    first_part = next(iter(objective.weights))
    return {
        "loss": sum(weight * losses[name] for name, weight in objective.weights.items()),
        **{f"{name}_loss": loss for name, loss in losses.items()},
        "accuracy": total[f"{first_part}.correct"] / max(total[f"{first_part}.count"], 1),
        **({"retrieval_accuracy": total["retrieval.correct"] / max(total["retrieval.count"], 1)}
           if "retrieval" in objective.weights else {}),
        **({"majority": total["task.usual"] / max(total["task.count"], 1)} if usual is not None else {}),
        "held_out_rows": groups * N,
    }
