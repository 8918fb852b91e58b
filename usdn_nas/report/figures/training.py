"""Draws training curves, and the accuracy of the supernet at uniform bit-widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from usdn_nas.report.figures._style import (
    BLUE,
    INK,
    depth_colors,
    given_axes,
    grid,
    new_axes,
    styled,
)
from usdn_nas.report.run import HISTORIES, MissingPartError, Run
from usdn_nas.space.records import FINAL_EXIT

__all__ = ["LadderData", "StageCurves", "draw_ladder", "draw_training", "plot_ladder", "plot_training"]

_TITLES = {
    "pretrain": "Full-precision supernet",
    "supernet": "Supernet, QAT",
    "teacher": "Teacher",
    "retrain": "Winner, KD",
    "retrain-ce": "Winner, CE alone",
}


@dataclass(frozen=True)
class StageCurves:
    """The curves of one training: (epochs, values) of its loss and of the accuracy of each exit, in percent.

    Keys of ``accuracy`` are exits; for a supernet, exits and paths, such as ``"final@max"``.
    """

    title: str
    loss: tuple[list[float], list[float]]
    accuracy: dict[str, tuple[list[float], list[float]]]


def _curve(history: pd.DataFrame, column: str, scale: float = 1) -> tuple[list[float], list[float]]:
    there = history.dropna(subset=[column])
    return list(map(float, there["epoch"])), [scale * float(value) for value in there[column]]


def _training_data(run: Run) -> list[StageCurves]:
    out = []
    for stage in HISTORIES:
        try:
            history = run.history(stage)
        except MissingPartError:
            continue
        names = [str(column) for column in history.columns if str(column).startswith("accuracy_")]
        accuracy = {name.removeprefix("accuracy_"): _curve(history, name, 100) for name in names}
        if len(history):
            out.append(StageCurves(_TITLES[stage], _curve(history, "loss"), accuracy))
    return out


def draw_training(axes: Sequence[Axes], data: Sequence[StageCurves], exits: Sequence[str]) -> list[Axes]:
    """Draws losses on the first ``len(data)`` of ``axes``, and accuracies on the others.

    ``exits`` are all exits in the order of the chain, the final one last. They are drawn from dark to light, and the
    final one bold.
    """
    colors = dict(zip(exits, [*depth_colors(len(exits) - 1), INK], strict=True))
    few = dict.fromkeys(exits) if len(exits) <= 7 else dict.fromkeys([exits[0], exits[len(exits) // 2], exits[-1]])
    labels: dict[str, Any] = {}
    for loss, accuracy, stage in zip(axes[: len(data)], axes[len(data) :], data, strict=True):
        loss.plot(*stage.loss, color=INK, marker="." if len(stage.loss[0]) < 3 else None)
        loss.set_title(stage.title)
        for name, curve in stage.accuracy.items():
            exit_name, _, path = name.partition("@")
            (line,) = accuracy.plot(
                *curve,
                color=colors.get(exit_name, INK),
                linewidth=1.9 if exit_name == FINAL_EXIT else 1.1,
                linestyle="--" if path == "min" else "-",
                marker="." if len(curve[0]) < 3 else None,
            )
            if exit_name in few and path != "min":
                labels.setdefault(exit_name, line)
            elif path == "min" and exit_name == FINAL_EXIT:
                labels["smallest path"] = line
        accuracy.set_xlabel("epoch")
        grid(loss)
        grid(accuracy)
    axes[0].set_ylabel("training loss")
    axes[len(data)].set_ylabel("accuracy (%), search split")
    figure = axes[0].get_figure(root=True)
    if figure is not None and labels:
        order = [name for name in [*exits, "smallest path"] if name in labels]
        figure.legend(
            [labels[name] for name in order],
            order,
            loc="outside lower center",
            ncols=max(1, min(len(order), int(figure.get_size_inches()[0] / 0.95))),
        )
    return list(axes)


@styled
def plot_training(run: Run, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """Draws the training loss, and the accuracy of each exit on the search split, with a column for each training.

    Args:
        run: A run with at least one history.
        ax: Two axes for each training: first those of all losses, then those of all accuracies. None: a new figure.

    Raises:
        MissingPartError: Nothing was trained yet.
    """
    data = _training_data(run)
    if not data:
        run.history("pretrain")
        raise MissingPartError("the histories are empty", where=run.path, remedy="nothing to draw")
    axes = given_axes(ax, 2 * len(data))
    if axes is None:
        axes = new_axes(max(2.1 * len(data) + 0.5, 4), 4.2, rows=2, columns=len(data), sharex="col")
        for other in axes[len(data) + 1 :]:
            other.sharey(axes[len(data)])
    return draw_training(axes, data, [exit_.name for exit_ in run.space.chain.exits])


@dataclass(frozen=True)
class LadderData:
    """Data of the figure, for R uniform bit-widths.

    Attributes:
        labels: Labels of the R bit-widths.
        accuracy: R accuracies in percent, for each exit.
        errors: Standard error of the difference to the bit-width before, in percentage points; 0 for the first.
        n: Number of images.
    """

    labels: tuple[str, ...]
    accuracy: dict[str, tuple[float, ...]]
    errors: tuple[float, ...]
    n: int


def _ladder_data(ladder: Mapping[str, Any]) -> LadderData:
    rows = ladder["rows"]
    if not rows:
        raise MissingPartError("no bit-widths are common to all groups", where="supernet/ladder.json")
    exits = list(rows[0]["accuracy_exits"])
    return LadderData(
        tuple("/".join(map(str, row["bits"])) for row in rows),
        {name: tuple(100 * row["accuracy_exits"][name] for row in rows) for name in exits},
        tuple(100 * (row["standard_error"] or 0) for row in rows),
        int(ladder["n"]),
    )


def draw_ladder(ax: Axes, data: LadderData) -> Axes:
    """Draws the accuracies at uniform bit-widths on ``ax``."""
    places = range(len(data.labels))
    colors = [*depth_colors(len(data.accuracy) - 1), BLUE]
    for (name, values), color in zip(data.accuracy.items(), colors, strict=True):
        if name != FINAL_EXIT:
            ax.plot(places, values, color=color, linewidth=1, marker=".", label=name)
    final = data.accuracy[FINAL_EXIT]
    ax.errorbar(places, final, data.errors, color=BLUE, marker="o", capsize=3, linewidth=2, label=FINAL_EXIT)
    ax.set_xticks(places, data.labels)
    ax.set_xlim(-0.3, len(data.labels) - 0.7)
    ax.set_xlabel("uniform W/A")
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"Supernet at uniform bit-widths (search split, n = {data.n:,})")
    grid(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="exit", fontsize=7)
    return ax


@styled
def plot_ladder(run: Run, *, ax: Axes | None = None) -> Axes:
    """Draws the accuracy of the supernet at uniform bit-widths on the search split.

    Each exit answers all samples. The bars at the final exit are standard errors of the paired difference to the
    bit-width before.

    Raises:
        MissingPartError: The supernet is not trained yet, or its groups have no bit-widths in common.
    """
    return draw_ladder(new_axes(5.2, 3.2)[0] if ax is None else ax, _ladder_data(run.ladder))
