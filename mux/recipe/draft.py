"""A recipe in the making: layers laid on top of each other, each value with the place where it is stated.

Tables merge key by key and stages by id; everything else is replaced. While layers are laid, `stages` is a
dict from label to table: a stage's label is its id, or its index where the file gives it none that is usable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mux.recipe import positions
from mux.recipe.document import Document, shown_path
from mux.recipe.refusal import Problem
from mux.recipe.wording import did_you_mean, dotted, shown

Label = str | int

MAX_DEPTH = 8  # of merging; recipes have 4 levels, and endless nesting must not exhaust the stack


@dataclass
class Layer:
    """What one file, or all of `--set`, says."""

    values: dict[str, Any]
    origins: dict[positions.Path, str]  # where each key is stated: "file:line", "--set"
    drop: list[str] = field(default_factory=list)
    before: dict[Label, str] = field(default_factory=dict)


class Draft:
    """What the layers so far make together, not yet validated, and what was wrong with them."""

    def __init__(self, file: Document) -> None:
        self.path, self.text = file.path, file.text
        self.values: dict[str, Any] = {}
        self.origins: dict[positions.Path, str] = {}
        self.problems: list[Problem] = []
        self.more = 0  # problems that nobody wants to read, too
        self._dropped: dict[str, str | None] = {}  # stage -> the file and line that dropped it
        self._gone: set[positions.Path] = set()  # what a layer has replaced: origins of this and all in it are old

    @property
    def stages(self) -> dict[Label, dict[str, Any]]:
        return self.values.get("stages", {})

    @property
    def kinds(self) -> dict[Label, str]:
        """Stage -> its kind, where that is a text."""
        kinds = {label: stage.get("kind") for label, stage in self.stages.items()}
        return {label: kind for label, kind in kinds.items() if isinstance(kind, str)}

    def where(self, path: positions.Path) -> str:
        """Where a key, or the innermost table around it that is stated, stands."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return shown_path(self.path)

    def problem(
        self, path: positions.Path, message: str, hint: str | None = None, where: str | None = None
    ) -> None:
        self.problems.append(Problem(message, dotted(path), where or self.where(path), hint))

    def tree(self) -> dict[str, Any]:
        """The recipe as pydantic takes it: stages in a list, each with its id."""
        if "stages" not in self.values:
            return self.values
        stages, kinds = [], self.kinds
        for label, stage in self.stages.items():
            default = label if isinstance(label, str) else kinds.get(label)
            stages.append(stage if default is None else {"id": default} | stage)
        return self.values | {"stages": stages}

    # --- laying ---------------------------------------------------------------------------------------------
    def lay(self, layer: Layer) -> None:
        self._drop(layer)
        self._refuse_dropped(layer)
        self._replace_changed_kinds(layer.values.get("stages", {}))
        self._merge(self.values, layer.values, ())
        self._forget()
        self.origins |= layer.origins
        if not self.stages and layer.drop:
            self.origins["stages",] = layer.origins["drop",]
        self._place(layer)

    def _drop(self, layer: Layer) -> None:
        for index, stage in enumerate(layer.drop):
            where = layer.origins.get(("drop", index)) or layer.origins.get(("drop",))
            if stage in self.stages:
                del self.stages[stage]
                self._gone.add(("stages", stage))
                self._dropped[stage] = where
            elif stage not in self._dropped:  # two bases may both do without a stage
                hint = did_you_mean(stage, self.ids(), "stages of the base")
                self.problem(("drop",), f"{shown(stage)} is no stage of the base", hint, where)

    def _refuse_dropped(self, layer: Layer) -> None:
        """A base that changes a stage which another base dropped: what is left of the stage is none."""
        stages = layer.values.get("stages", {})
        for label in [label for label in stages if label in self._dropped and label not in self.stages]:
            if "kind" not in stages[label]:
                del stages[label]
                self.problem(("stages", label), f"was dropped in {self._dropped[label]}",
                             "give it a kind of its own, or have extends name the file that drops it last",
                             layer.origins.get(("stages", label)))

    def _replace_changed_kinds(self, stages: dict[Label, dict[str, Any]]) -> None:
        """A stage of another kind takes over the place and the id, but no key, of the stage it stands for."""
        kinds = self.kinds
        for label, stage in stages.items():
            if label in self.stages and stage.get("kind", kinds.get(label)) != kinds.get(label):
                self.stages[label].clear()
                self._gone.add(("stages", label))

    def _merge(self, below: dict[Any, Any], above: dict[Any, Any], path: positions.Path) -> None:
        for key, value in above.items():
            old = below.get(key)
            if isinstance(old, dict) and isinstance(value, dict) and len(path) < MAX_DEPTH:
                self._merge(old, value, (*path, key))
            else:
                if isinstance(old, dict | list):
                    self._gone.add((*path, key))
                below[key] = value

    def _forget(self) -> None:
        """Drop the origins of what is no longer there."""
        if self._gone:
            self.origins = {path: where for path, where in self.origins.items()
                            if not any(path[:end] in self._gone for end in range(1, len(path) + 1))}
            self._gone.clear()

    def _place(self, layer: Layer) -> None:
        for label, successor in layer.before.items():
            stages = self.stages
            if successor not in stages or successor == label:
                others = [stage for stage in self.ids() if stage != label]
                message = f"{shown(successor)} is no other stage of this recipe"
                self.problem(("stages", label, "before"), message, did_you_mean(successor, others, "stages"))
                continue
            moved = stages.pop(label)
            order = list(stages.items())
            at = next(index for index, (other, _) in enumerate(order) if other == successor)
            self.values["stages"] = dict([*order[:at], (label, moved), *order[at:]])

    def ids(self) -> list[str]:
        return [label for label in self.stages if isinstance(label, str)]
