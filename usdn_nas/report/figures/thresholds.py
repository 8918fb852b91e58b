"""Accuracy against average BOPs as one threshold, shared by all exits, moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from usdn_nas.report.figures._style import (
    INK,
    MODEL_STYLES,
    PAPER,
    bops_unit,
    compared,
    grid,
    halo,
    legend_below,
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


def draw_thresholds(ax: Axes, data: Mapping[str, Sweep], n: int) -> Axes:
    """Draws ``data`` on ``ax``; some thresholds are written along the first curve."""
    scale, unit = bops_unit([value for sweep in data.values() for value in sweep.bops])
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
        if i == 0:
            _label_thresholds(ax, sweep, x, below=any(max(o.accuracy) > max(sweep.accuracy) for o in data.values()))
    ax.set_xlabel(f"average {unit} per image")
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"As the threshold moves (test, n = {n:,})")
    ax.margins(y=0.1)
    grid(ax)
    legend_below(ax, 2)
    return ax


def _label_thresholds(ax: Axes, sweep: Sweep, x: list[float], *, below: bool) -> None:
    """Writes some thresholds beside the curve, on the side where no other curve runs."""
    used: set[int] = set()
    span = max(x) - min(x)
    for value in _LABELLED:
        i = min(range(len(x)), key=lambda j: abs(sweep.thresholds[j] - value))
        if any(abs(x[i] - x[j]) < 0.08 * span for j in used):
            continue
        used.add(i)
        ax.annotate(
            f"{sweep.thresholds[i]:.2f}",
            (x[i], sweep.accuracy[i]),
            xytext=(9, -14) if below else (-4, 6),
            textcoords="offset points",
            ha="left" if below else "right",
            fontsize=7.5,
            color=INK,
            path_effects=halo(),
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
            zorder=6,
        )


@styled
def plot_thresholds(run: Run, *, ax: Axes | None = None) -> Axes:
    """Accuracy against average BOPs on the test split as the shared threshold moves, KD and cross-entropy alone.

    Stars: the thresholds fitted exit by exit on the search split, read on the test split.
    """
    data = _thresholds_data(run.evaluation)
    return draw_thresholds(new_axes(5.2, 3.8)[0] if ax is None else ax, data, int(run.evaluation["n"]))
