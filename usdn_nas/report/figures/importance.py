"""Draws which groups and exits matter: shares of variance, and how often the front places each exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from usdn_nas.report.figures._places import Places, draw_places, group_places
from usdn_nas.report.figures._style import (
    BLUE,
    FAINT,
    ORANGE,
    PAPER,
    given_axes,
    grid,
    lay_out,
    new_axes,
    size_inches,
    styled,
)
from usdn_nas.report.figures.sensitivity import nearest_trade_off
from usdn_nas.report.run import Run
from usdn_nas.space.search_space import SearchSpace

__all__ = ["ImportanceData", "draw_importance", "plot_importance"]


@dataclass(frozen=True)
class ImportanceData:
    """Data of the figure, for G groups and C candidate exits.

    Attributes:
        places: The G groups along the axis.
        accuracy: Share of the variance of accuracy without exits that each of the G groups explains, in percent.
        value: The same for accuracy - ``trade_off`` x relative bit operations (BOPs).
        trade_off: Weight of the relative BOPs.
        exits: Names of the C exits.
        placed: Percentage of the front's points that place each of the C exits.
        points: Number of points on the front.
    """

    places: Places
    accuracy: tuple[float, ...]
    value: tuple[float, ...]
    trade_off: float
    exits: tuple[str, ...]
    placed: tuple[float, ...]
    points: int


def _importance_data(
    space: SearchSpace, content: Mapping[str, Any], front: pd.DataFrame, trade_off: float
) -> ImportanceData:
    index = nearest_trade_off(content, trade_off)
    placed = [100 * sum(name in exits for exits in front["exits"]) / max(len(front), 1) for name in space.candidates]
    return ImportanceData(
        group_places(space, [group["name"] for group in content["groups"]]),
        tuple(100 * share for share in content["importance_of_accuracy"]),
        tuple(100 * group["importance"][index] for group in content["groups"]),
        content["trade_offs"][index],
        space.candidates,
        tuple(placed),
        len(front),
    )


def draw_importance(axes: Sequence[Axes], data: ImportanceData) -> list[Axes]:
    """Draws the groups on the first of ``axes``, and the exits from top to bottom on the second."""
    left, right = axes
    value = f"accuracy - {data.trade_off:.3g} × relative BOPs"
    for offset, shares, color, hatch, label in (
        (-0.2, data.accuracy, BLUE, "", "accuracy without exits"),
        (0.2, data.value, ORANGE, "////", value),
    ):
        places = [i + offset for i in range(len(shares))]
        left.bar(places, shares, 0.38, color=color, hatch=hatch, edgecolor=PAPER, linewidth=0, label=label)
    left.set_ylabel("share of variance (%)")
    left.set_title("Which groups matter")
    right.barh(range(len(data.exits)), [100] * len(data.exits), height=0.7, color=PAPER, edgecolor=FAINT)
    right.barh(range(len(data.exits)), data.placed, height=0.7, color=BLUE)
    for y, share in enumerate(data.placed):
        right.annotate(f"{share:.0f}", (100, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5)
    right.set_yticks(range(len(data.exits)), data.exits, fontsize=7)
    right.set_ylim(len(data.exits) - 0.4, -0.6)
    right.set_xlim(0, 115)
    right.set_xticks([0, 50, 100])
    right.set_xlabel(f"of the front's {data.points} points (%)")
    right.set_title("Exits placed" if data.exits else "No candidate exit")
    grid(right, "x")
    right.tick_params(axis="y", labelsize=7, length=0)
    draw_places(left, data.places, size_inches(left)[0] / (len(data.places.names) + 0.4))
    grid(left, "y")
    left.tick_params(axis="x", length=0, labelsize=7)
    left.legend(loc="upper right", fontsize=7.5, borderaxespad=0.1)
    left.set_ylim(0, max(1.28 * max(*data.accuracy, *data.value), 1))
    figure = left.get_figure(root=True)
    if figure is not None:
        lay_out(figure)
    return [left, right]


@styled
def plot_importance(run: Run, *, trade_off: float | None = None, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """Draws how much of the variance between configurations each group explains, and how often each exit is placed.

    Args:
        run: A run with a front and a ``search/sensitivity.json``.
        trade_off: Weight of relative BOPs for the second bars; the nearest weight in the file is used. Default: the
            study's ``tr``.
        ax: Two axes to draw on; None: a new figure.
    """
    chosen = run.config.search.tr if trade_off is None else trade_off
    data = _importance_data(run.space, run.sensitivity, run.front, chosen)
    axes = given_axes(ax, 2)
    if axes is None:
        groups = min(max(3.4, 0.3 * len(data.places.names) + 0.6), 9.6)
        height = max(3.1, 1.0 + 0.17 * len(data.exits))
        axes = new_axes(groups + 2.4, height, columns=2, width_ratios=[groups, 2.0])
    return draw_importance(axes, data)
