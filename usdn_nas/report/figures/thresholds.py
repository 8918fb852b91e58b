"""Draws accuracy against average bit operations (BOPs) for a range of thresholds, each shared by all exits."""

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
    """One model on the test split, at T thresholds.

    Attributes:
        thresholds, bops, accuracy: The T thresholds, with average BOPs and accuracy (in percent) at each.
        operating: (average BOPs, accuracy in percent) of the policy with the fitted thresholds.
    """

    thresholds: tuple[float, ...]
    bops: tuple[float, ...]
    accuracy: tuple[float, ...]
    operating: tuple[float, float]


def _thresholds_data(evaluation: Mapping[str, Any]) -> dict[str, Sweep]:
    """Returns the sweep of each model that is compared."""
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
    """Draws ``data`` on ``ax`` and labels some thresholds on the first curve. ``log``: use a logarithmic cost axis."""
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
    """Returns labels (text, x, y) for some thresholds. Labels that would overlap on ``ax`` are left out."""
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
    """Draws accuracy against average BOPs on the test split for shared thresholds, with KD and cross-entropy alone.

    The star and the cross are the policies with thresholds fitted exit by exit on the search split; they too are
    measured on the test split.

    Args:
        run: A run with an evaluation.
        log: Use a logarithmic cost axis; default: True if the largest cost exceeds five times the smallest.
        ax: Axes to draw on; None: a new figure.
    """
    data = _thresholds_data(run.evaluation)
    if log is None:
        log = logarithmic([bops for sweep in data.values() for bops in sweep.bops])
    return draw_thresholds(new_axes(5.2, 3.8)[0] if ax is None else ax, data, int(run.evaluation["n"]), log=log)
