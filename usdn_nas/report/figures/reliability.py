"""Draws reliability diagrams (Guo et al., 2017): accuracy against confidence at each exit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from usdn_nas._util.errors import UserError, nearest
from usdn_nas.report.figures._style import MODEL_STYLES, MUTED, PAPER, compared, given_axes, grid, new_axes, styled
from usdn_nas.report.run import Run

__all__ = ["FEW", "Reliability", "draw_reliability", "plot_reliability"]

FEW = 10
"""A bin with fewer samples gets a small mark off the line, because its accuracy is too uncertain."""


@dataclass(frozen=True)
class Reliability:
    """The calibration of one model at one exit, over all samples, with B non-empty bins.

    Attributes:
        confidence, accuracy: Mean confidence and accuracy in each of the B bins.
        count: Number of samples in each of the B bins.
        edges: Edges and number of samples of all bins, empty ones included: (lo, hi, count).
        ece, mce: Expected and maximum calibration error.
        n: Number of samples.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]
    edges: tuple[tuple[float, float, int], ...]
    ece: float
    mce: float
    n: int


def _reliability_data(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Reliability]]:
    """Returns a mapping from exits to models to their diagrams, for the models that are compared."""
    out: dict[str, dict[str, Reliability]] = {}
    for model in compared(evaluation):
        for row in evaluation["models"][model]["exits"]:
            filled = [b for b in row["bins"] if b["count"]]
            out.setdefault(row["exit"], {})[model] = Reliability(
                tuple(b["confidence"] for b in filled),
                tuple(b["accuracy"] for b in filled),
                tuple(b["count"] for b in filled),
                tuple((b["lo"], b["hi"], b["count"]) for b in row["bins"]),
                row["ece"],
                row["mce"],
                row["n"],
            )
    return out


def draw_reliability(ax: Axes, exit_name: str, models: Mapping[str, Reliability]) -> Axes:
    """Draws one exit on ``ax``, with the number of samples in each bin above it."""
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", zorder=1)
    above = ax.inset_axes((0, 1.03, 1, 0.2), sharex=ax)
    for i, (model, data) in enumerate(models.items()):
        style = MODEL_STYLES[model]
        points = list(zip(data.confidence, data.accuracy, data.count, strict=True))
        marks = {
            "marker": style["marker"],
            "markerfacecolor": style["color"] if i == 0 else PAPER,
            "zorder": 4 - i,
            "clip_on": False,
        }
        x, y = zip(*[(c, a) for c, a, count in points if count >= FEW] or [(math.nan, math.nan)], strict=True)
        ax.plot(x, y, color=style["color"], linestyle=style["linestyle"], markersize=4.5, **marks)
        for confidence, accuracy, count in points:
            if count < FEW:
                ax.plot(confidence, accuracy, color=style["color"], markersize=2.2, **marks)
        edges = [data.edges[0][0], *(hi for _, hi, _ in data.edges)]
        above.stairs(
            [count for _, _, count in data.edges],
            edges,
            color=style["color"],
            fill=i == 0,
            alpha=0.4 if i == 0 else 1,
            linestyle=style["linestyle"],
            linewidth=1.2,
        )
        above.annotate(
            f"{style['label']}: ECE {data.ece:.3f}, MCE {data.mce:.3f}",
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 3 + 9.5 * (len(models) - 1 - i)),
            textcoords="offset points",
            color=style["color"],
            fontsize=7,
        )
    most = max(count for data in models.values() for _, _, count in data.edges)
    above.set_ylim(0, 1.08 * most)
    above.set_yticks([most], [f"{most:,}"])
    above.tick_params(axis="x", labelbottom=False, length=0)
    above.tick_params(axis="y", labelsize=6.5, length=2)
    above.spines[["top", "right"]].set_visible(False)
    above.patch.set_alpha(0)
    above.set_title(exit_name, pad=5 + 9.5 * len(models))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_yticks(np.linspace(0, 1, 6))
    grid(ax)
    return ax


@styled
def plot_reliability(run: Run, exit_name: str | None = None, *, ax: Axes | Sequence[Axes] | None = None) -> list[Axes]:
    """Draws accuracy against confidence on the test split, for KD and for cross-entropy alone.

    The number of samples in each bin is shown above. Bins with fewer than `FEW` samples are small marks off the line.

    Args:
        run: A run with an evaluation.
        exit_name: Draw only this exit; None: all exits, each on its own axes.
        ax: Axes to draw on, one for each exit drawn; None: a new figure.

    Raises:
        UserError: There is no such exit.
    """
    everything = _reliability_data(run.evaluation)
    if exit_name is not None and exit_name not in everything:
        raise UserError(f"no exit '{exit_name}' was evaluated", where=run.path, remedy=nearest(exit_name, everything))
    data = everything if exit_name is None else {exit_name: everything[exit_name]}
    rows = math.ceil(len(data) / 4)
    columns = math.ceil(len(data) / rows)
    given = given_axes(ax, len(data))
    axes = given or new_axes(max(2.35 * columns, 3), 3.15 * rows, rows, columns)
    for i, (axis, (name, models)) in enumerate(zip(axes, data.items(), strict=False)):
        draw_reliability(axis, name, models)
        if i % columns == 0:
            axis.set_ylabel("accuracy")
            axis.child_axes[0].set_ylabel("samples", fontsize=7)
        if i + columns >= len(data):
            axis.set_xlabel("confidence")
    for axis in axes[len(data) :]:
        axis.remove()
    return axes[: len(data)]
