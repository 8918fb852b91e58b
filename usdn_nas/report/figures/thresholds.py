"""Accuracy against average BOPs as one threshold, shared by all exits, moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from usdn_nas._util.units import bops_unit
from usdn_nas.report.figures._places import along, label_points
from usdn_nas.report.figures._style import (
    MODEL_STYLES,
    PAPER,
    compared,
    cost_axis,
    grid,
    legend_below,
    logarithmic,
    new_axes,
    styled,
)
from usdn_nas.report.run import MissingPartError, Run

__all__ = ["Sweep", "draw_thresholds", "plot_thresholds"]

_LABELLED = (0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Sweep:
    """One model on the test split; T thresholds.

    Attributes:
        thresholds, bops, accuracy: T each; accuracy in percent.
        operating: (average BOPs, accuracy) of the policy with the fitted thresholds.
    """

    thresholds: tuple[float, ...]
    bops: tuple[float, ...]
    accuracy: tuple[float, ...]
    operating: tuple[float, float]


def _thresholds_data(evaluation: Mapping[str, Any]) -> dict[str, Sweep]:
    """Model -> sweep, for the models that are compared."""
    out = {}
    for name in compared(evaluation):
        content = evaluation["models"][name]
        if content["sweep"] and len(content["exits"]) > 1:
            rows = sorted(content["sweep"], key=lambda row: row["threshold"])
            out[name] = Sweep(
                tuple(row["threshold"] for row in rows),
                tuple(row["average_bops"] for row in rows),
                tuple(100 * row["accuracy"] for row in rows),
                (content["policy"]["average_bops"], 100 * content["policy"]["accuracy"]),
            )
    if not out:
        raise MissingPartError("no threshold to move: no early exit", where="evaluation.json")
    return out


def draw_thresholds(ax: Axes, data: Mapping[str, Sweep], n: int, *, log: bool) -> Axes:
    """Draws ``data`` on ``ax``; some thresholds are written along the first curve. ``log``: logarithmic costs."""
    scale, unit = bops_unit([value for sweep in data.values() for value in sweep.bops])
    cost_axis(ax, unit, log=log)
    for i, (name, sweep) in enumerate(data.items()):
        style = MODEL_STYLES[name]
        x = [value / scale for value in sweep.bops]
        ax.plot(
            x,
            sweep.accuracy,
            color=style["color"],
            linestyle=style["linestyle"],
            marker=style["marker"],
            markersize=3,
            markerfacecolor=style["color"] if i == 0 else PAPER,
            label=f"{style['label']}, one shared threshold",
            zorder=3 - i,
        )
        ax.scatter(
            sweep.operating[0] / scale,
            sweep.operating[1],
            marker="*" if i == 0 else "P",
            s=150 if i == 0 else 80,
            color=style["color"],
            edgecolor=PAPER,
            linewidths=0.8,
            label=f"{style['label']}, fitted thresholds",
            zorder=5,
        )
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"As the threshold moves (test, n = {n:,})")
    ax.margins(y=0.1)
    grid(ax)
    legend_below(ax, 2)
    curves = [np.column_stack([np.array(sweep.bops) / scale, sweep.accuracy]) for sweep in data.values()]
    fitted = [(sweep.operating[0] / scale, sweep.operating[1]) for sweep in data.values()]
    label_points(ax, _labels(ax, next(iter(data.values())), scale), [*np.concatenate([*map(along, curves), fitted])])
    return ax


def _labels(ax: Axes, sweep: Sweep, scale: float) -> list[tuple[str, float, float]]:
    """Some thresholds with their points, those apart that would meet on ``ax``."""
    points = [(bops / scale, accuracy) for bops, accuracy in zip(sweep.bops, sweep.accuracy, strict=True)]
    across = ax.transScale.transform(points)[:, 0]
    chosen: list[int] = []
    for value in _LABELLED:
        i = min(range(len(points)), key=lambda j: abs(sweep.thresholds[j] - value))
        if all(abs(across[i] - across[j]) >= 0.08 * np.ptp(across) for j in chosen):
            chosen.append(i)
    return [(f"{sweep.thresholds[i]:.2f}", *points[i]) for i in chosen]


@styled
def plot_thresholds(run: Run, *, log: bool | None = None, ax: Axes | None = None) -> Axes:
    """Accuracy against average BOPs on the test split as the shared threshold moves, KD and cross-entropy alone.

    Star and cross: the thresholds fitted exit by exit on the search split, read on the test split.

    Args:
        run: With an evaluation.
        log: Costs on a logarithmic axis; default: where the largest is more than five times the smallest.
        ax: Where to draw.
    """
    data = _thresholds_data(run.evaluation)
    if log is None:
        log = logarithmic([bops for sweep in data.values() for bops in sweep.bops])
    return draw_thresholds(new_axes(5.2, 3.8)[0] if ax is None else ax, data, int(run.evaluation["n"]), log=log)
