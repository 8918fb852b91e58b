"""Compares finished runs on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from usdn_nas._util.errors import UserError, nearest
from usdn_nas.report.run import Run, load_run
from usdn_nas.report.runs import named_runs
from usdn_nas.report.tables import bits_text
from usdn_nas.space.records import FINAL_EXIT

__all__ = ["comparable", "compare_table"]


def comparable(*runs: Run | Path | str, model: str = "kd") -> dict[str, Run]:
    """Checks that runs can be compared, and returns them by name.

    Args:
        runs: Runs or their folders.
        model: Model that all of the runs must have evaluated.

    Raises:
        UserError: No run is given, a folder holds no run, a run has not evaluated the model, or the data sets or the
            sizes of the test splits differ.
    """
    opened = [one if isinstance(one, Run) else load_run(one) for one in runs]
    if not opened:
        raise UserError("no run to compare")
    first = opened[0]
    for run in opened:
        if model not in run.evaluation["models"]:
            raise UserError(
                f"no model '{model}' was evaluated", where=run.path, remedy=nearest(model, run.evaluation["models"])
            )
        for what, ours, theirs in (
            ("data.name", first.config.data.name, run.config.data.name),
            ("n of the test split", first.evaluation["n"], run.evaluation["n"]),
        ):
            if ours != theirs:
                raise UserError(
                    f"runs of different data do not compare: {what} is {theirs!r}, in {first.path} {ours!r}",
                    where=run.path,
                )
    return named_runs(first, opened[1:])


def compare_table(*runs: Run | Path | str, model: str = "kd") -> pd.DataFrame:
    """Returns a table that compares runs, in the order given.

    Args:
        runs: Runs or their folders.
        model: The network of each run: ``"kd"``, ``"ce"``, ``"supernet"`` ...

    Returns:
        A table with one row a run. Columns: ``run``; ``accuracy`` and ``gbops`` (average giga bit operations) of the
        policy on the test split; ``relative_bops`` (relative to the run's own reference); ``exit_rates_percent`` (text
        with one number for each exit, the final exit last); ``ece`` and ``mce`` (calibration errors) of the policy's
        answers; ``mean_bits`` and ``mac_weighted_bits`` (``"W/A"``, or one number if both are equal) over all layers
        that run, heads included; ``macs`` at full precision without internal classifiers; ``n``.

    Raises:
        UserError: The runs cannot be compared; see `comparable`.
    """
    return pd.DataFrame([_row(name, run, model) for name, run in comparable(*runs, model=model).items()])


def _row(name: str, run: Run, model: str) -> dict[str, Any]:
    content, chain = run.evaluation["models"][model], run.space.chain
    layers = [layer for segment in chain.segments for layer in segment.layers]
    layers += [layer for exit_ in chain.exits if exit_.name == FINAL_EXIT for layer in exit_.layers]
    bits = run.evaluation["bits"]["all"] if content["precision"] == "quantized" else None
    return {
        "run": name,
        "accuracy": content["policy"]["accuracy"],
        "gbops": content["policy"]["average_bops"] / 1e9,
        "relative_bops": content["policy"]["relative_bops"],
        "exit_rates_percent": " ".join(f"{100 * row['exit_rate']:.1f}" for row in content["exits"]),
        "ece": content["answers"]["ece"],
        "mce": content["answers"]["mce"],
        "mean_bits": "32" if bits is None else bits_text(bits, "mean"),
        "mac_weighted_bits": "32" if bits is None else bits_text(bits, "mac_weighted"),
        "macs": sum(layer.macs for layer in layers),
        "n": run.evaluation["n"],
    }
