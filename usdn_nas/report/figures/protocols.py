"""Draws anytime prediction and budgeted batches, the two evaluations of MSDNet (Huang et al., 2018)."""

from __future__ import annotations

from matplotlib.axes import Axes

from usdn_nas._util.units import bops_unit
from usdn_nas.report.figures._style import MODEL_STYLES, compared, grid, legend_below, new_axes, styled
from usdn_nas.report.run import MissingPartError, Run
from usdn_nas.report.tables import anytime_table, budgeted_table

__all__ = ["plot_budgeted"]

_GIGA = 1e9


@styled
def plot_budgeted(run: Run, *, ax: Axes | None = None) -> Axes:
    """Draws accuracy against bit operations (BOPs) on the test split, for KD and CE alone.

    A point shows anytime prediction: all samples are answered at one exit. A line shows budgeted batches: thresholds
    are fitted on the search split so that the shares of samples at the exits are proportional to q, q^2 ...
    """
    evaluation = run.evaluation
    tables = {name: budgeted_table(evaluation, name) for name in compared(evaluation)}
    tables = {name: frame for name, frame in tables.items() if len(frame)}
    if not tables:
        raise MissingPartError("no exit to leave at", where="evaluation.json")
    ax = ax or new_axes(5.2, 3.9)[0]
    everything = [g * _GIGA for name in tables for g in anytime_table(evaluation, name)["gbops"]]
    scale, unit = bops_unit(everything)
    for name, frame in tables.items():
        style, anytime = MODEL_STYLES[name], anytime_table(evaluation, name)
        curve = frame.sort_values("average_gbops")
        x = curve["average_gbops"] * _GIGA / scale
        ax.plot(x, 100 * curve["accuracy"], color=style["color"], label=f"{style['label']}, budgeted batch")
        ax.plot(
            anytime["gbops"] * _GIGA / scale,
            100 * anytime["accuracy"],
            color=style["color"],
            linestyle="none",
            marker=style["marker"],
            label=f"{style['label']}, anytime",
        )
    ax.set_xlabel(f"average {unit} per image")
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"Budgeted batches and anytime (test, n = {evaluation['n']:,})")
    grid(ax)
    legend_below(ax, 2)
    return ax
