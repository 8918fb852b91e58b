"""Draws accuracy against average bit operations (BOPs) of models trained with KD, CE, and CE with temperatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from usdn_nas._util.units import bops_unit
from usdn_nas.report.figures._style import (
    MODEL_STYLES,
    compared,
    given_axes,
    grid,
    legend_below,
    new_axes,
    styled,
)
from usdn_nas.report.run import MissingPartError, Run

__all__ = ["plot_curves"]

_PANELS = {"sweep": "One shared threshold", "fitted": "Thresholds fitted exit by exit"}


@styled
def plot_curves(run: Run, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """Draws accuracy against average BOPs on the test split, in two panels with the same scales.

    Left: one threshold for all exits, from 0.1 to 1. Right: a threshold for each exit, fitted on the search split for a
    series of weights of the relative BOPs.
    """
    evaluation = run.evaluation
    models = [n for n in compared(evaluation, tuple(MODEL_STYLES)) if evaluation["models"][n]["fitted"]]
    if not models:
        raise MissingPartError("no threshold to move: no early exit", where="evaluation.json")
    axes = given_axes(ax, 2) or new_axes(8.2, 3.9, columns=2, sharex=True, sharey=True)
    curves = [row for name in models for key in _PANELS for row in evaluation["models"][name][key]]
    scale, unit = bops_unit([row["average_bops"] for row in curves])
    for one, (key, title) in zip(axes, _PANELS.items(), strict=True):
        for name in models:
            _draw(one, sorted(evaluation["models"][name][key], key=lambda row: row["average_bops"]), name, scale)
        one.set_xlabel(f"average {unit} per image")
        one.set_title(title)
        grid(one)
        legend_below(one, 3)
    axes[0].set_ylabel(f"accuracy (%), test, n = {evaluation['n']:,}")
    return axes


def _draw(ax: Axes, rows: Sequence[Mapping[str, Any]], name: str, scale: float) -> None:
    style = MODEL_STYLES[name]
    ax.plot(
        [row["average_bops"] / scale for row in rows],
        [100 * row["accuracy"] for row in rows],
        color=style["color"],
        linestyle=style["linestyle"],
        marker=style["marker"],
        markersize=3.5,
        linewidth=1.2,
        label=style["label"],
    )
