"""The Pareto front: accuracy against average BOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from usdn_nas.report.figures._style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    VERMILLION,
    bops_unit,
    grid,
    halo,
    legend_below,
    new_axes,
    styled,
)
from usdn_nas.report.run import MissingPartError, Run

__all__ = ["FrontData", "Mark", "draw_front", "front_data", "plot_front"]

Points = NDArray[np.float64]
"""(K, 2): average BOPs and accuracy (fraction)."""


@dataclass(frozen=True)
class Mark:
    """A point with a name of its own."""

    label: str
    bops: float
    accuracy: float


@dataclass(frozen=True)
class FrontData:
    """What the figure shows.

    Attributes:
        trials: One point a finished trial.
        front: By rising BOPs.
        ladder: Uniform bit-widths without early exit, on the search split.
        chosen: The exported point on the search split, if any.
        search: The retrained models on the search split (thresholds fitted there).
        test: The retrained models on the test split; labels as in ``search``.
        search_n, test_n: Images in each, where known.
    """

    trials: Points
    front: Points
    ladder: tuple[Mark, ...]
    chosen: Mark | None
    search: tuple[Mark, ...]
    test: tuple[Mark, ...]
    search_n: int | None
    test_n: int | None


def front_data(run: Run) -> FrontData:
    """Collects what there is; the front itself must be there.

    Raises:
        MissingPartError: Nothing was searched yet.
    """
    trials = run.trials.dropna(subset=["accuracy", "bops"])
    if run.front.empty:
        raise MissingPartError("the front has no point yet", where=run.path, remedy="usdn-nas search goes on")
    ladder: tuple[Mark, ...] = ()
    search_n = test_n = chosen = None
    search: list[Mark] = []
    test: list[Mark] = []
    try:
        ladder = tuple(Mark("/".join(map(str, r["bits"])), r["bops"], r["accuracy"]) for r in run.ladder["rows"])
        search_n = run.ladder["n"]
    except MissingPartError:
        pass
    try:
        metrics = run.architecture["metrics"]
        if metrics:
            trial = (run.architecture.get("source") or {}).get("trial")
            name = f"chosen ({trial})" if trial else "chosen"
            chosen = Mark(name, metrics["average_bops"], metrics["accuracy"])
            search_n = metrics["n"]
    except MissingPartError:
        pass
    try:
        evaluation = run.evaluation
        test_n = evaluation["n"]
        for name, label in (("kd", "retrained, KD"), ("ce", "retrained, CE")):
            content = evaluation["models"].get(name, {})
            for key, marks in (("search_policy", search), ("policy", test)):
                if content.get(key):
                    marks.append(Mark(label, content[key]["average_bops"], content[key]["accuracy"]))
    except MissingPartError:
        pass
    return FrontData(
        trials[["bops", "accuracy"]].to_numpy(float),
        run.front[["bops", "accuracy"]].to_numpy(float),
        ladder,
        chosen,
        tuple(search),
        tuple(test),
        search_n,
        test_n,
    )


def accuracy_floor(trials: Sequence[float], others: Sequence[float]) -> float:
    """Lower end of the accuracy axis: everything named is shown, of the trials those that are not far below it."""
    low, high = min(others), max(others)
    return max(low - 0.35 * max(high - low, 0.01), min(min(trials, default=low), low) - 0.08 * (high - low))


def draw_front(ax: Axes, data: FrontData) -> Axes:
    """Draws ``data`` on ``ax``; trials far below the front are counted, not shown."""
    marks = [*data.ladder, *data.search, *data.test, *([data.chosen] if data.chosen else [])]
    scale, unit = bops_unit([*data.front[:, 0], *(mark.bops for mark in marks)])
    named = [*data.front[:, 1], *(mark.accuracy for mark in marks)]
    floor = accuracy_floor(list(data.trials[:, 1]), named)
    where = f"search split{f', n = {data.search_n:,}' if data.search_n else ''}"
    trials, front = data.trials / [scale, 0.01], data.front / [scale, 0.01]
    ax.scatter(trials[:, 0], trials[:, 1], s=11, color=FAINT, linewidths=0, label=f"trials ({len(trials)})", zorder=1)
    ax.plot(front[:, 0], front[:, 1], color=BLUE, drawstyle="steps-post", linewidth=1.8, zorder=3)
    ax.plot([], [], color=BLUE, marker="o", markersize=4, label=f"Pareto front ({len(front)} points)")
    ax.scatter(front[:, 0], front[:, 1], s=16, color=BLUE, linewidths=0, zorder=4)
    if data.ladder:
        x, y = [m.bops / scale for m in data.ladder], [100 * m.accuracy for m in data.ladder]
        ax.plot(x, y, "^--", color=ORANGE, markersize=6, linewidth=1, label="uniform bits, no early exit", zorder=2)
        for mark in data.ladder:
            ax.annotate(
                mark.label,
                (mark.bops / scale, 100 * mark.accuracy),
                xytext=(4, -4),
                textcoords="offset points",
                va="top",
                fontsize=7.5,
                path_effects=halo(),
                zorder=6,
            )
    if data.chosen:
        ax.scatter(
            data.chosen.bops / scale,
            100 * data.chosen.accuracy,
            marker="*",
            s=170,
            color=PAPER,
            edgecolor=INK,
            linewidths=1.1,
            label=data.chosen.label,
            zorder=6,
        )
    shapes = {"retrained, KD": ("D", GREEN), "retrained, CE": ("s", VERMILLION)}
    test = f"test, n = {data.test_n:,}" if data.test_n else "test"
    for group, suffix in ((data.search, "search"), (data.test, test)):
        for mark in group:
            shape, color = shapes[mark.label]
            ax.scatter(
                mark.bops / scale,
                100 * mark.accuracy,
                marker=shape,
                s=38,
                facecolor=PAPER if group is data.search else color,
                edgecolor=color,
                linewidths=1.3,
                label=f"{mark.label} ({suffix})",
                zorder=5,
            )
    ax.set_ylim(bottom=100 * floor)
    hidden = int((data.trials[:, 1] < floor).sum())
    ax.set_xlabel(f"average {unit} per image")
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"Pareto front ({where})")
    if hidden:
        text = f"{hidden} trials lie below the frame"
        ax.text(0.99, 0.015, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=7, color=MUTED)
    grid(ax)
    legend_below(ax, 3)
    return ax


@styled
def plot_front(run: Run, *, ax: Axes | None = None) -> Axes:
    """The front in bold, all trials faint, uniform bit-widths, the chosen point; search and test apart.

    Trials, front, chosen point and uniform bit-widths were measured with the supernet's weights on the search split,
    on which the front was selected; filled diamonds and squares are retrained networks on the test split.
    """
    data = front_data(run)
    return draw_front(new_axes(6.2, 4.4)[0] if ax is None else ax, data)
