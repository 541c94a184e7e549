"""The tasks that recipes can name without defining them: where their rows are, on the hub and in a folder.

The paper reports the validation splits (appendix C), so these are the test rows: GLUE's dev, CoNLL-2003's valid, UD
English EWT's dev. Steps are Table 8's; of its [20000, 100000] for MNLI and QQP the larger: a recipe may say otherwise.
The paper scores POS as entities: seqeval's F1 on tags without B- and I-, which merges equal neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mux.recipe.schema import TaskDefinition, TasksSection

NER_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")  # the hub's order
UPOS = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
        "SYM", "VERB", "X")  # of Universal Dependencies 2

_ENTAILMENT = ("entailment", "not_entailment")
_CONLL = "hub:eriktks/conll2003@refs/convert/parquet"
_EWT = "hub:universal-dependencies/universal_dependencies/en_ewt"


def _glue(name: str, text: str, text_pair: str | None, steps: int, labels: tuple[str, ...] = (), *,
          test: str = "validation", **more: Any) -> TaskDefinition:
    return TaskDefinition(train=f"hub:nyu-mll/glue/{name}:train", test=f"hub:nyu-mll/glue/{name}:{test}", text=text,
                          text_pair=text_pair, labels=labels, steps=steps, **more)


# Classes are named and ordered as on the hub.
TASKS: dict[str, TaskDefinition] = {
    # 11 classes of Wikipedia's vital articles; 400 steps of the quickstart read its 2,000 rows six times
    "topic": TaskDefinition(train="builtin:topic_train", test="builtin:topic_test", label_name="label_name",
                            others=("f1",), steps=400),
    "mnli": _glue("mnli", "premise", "hypothesis", 100_000, ("entailment", "neutral", "contradiction"),
                  test="validation_matched", also={"mismatched": "hub:nyu-mll/glue/mnli:validation_mismatched"}),
    "qqp": _glue("qqp", "question1", "question2", 100_000, ("not_duplicate", "duplicate"), others=("f1",)),
    "qnli": _glue("qnli", "question", "sentence", 20_000, _ENTAILMENT),
    "sst2": _glue("sst2", "sentence", None, 20_000, ("negative", "positive")),
    "cola": _glue("cola", "sentence", None, 10_000, ("unacceptable", "acceptable"), metric="matthews"),
    "mrpc": _glue("mrpc", "sentence1", "sentence2", 10_000, ("not_equivalent", "equivalent"), others=("f1",)),
    "stsb": _glue("stsb", "sentence1", "sentence2", 10_000, metric="spearman", others=("pearson",), regression=True),
    "rte": _glue("rte", "sentence1", "sentence2", 2_000, _ENTAILMENT),
    "wnli": _glue("wnli", "sentence1", "sentence2", 2_000, _ENTAILMENT[::-1]),
    "ner": TaskDefinition(train=f"{_CONLL}:train", test=f"{_CONLL}:validation", tokens="tokens", label="ner_tags",
                          labels=NER_TAGS, metric="entity_f1", others=("accuracy",), steps=20_000),
    "pos": TaskDefinition(train=f"{_EWT}:train", test=f"{_EWT}:dev", tokens="tokens", label="upos", labels=UPOS,
                          others=("entity_f1", "f1"), steps=20_000),
}


class Original(NamedTuple):
    """A task in the files that it was published in."""

    files: Mapping[str, tuple[str, ...]]  # "train", "test" or a name in `also` -> where in the folder it may be
    differences: Mapping[str, Any]  # from the task on the hub: fields of its definition


_TRAIN_DEV = {"train": "train.tsv", "test": "dev.tsv"}


def _tsv(folder: str, names: Mapping[str, str] = _TRAIN_DEV, /, **differences: Any) -> Original:
    places = ("glue/", "glue_data/", "")
    return Original({part: tuple(f"{place}{folder}/{name}" for place in places) for part, name in names.items()},
                    differences)


ORIGINALS: dict[str, Original] = {
    "mnli": _tsv("MNLI", {"train": "train.tsv", "test": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"},
                 text="sentence1", text_pair="sentence2", label="gold_label"),
    "qqp": _tsv("QQP", label="is_duplicate", broken_lines=100),  # questions with a line end in them, in two halves
    "qnli": _tsv("QNLI"),
    "sst2": _tsv("SST-2"),
    "cola": _tsv("CoLA", columns=("source", "label", "mark", "sentence")),
    "mrpc": _tsv("MRPC", text="#1 String", text_pair="#2 String", label="Quality"),
    "stsb": _tsv("STS-B", label="score"),
    "rte": _tsv("RTE"),
    "wnli": _tsv("WNLI"),
    "ner": Original({"train": ("conll2003/train.txt", "conll2003/eng.train"),
                     "test": ("conll2003/valid.txt", "conll2003/eng.testa")}, {"format": "conll", "label": "labels"}),
    "pos": Original({part: tuple(f"{folder}/en_ewt-ud-{name}.conllu" for folder in ("ud_english_ewt", "UD_English-EWT"))
                     for part, name in (("train", "train"), ("test", "dev"))}, {"tokens": "form"}),
}


def known(tasks: TasksSection) -> tuple[str, ...]:
    """The names that a recipe with this section can use."""
    return tuple(TASKS | tasks.define)


def definition_of(name: str, tasks: TasksSection) -> TaskDefinition:
    """The recipe's own definition, else the known one: as on the hub, or in the files of the folder `tasks.root`.

    A file that is not there is where it should be; `missing` names it. KeyError where no task has the name.
    """
    if name in tasks.define:
        return tasks.define[name]
    task, folder, original = TASKS[name], folder_of(tasks), ORIGINALS.get(name)
    if folder is None or original is None:
        return task
    sources = {part: f"path:{folder / (_found(folder, places) or places[0])}"
               for part, places in original.files.items()}
    also = {part: sources[part] for part in task.also}
    return task.model_copy(update={"train": sources["train"], "test": sources["test"], "also": also,
                                   **original.differences})


def missing(name: str, tasks: TasksSection) -> Iterator[tuple[str, ...]]:
    """The files that a known task has not in the folder of `tasks.root`: of each, the places where it may be."""
    folder = folder_of(tasks)
    if name not in tasks.define and folder is not None and name in ORIGINALS:
        yield from (places for places in ORIGINALS[name].files.values() if _found(folder, places) is None)


def folder_of(tasks: TasksSection) -> Path | None:
    """Where the original files are; None: on the hub."""
    scheme, _, folder = tasks.root.partition(":")
    return Path(folder) if scheme == "path" else None


def _found(folder: Path, places: tuple[str, ...]) -> str | None:
    return next((place for place in places if (folder / place).is_file()), None)
