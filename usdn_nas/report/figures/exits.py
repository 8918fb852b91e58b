"""Draws Table I as a figure: how many samples leave at each exit, and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from usdn_nas._util.units import bops_unit
from usdn_nas.report.figures._style import (
    BLUE,
    INK,
    MODEL_STYLES,
    ORANGE,
    PAPER,
    compared,
    given_axes,
    grid,
    legend_below,
    new_axes,
    styled,
)
from usdn_nas.report.run import Run
from usdn_nas.report.tables import AVERAGE, table1

_BEHIND = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}

__all__ = ["ExitsData", "draw_exits", "plot_exits"]


@dataclass(frozen=True)
class ExitsData:
    """Data of the figure, for E exits.

    Attributes:
        exits: Labels of the E exits.
        rates: E exit rates in percent of each model.
        cumulative: For the first model, cost of a sample that leaves at each of the E exits, in bit operations (BOPs).
        shares: For the first model, these E costs multiplied by the exit rates.
        average: Average BOPs of the first model.
        n: Number of images in the test split.
    """

    exits: tuple[str, ...]
    rates: dict[str, tuple[float, ...]]
    cumulative: tuple[float, ...]
    shares: tuple[float, ...]
    average: float
    n: int


def _exits_data(evaluation: Mapping[str, Any]) -> ExitsData:
    tables = {name: table1(evaluation, name) for name in compared(evaluation)}
    first = next(iter(tables.values()))
    rows = first[first["exit"] != AVERAGE]
    labels = [
        name if threshold != threshold else f"{name}\n≥ {threshold:.2f}"
        for name, threshold in zip(rows["exit"], rows["threshold"], strict=True)
    ]
    return ExitsData(
        tuple(labels),
        {name: tuple(table["exit_rate_percent"].iloc[:-1]) for name, table in tables.items()},
        tuple(1e9 * rows["cumulative_gbops"]),
        tuple(1e9 * rows["cost_share_gbops"]),
        float(1e9 * first["cost_share_gbops"].iloc[-1]),
        int(evaluation["n"]),
    )


def _value(ax: Axes, text: str, x: float, y: float) -> None:
    ax.annotate(
        text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5, zorder=5, bbox=_BEHIND
    )


def draw_exits(axes: Sequence[Axes], data: ExitsData) -> list[Axes]:
    """Draws exit rates on the first of ``axes`` and costs on the second, with the exits from top to bottom."""
    left, right = axes
    count = len(data.exits)
    height = 0.72 / len(data.rates)
    for i, (name, rates) in enumerate(data.rates.items()):
        style = MODEL_STYLES[name]
        places = [y + (i - (len(data.rates) - 1) / 2) * height for y in range(count)]
        left.barh(
            places,
            rates,
            height=0.92 * height,
            color=style["color"] if i == 0 else PAPER,
            edgecolor=style["color"],
            hatch="" if i == 0 else "////",
            label=style["label"],
        )
        for y, rate in zip(places, rates, strict=True):
            _value(left, f"{rate:.1f}", rate, y)
    left.set_xlim(0, 1.14 * max(max(rates) for rates in data.rates.values()))
    left.set_xlabel("exit rate (%)")
    left.set_title(f"Where samples leave (test, n = {data.n:,})")
    scale, unit = bops_unit(data.cumulative)
    cumulative, shares = [v / scale for v in data.cumulative], [v / scale for v in data.shares]
    right.barh(range(count), cumulative, height=0.66, color=PAPER, edgecolor=BLUE, label="cost of leaving there")
    right.barh(range(count), shares, height=0.66, color=ORANGE, label="× exit rate (adds up to the average)")
    average = data.average / scale
    right.plot(
        [average] * 2, [-0.45, count - 0.55], color=INK, linestyle="--", linewidth=1.2, label=f"average: {average:.4g}"
    )
    for y, value in enumerate(cumulative):
        _value(right, f"{value:.4g}", value, y)
    right.set_xlim(0, 1.16 * max(cumulative))
    right.set_xlabel(unit)
    right.set_title("What they cost")
    for ax in (left, right):
        grid(ax, "x")
        ax.set_ylim(count - 0.45, -0.55)
        legend_below(ax, 1)
    left.set_yticks(range(count), data.exits)
    right.set_yticks(range(count), [""] * count)
    return [left, right]


@styled
def plot_exits(run: Run, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """Draws the exit rates of the retrained winner and the cost of each exit, on the test split.

    Args:
        run: A run with an evaluation.
        ax: Two axes to draw on; None: a new figure.
    """
    data = _exits_data(run.evaluation)
    axes = given_axes(ax, 2) or new_axes(7.4, 1.5 + 0.4 * len(data.exits), columns=2)
    return draw_exits(axes, data)
