"""Draws the Pareto front: accuracy against average bit operations (BOPs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from usdn_nas._util.units import bops_unit
from usdn_nas.report.figures._places import along, label_points
from usdn_nas.report.figures._style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    cost_axis,
    grid,
    legend_below,
    logarithmic,
    new_axes,
    styled,
)
from usdn_nas.report.run import MissingPartError, Run
from usdn_nas.report.runs import named_runs

__all__ = ["FrontData", "Mark", "accuracy_floor", "draw_front", "front_data", "plot_front"]

_OTHERS: tuple[tuple[str, Any, str], ...] = (
    (PURPLE, "--", "v"),
    (SKY, "-.", "s"),
    (GREEN, ":", "D"),
    (INK, (0, (5, 1, 1, 1)), "P"),
)

Points = NDArray[np.float64]
"""Array (K, 2) of average BOPs and accuracy (fraction) of K points."""


@dataclass(frozen=True)
class Mark:
    """A named point."""

    label: str
    bops: float
    accuracy: float


@dataclass(frozen=True)
class FrontData:
    """Data of the figure.

    Attributes:
        trials: One point for each finished trial.
        front: The Pareto front, sorted by rising BOPs.
        ladder: Configurations with uniform bit-widths, without early exit, on the search split.
        chosen: The exported point on the search split, if any.
        search: The retrained models on the search split, on which their thresholds were fitted.
        test: The retrained models on the test split, with the same labels as in ``search``.
        search_n, test_n: Number of images in each split; None if unknown.
        others: Fronts of other runs, by name.
        baselines: Points given by the caller for comparison.
    """

    trials: Points
    front: Points
    ladder: tuple[Mark, ...]
    chosen: Mark | None
    search: tuple[Mark, ...]
    test: tuple[Mark, ...]
    search_n: int | None
    test_n: int | None
    others: Mapping[str, Points] = field(default_factory=dict)
    baselines: tuple[Mark, ...] = ()

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All named points."""
        chosen = (self.chosen,) if self.chosen else ()
        return (*self.ladder, *self.search, *self.test, *self.baselines, *chosen)

    @property
    def costs(self) -> list[float]:
        """Average BOPs of all points except trials. The axis must show all of them."""
        fronts = [points[:, 0] for points in (self.front, *self.others.values())]
        return [*np.concatenate(fronts).tolist(), *(mark.bops for mark in self.marks)]


def front_data(run: Run) -> FrontData:
    """Collects the data that the run has so far. Only the front is required.

    Raises:
        MissingPartError: The run has no front yet.
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
    """Returns the lower end of the accuracy axis. It shows all of ``others``, but not trials far below these."""
    low, high = min(others), max(others)
    return max(low - 0.35 * max(high - low, 0.01), min(min(trials, default=low), low) - 0.08 * (high - low))


def draw_front(ax: Axes, data: FrontData, *, log: bool) -> Axes:
    """Draws ``data`` on ``ax``. Trials far below the front are only counted. ``log``: use a logarithmic cost axis."""
    everything = [data.front, *data.others.values()]
    scale, unit = bops_unit(data.costs)
    named = [*np.concatenate(everything)[:, 1], *(mark.accuracy for mark in data.marks)]
    floor = accuracy_floor(list(data.trials[:, 1]), named)
    _draw_runs(ax, data, scale)
    _draw_marks(ax, data, scale)
    ax.set_ylim(bottom=100 * floor)
    cost_axis(ax, unit, log=log)
    hidden = int((data.trials[:, 1] < floor).sum())
    where = f"search split{f', n = {data.search_n:,}' if data.search_n else ''}"
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"Pareto front ({where})")
    if hidden:
        text = f"{hidden} trials lie below the frame"
        ax.text(0.99, 0.015, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=7, color=MUTED)
    grid(ax)
    legend_below(ax, 3)
    texts = [*data.ladder, *data.baselines, *([data.chosen] if data.chosen else [])]
    points = np.concatenate(
        [*(along(_steps(one)) for one in everything), *(np.array([[m.bops, m.accuracy]]) for m in data.marks)]
    )
    label_points(
        ax,
        [(mark.label, mark.bops / scale, 100 * mark.accuracy) for mark in texts],
        [(x / scale, 100 * y) for x, y in points],
    )
    return ax


def _steps(front: Points) -> Points:
    """Returns the corners of the stepped line that is drawn for ``front``."""
    line = np.empty((2 * len(front) - 1, 2))
    line[::2] = front
    line[1::2] = np.column_stack([front[1:, 0], front[:-1, 1]])
    return line


def _draw_runs(ax: Axes, data: FrontData, scale: float) -> None:
    """Draws the trials, the run's front and the fronts of other runs."""
    trials, front = data.trials / [scale, 0.01], data.front / [scale, 0.01]
    ax.scatter(trials[:, 0], trials[:, 1], s=11, color=FAINT, linewidths=0, label=f"trials ({len(trials)})", zorder=1)
    ax.plot(front[:, 0], front[:, 1], color=BLUE, drawstyle="steps-post", linewidth=1.8, zorder=3)
    ax.plot([], [], color=BLUE, marker="o", markersize=4, label=f"Pareto front ({len(front)} points)")
    ax.scatter(front[:, 0], front[:, 1], s=16, color=BLUE, linewidths=0, zorder=4)
    for (color, line, marker), (name, points) in zip(_OTHERS * len(data.others), data.others.items(), strict=False):
        x, y = points[:, 0] / scale, 100 * points[:, 1]
        ax.plot(x, y, color=color, drawstyle="steps-post", linestyle=line, linewidth=1.4, zorder=3)
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "markerfacecolor": PAPER}
        ax.plot(x, y, **(style | {"linestyle": "none"}), zorder=4)
        ax.plot([], [], **style, label=f"front of {name} ({len(points)})")


def _draw_marks(ax: Axes, data: FrontData, scale: float) -> None:
    """Draws the uniform bit-widths, the baselines, the chosen point and the retrained networks."""
    if data.ladder:
        x, y = [m.bops / scale for m in data.ladder], [100 * m.accuracy for m in data.ladder]
        ax.plot(x, y, "^--", color=ORANGE, markersize=6, linewidth=1, label="uniform bits, no early exit", zorder=2)
    if data.baselines:
        x, y = [m.bops / scale for m in data.baselines], [100 * m.accuracy for m in data.baselines]
        ax.scatter(x, y, marker="X", s=42, color=INK, edgecolor=PAPER, linewidths=0.7, label="baselines", zorder=5)
    if data.chosen:
        x, y = [data.chosen.bops / scale], [100 * data.chosen.accuracy]
        star: dict[str, Any] = {"marker": "*", "s": 170, "color": PAPER, "edgecolor": INK, "linewidths": 1.1}
        ax.scatter(x, y, **star, label=data.chosen.label, zorder=6)
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


@styled
def plot_front(
    run: Run,
    *,
    others: Sequence[Run] | Mapping[str, Run] = (),
    baselines: Mapping[str, tuple[float, float]] | None = None,
    log: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the front in bold, all trials in faint colour, uniform bit-widths, and the chosen and retrained networks.

    Trials, fronts, the chosen point and uniform bit-widths were measured with the supernet's weights on the search
    split, on which the fronts were selected. Diamonds and squares are retrained networks: filled ones were measured on
    the test split, hollow ones on the search split.

    Args:
        run: A run with search results.
        others: Runs whose fronts are drawn too.
        baselines: More points to draw, by name: (average BOPs, accuracy as a fraction).
        log: Use a logarithmic cost axis; default: True if the largest cost exceeds five times the smallest.
        ax: Axes to draw on; None: a new figure.
    """
    data = front_data(run)
    names = list(named_runs(run, others).items())[1:]
    fronts = {name: other.front[["bops", "accuracy"]].to_numpy(float) for name, other in names}
    marks = tuple(Mark(name, *point) for name, point in (baselines or {}).items())
    data = replace(data, others=fronts, baselines=marks)
    if log is None:
        log = logarithmic(data.costs)
    return draw_front(new_axes(6.2, 4.4)[0] if ax is None else ax, data, log=log)
