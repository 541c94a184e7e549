"""The tasks that recipes can name without defining them.

GLUE is read from the hub; the paper reports its validation splits (appendix C), so these are the test rows.
Steps are Table 8's; of its [20000, 100000] for MNLI and QQP the larger: a recipe may say otherwise.
"""

from __future__ import annotations

from mux.recipe.schema import Metric, TaskDefinition


def _glue(
    name: str, text: str, text_pair: str | None, steps: int, *, metric: Metric = "accuracy",
    others: tuple[Metric, ...] = (), regression: bool = False, test: str = "validation",
) -> TaskDefinition:
    return TaskDefinition(
        train=f"hub:nyu-mll/glue/{name}:train", test=f"hub:nyu-mll/glue/{name}:{test}", text=text,
        text_pair=text_pair, metric=metric, others=others, regression=regression, steps=steps,
    )


TASKS: dict[str, TaskDefinition] = {
    # 11 classes of Wikipedia's vital articles; 400 steps of the quickstart read its 2,000 rows six times
    "topic": TaskDefinition(train="builtin:topic_train", test="builtin:topic_test", label_name="label_name",
                            others=("f1",), steps=400),
    "mnli": _glue("mnli", "premise", "hypothesis", 100_000, test="validation_matched"),
    "qqp": _glue("qqp", "question1", "question2", 100_000, others=("f1",)),
    "qnli": _glue("qnli", "question", "sentence", 20_000),
    "sst2": _glue("sst2", "sentence", None, 20_000),
    "cola": _glue("cola", "sentence", None, 10_000, metric="matthews"),
    "mrpc": _glue("mrpc", "sentence1", "sentence2", 10_000, others=("f1",)),
    "stsb": _glue("stsb", "sentence1", "sentence2", 10_000, metric="spearman", others=("pearson",),
                  regression=True),
    "rte": _glue("rte", "sentence1", "sentence2", 2_000),
    "wnli": _glue("wnli", "sentence1", "sentence2", 2_000),
}
