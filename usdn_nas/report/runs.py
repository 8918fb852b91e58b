"""Several runs together: their names, their joint front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from usdn_nas.exits.front import pareto_front
from usdn_nas.report.run import Run, load_run

__all__ = ["front", "named_runs"]


def named_runs(run: Run, others: Sequence[Run] | Mapping[str, Run] = ()) -> dict[str, Run]:
    """Name -> run, ``run`` first: the study's name, the folder's where several studies share it, then numbered."""
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
    """The Pareto front of one run, or of several together, by rising BOPs, measured on the search split.

    Args:
        runs: Runs or their folders, of the same task: figures of different search splits do not compare.

    Returns:
        The columns of `Run.front`; of several runs also ``run``, the name of the run that a point comes from. A group
        that only some of the runs have is NaN in the rows of the others.

    Raises:
        UserError: A folder holds no run, or none was searched yet.
    """
    opened = [one if isinstance(one, Run) else load_run(one) for one in runs]
    if not opened:
        raise TypeError("front() takes at least one run")
    if len(opened) == 1:
        return opened[0].front.copy()
    named = named_runs(opened[0], opened[1:])
    frame = pd.concat([one.front.assign(run=name) for name, one in named.items()], ignore_index=True)
    return frame.iloc[pareto_front(frame["accuracy"], frame["bops"])].reset_index(drop=True)
