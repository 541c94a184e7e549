"""Inside the encoder, layer by layer (the paper's Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from mux.report.drawing import draw, legend_below, series, shown
from mux.report.results import Inside, Run
from mux.report.section import Section
from mux.report.tables import Table, number, text

PANELS = (("mean_abs", "mean absolute activation", ""), ("attention_entropy", "attention entropy", ", nats"))


def section(runs: Sequence[Run]) -> Section:
    models = [(f"{run.label}: {inside.name}" if len(runs) > 1 else inside.name, inside)
              for run in runs for stage in run.stages("muxology") for inside in stage.models if inside.layers]
    lead = ("Mean absolute activation behind every layer, and entropy of its attention, over an evaluation corpus: one "
            "line a model. The paper found that activations of multiplexed models spike in the last layer and that "
            "their attention is peakier in higher layers; it prints Figure 5 without numbers, so none are shown here.")
    missing = ("A muxology stage fills Figure 5, e.g. `[[stages]]` with `kind = \"muxology\"` behind the pre-training "
               "stage of recipes/bert_base_n2.toml.")
    if not models:
        return Section("muxology", "Inside the encoder: Figure 5", lead, missing)
    description = "; ".join(f"{name}: last layer {inside.layers[-1].mean_abs}" for name, inside in models)
    drawing = draw("figure_5", "Figure 5", f"Activation and attention entropy by layer. {description}", (9.2, 4.2),
                   lambda figure: _plot(figure, models))
    rows = [[text(name), number(inside.N), number(layer.layer), number(layer.mean_abs, 4),
             number(layer.attention_entropy, 4), text(inside.corpus), number(inside.tokens)]
            for name, inside in models for layer in inside.layers]
    table = Table("figure_5", "Layers", ["model", "N", "layer", "mean absolute activation", "attention entropy, nats",
                                         "corpus", "tokens"], rows, folded=True)
    return Section("muxology", "Inside the encoder: Figure 5", lead, missing, [drawing], [table])


def _plot(figure: Figure, models: Sequence[tuple[str, Inside]]) -> dict[str, str]:
    tips = {}
    for panel, (axes, (key, name, unit)) in enumerate(zip(figure.subplots(1, 2), PANELS, strict=True)):
        for index, (label, inside) in enumerate(models):
            layers = [layer for layer in inside.layers if getattr(layer, key) is not None]
            axes.plot([layer.layer for layer in layers], [getattr(layer, key) for layer in layers], markersize=4,
                      label=shown(label), gid=(gid := f"layers-{panel}-{index}"), **series(index))
            tips[gid] = "\n".join([label, *(f"layer {layer.layer}: {getattr(layer, key):.4g}" for layer in layers)])
        axes.set(title=name, xlabel="layer", ylabel=f"{name}{unit}")
        axes.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, axes, columns=2)
    return tips
