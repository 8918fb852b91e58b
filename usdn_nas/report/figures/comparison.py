"""Compares runs: accuracy against average bit operations (BOPs) of each run, for a range of thresholds."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from usdn_nas._util.units import bops_unit
from usdn_nas.report.comparison import comparable
from usdn_nas.report.figures._style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    grid,
    legend_below,
    new_axes,
    styled,
)
from usdn_nas.report.run import Run

__all__ = ["plot_comparison"]

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")


@styled
def plot_comparison(*runs: Run | Path | str, model: str = "kd", ax: Axes | None = None) -> Axes:
    """Draws accuracy against average BOPs on the test split, with a colour, mark and line for each run.

    A line shows how one threshold for all exits trades accuracy for cost. A large mark is the policy with the fitted
    thresholds.

    Args:
        runs: Runs or their folders.
        model: The network of each run: ``"kd"``, ``"ce"``, ``"supernet"`` ...
        ax: Axes to draw on; None: a new figure.

    Raises:
        UserError: The runs cannot be compared; see `usdn_nas.report.comparison.comparable`.
    """
    named = comparable(*runs, model=model)
    contents = {name: run.evaluation["models"][model] for name, run in named.items()}
    costs = [row["average_bops"] for c in contents.values() for row in (c["policy"], *c["sweep"])]
    scale, unit = bops_unit(costs)
    ax = new_axes(5.6, 4.2)[0] if ax is None else ax
    for i, (name, content) in enumerate(contents.items()):
        color, marker, policy = _COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)], content["policy"]
        sweep = sorted(content["sweep"], key=lambda row: row["threshold"])
        ax.plot(
            [row["average_bops"] / scale for row in sweep],
            [100 * row["accuracy"] for row in sweep],
            color=color,
            linestyle=_LINES[i % len(_LINES)],
            linewidth=1.3,
            marker=marker,
            markersize=3,
            label=name,
            zorder=3,
        )
        ax.scatter(
            policy["average_bops"] / scale,
            100 * policy["accuracy"],
            color=color,
            marker=marker,
            s=110,
            edgecolor=INK,
            linewidths=0.8,
            zorder=5,
        )
    n = next(iter(named.values())).evaluation["n"]
    ax.set_xlabel(f"average {unit} per image")
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"Runs side by side (test, n = {n:,})")
    ax.margins(y=0.1)
    grid(ax)
    legend_below(ax, 2)
    return ax
