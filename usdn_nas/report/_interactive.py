"""Data for the report's interactive figure: the Pareto front with bits, exits and thresholds of every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from usdn_nas._util.units import bops_unit
from usdn_nas.report.figures._style import logarithmic
from usdn_nas.report.figures.front import FrontData, Mark, accuracy_floor, front_data
from usdn_nas.report.run import Run

__all__ = ["front_payload"]

_SHAPES = {"retrained, KD": ("diamond", "kd"), "retrained, CE": ("square", "ce")}


def _point(name: str, row: Any, scale: float, groups: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "x": row["bops"] / scale,
        "y": 100 * row["accuracy"],
        "split": "search",
        "bits": [row[group] for group in groups],
    }


def _mark(mark: Mark, split: str, scale: float, **more: str) -> dict[str, Any]:
    return {"name": mark.label, "x": mark.bops / scale, "y": 100 * mark.accuracy, "split": split, **more}


def _marks(data: FrontData, scale: float) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Returns the named points (the chosen and the retrained networks) and their entries in the legend."""
    marks, legend = [], []
    if data.chosen:
        marks.append(_mark(data.chosen, "search", scale, shape="star", css="star"))
        legend.append(["star", "star", data.chosen.label])
    for group, split in ((data.search, "search"), (data.test, "test")):
        for mark in group:
            shape, css = _SHAPES[mark.label]
            css = f"{css} hollow" if split == "search" else css
            marks.append(_mark(mark, split, scale, shape=shape, css=css))
            legend.append([shape, css, f"{mark.label} ({split})"])
    return marks, legend


def front_payload(run: Run) -> dict[str, Any]:
    """Returns the data of the interactive front, as types that JSON can hold.

    Accuracies are in percent. Costs are in ``unit``, a multiple of bit operations (BOPs).

    Raises:
        MissingPartError: The run has no search results yet.
    """
    data = front_data(run)
    groups = [group.name for group in run.space.groups]
    scale, unit = bops_unit(data.costs)
    floor = accuracy_floor(list(data.trials[:, 1]), [*data.front[:, 1], *(mark.accuracy for mark in data.marks)])
    front = []
    for row in run.front.to_dict("records"):
        exits = [[name, threshold] for name, threshold in zip(row["exits"], row["thresholds"], strict=True)]
        front.append(_point(row["trial"], row, scale, groups) | {"exits": exits})
    trials: pd.DataFrame = run.trials.dropna(subset=["accuracy", "bops"])
    marks, legend = _marks(data, scale)
    lines = [["line", "front", f"Pareto front ({len(front)} points)"], ["dot", "trial", f"trials ({len(trials)})"]]
    if data.ladder:
        lines.append(["triangle", "ladder", "uniform bits, no early exit"])
    return {
        "run": "/".join(run.path.absolute().parts[-2:]),
        "unit": unit,
        "log": logarithmic(data.costs),
        "floor": 100 * floor,
        "groups": groups,
        "front": front,
        "trials": [_point(f"trial {r['trial']}", r, scale, groups) for r in trials.to_dict("records")],
        "ladder": [
            _mark(mark, "search", scale, bits_label=mark.label) | {"name": f"uniform {mark.label}", "exits": []}
            for mark in data.ladder
        ],
        "marks": marks,
        "legend": [*lines, *legend],
    }
