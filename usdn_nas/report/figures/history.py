"""Draws how fast a search makes progress: hypervolume against trials and against seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from usdn_nas.exits.front import pareto_front
from usdn_nas.report.figures._style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    given_axes,
    grid,
    legend_below,
    new_axes,
    styled,
)
from usdn_nas.report.run import MissingPartError, Run
from usdn_nas.report.runs import named_runs

__all__ = ["HistoryData", "draw_history", "hypervolume", "plot_history"]

_AT_LEAST = "What the search has found, at least"
_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (VERMILLION, ":"), (PURPLE, (0, (5, 1, 1, 1))))


@dataclass(frozen=True)
class HistoryData:
    """The progress of one run, for its K complete trials in the order of their numbers.

    Attributes:
        seconds: (K,) evaluation time summed over the trials so far. Times of parallel workers are added.
        hypervolume: (K,) hypervolume of all points found so far. The unit is the box between the reference point and
            the best corner, which has the highest accuracy and the lowest bit operations (BOPs) of all runs shown.
        all_points: True if the front of every trial is recorded. Otherwise only the final front and one policy for each
            trial are known, so that the hypervolume is exact at the end and a lower bound before.
    """

    seconds: NDArray[np.float64]
    hypervolume: NDArray[np.float64]
    all_points: bool


def hypervolume(accuracy: NDArray[np.float64], bops: NDArray[np.float64], reference: tuple[float, float]) -> float:
    """Returns the area between ``reference`` = (accuracy, BOPs) and the points; points worse than it do not count.

    >>> hypervolume(np.array([0.5, 0.8]), np.array([1.0, 3.0]), (0.0, 4.0))
    1.8
    """
    inside = (accuracy > reference[0]) & (bops < reference[1])
    a, b = accuracy[inside], bops[inside]
    front = pareto_front(a, b)
    widths = np.diff(np.append(b[front], reference[1]))
    return float(np.round(np.sum((a[front] - reference[0]) * widths), 12))


def _points(run: Run) -> tuple[list[NDArray[np.float64]], bool]:
    """Returns accuracies and average BOPs (n, 2) of each complete trial, and True if they are the trial's whole front.

    If ``trials.csv`` does not hold the fronts of trials, they are the trial's policy and its points on the final front.
    """
    trials = run.trials.dropna(subset=["accuracy", "bops"])
    if "front" in trials:
        return [np.array(json.loads(cell), dtype=np.float64).reshape(-1, 2) for cell in trials["front"]], True
    of_front: dict[str, list[tuple[float, float]]] = {}
    for name, accuracy, bops in zip(*(run.front[key] for key in ("trial", "accuracy", "bops")), strict=True):
        of_front.setdefault(name.partition(".")[0], []).append((accuracy, bops))
    rows = zip(trials["trial"], trials["accuracy"], trials["bops"], strict=True)
    return [np.array([(a, b), *of_front.get(str(number), [])]) for number, a, b in rows], False


def _history_data(runs: Mapping[str, Run], reference: tuple[float, float] | None) -> dict[str, HistoryData]:
    points = {name: _points(run) for name, run in runs.items()}
    fronts = np.concatenate([run.front[["accuracy", "bops"]].to_numpy(float) for run in runs.values()])
    if not len(fronts) or not all(found for found, _ in points.values()):
        raise MissingPartError("no complete trial yet", where=next(iter(runs.values())).path, remedy="usdn-nas search")
    best = (fronts[:, 0].max(), fronts[:, 1].min())
    if reference is None:
        span = np.ptp(fronts, axis=0)
        worst = (fronts[:, 0].min(), fronts[:, 1].max())
        reference = (worst[0] - 0.1 * max(span[0], 0.01), worst[1] + 0.1 * max(span[1], 0.01 * worst[1]))
    box = (best[0] - reference[0]) * (reference[1] - best[1])
    out = {}
    for name, (found, complete) in points.items():
        archive, values = np.zeros((0, 2)), []
        for own in found:
            archive = np.concatenate([archive, own])
            archive = archive[pareto_front(archive[:, 0], archive[:, 1])]
            values.append(hypervolume(archive[:, 0], archive[:, 1], reference) / box)
        numbers = runs[name].trials.dropna(subset=["accuracy", "bops"])["trial"]
        seconds = np.cumsum([runs[name].trial_seconds.get(number, 0.0) for number in numbers])
        out[name] = HistoryData(seconds, np.array(values), complete)
    return out


def draw_history(axes: Sequence[Axes], data: Mapping[str, HistoryData]) -> list[Axes]:
    """Draws hypervolume against trials on the first of ``axes``, and against seconds on the second."""
    final = max(one.hypervolume[-1] for one in data.values())
    for (color, line), (name, one) in zip(_LINES * len(data), data.items(), strict=False):
        y = 100 * one.hypervolume / final
        for ax, x in zip(axes, (np.arange(1, len(y) + 1), one.seconds), strict=True):
            ax.step(x, y, where="post", color=color, linestyle=line, label=f"{name} ({len(y):,} trials)")
            ax.plot(x[-1], y[-1], "o", color=color, markersize=4)
    axes[0].set_xlabel("trials")
    axes[1].set_xlabel("seconds of evaluation, summed over trials")
    axes[0].set_ylabel("hypervolume (% of the final)" if len(data) == 1 else "hypervolume (% of the best)")
    axes[0].set_title("What the search has found" if all(one.all_points for one in data.values()) else _AT_LEAST)
    for ax in axes:
        grid(ax)
        ax.margins(x=0.03)
    if len(data) > 1:
        legend_below(axes[0], 1)
    return list(axes)


@styled
def plot_history(
    run: Run,
    *,
    others: Sequence[Run] | Mapping[str, Run] = (),
    reference: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draws the hypervolume of all points found so far, against the number of trials and against evaluation seconds.

    If ``trials.csv`` has no column ``front``, only the final front and one policy for each trial are known. The curve
    is then a lower bound before its end, and its title says "at least".

    Args:
        run: A run with search results.
        others: Runs to compare with. All runs share one reference point and one scale.
        reference: Reference point (accuracy, average BOPs) of the hypervolume. Default: the lowest accuracy and the
            highest BOPs on the fronts shown, each made worse by a tenth of its range.
        ax: Two axes to draw on; None: a new figure.
    """
    data = _history_data(named_runs(run, others), reference)
    axes = given_axes(ax, 2) or new_axes(7.2, 3.0 + 0.2 * (len(data) > 1) * len(data), columns=2, sharey=True)
    return draw_history(axes, data)
