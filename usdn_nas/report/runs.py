"""Combines several runs: names that tell them apart, and their joint Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from usdn_nas.exits.front import pareto_front
from usdn_nas.report.run import Run, load_run

__all__ = ["front", "named_runs"]


def named_runs(run: Run, others: Sequence[Run] | Mapping[str, Run] = ()) -> dict[str, Run]:
    """Returns runs by name, ``run`` first.

    A run is named after its study. If two studies have the same name, all runs are named after their folders; if two
    folders have the same name too, a number is added to each name. A mapping of ``others`` keeps its own names.
    """
    if isinstance(others, Mapping):
        first = run.name if run.name not in others else f"{run.name} (this run)"
        return {first: run, **others}
    everything = [run, *others]
    names = [one.name for one in everything]
    if len(set(names)) < len(names):
        names = [one.path.resolve().name for one in everything]
    if len(set(names)) < len(names):
        names = [f"{name} [{i}]" for i, name in enumerate(names)]
    return dict(zip(names, everything, strict=True))


def front(*runs: Run | Path | str) -> pd.DataFrame:
    """Returns the Pareto front of one run or the joint front of several runs, measured on the search split.

    Args:
        runs: Runs or their folders. All must have the same search split, because accuracies on different splits cannot
            be compared.

    Returns:
        A table with the columns of `Run.front`, sorted by rising bit operations (BOPs). With several runs it has the
        column ``run`` too, the name of the run that a point comes from; a group that a run does not have is NaN.

    Raises:
        UserError: A folder holds no run, or a run has no search results yet.
    """
    opened = [one if isinstance(one, Run) else load_run(one) for one in runs]
    if not opened:
        raise TypeError("front() takes at least one run")
    if len(opened) == 1:
        return opened[0].front.copy()
    named = named_runs(opened[0], opened[1:])
    frame = pd.concat([one.front.assign(run=name) for name, one in named.items()], ignore_index=True)
    return frame.iloc[pareto_front(frame["accuracy"], frame["bops"])].reset_index(drop=True)
