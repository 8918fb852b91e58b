"""Summarizes a run in a few sentences, for the report and for notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usdn_nas._util.units import cost
from usdn_nas.report.run import MissingPartError, Run
from usdn_nas.space.cost import layer_table, mean_bits, reference_bops

__all__ = ["result", "searched", "test_policy"]


def searched(run: Run) -> str:
    """Returns a sentence about the search space and the number of configurations that were run."""
    space = run.space
    shape = "×".join(map(str, space.chain.input_shape))
    text = (
        f"{space.chain.network} ({shape}, {space.chain.macs / 1e6:,.2f} M MACs) on {run.config.data.name}: "
        f"{len(space.groups)} groups of layers, {space.bit_configurations:,} bit configurations × "
        f"{2 ** len(space.candidates):,} placements of {len(space.candidates)} candidate exits."
    )
    try:
        finished = run.trials.dropna(subset=["accuracy", "bops"])
    except MissingPartError:
        return text
    return f"{text} {len(finished):,} configurations were run, with {run.engine_text}."


def _conditions(run: Run) -> str:
    made = run.study.get("provenance") or {}
    parts = [f"{name} {made[name]}" for name in ("seed", "device", "processor") if made.get(name) is not None]
    return f" ({', '.join(parts)})" if parts else ""


def _winner(run: Run) -> str:
    """Returns a sentence about the winner's bits and exits."""
    winner = run.winner
    source = run.architecture.get("source") or {}
    found = source.get("trial", "")
    if source.get("score") == "smoothed":
        found += ", chosen by smoothed accuracy"
    mean = mean_bits([row for row in layer_table(run.space, winner) if row["group"]])
    bits = f"{mean['mac_weighted_weight_bits']:.2f}/{mean['mac_weighted_activation_bits']:.2f}"
    exits = f"early exits after {', '.join(winner.exits)}" if winner.exits else "no early exit"
    return f"The winner{f' ({found})' if found else ''} has {bits} bits (W/A, mean by MACs, searched layers), {exits}."


def result(run: Run) -> str:
    """Returns sentences about the winner: its accuracy and cost, on which split, and under which conditions."""
    reference = reference_bops(run.space)
    beside = ""
    if (policy := test_policy(run)) is not None:
        models, n = run.evaluation["models"], run.evaluation["n"]
        if "teacher" in models:
            accuracy = models["teacher"]["exits"][-1]["accuracy"]
            beside = f" The full-precision teacher's final exit reaches {100 * accuracy:.2f}% there."
        what, split = "Retrained with knowledge distillation, it reaches", "test split"
    elif (policy := run.architecture["metrics"]) is not None:
        n = policy["n"]
        what, split = "With the supernet's weights it reaches", "search split, on which it was selected"
    else:
        return f"{_winner(run)} It was not measured{_conditions(run)}."
    average = policy["average_bops"]
    return (
        f"{_winner(run)} {what} {100 * policy['accuracy']:.2f}% on the {split} (n = {n:,}), at {cost(average)} an "
        f"image on average, {100 * average / reference:.1f}% of the reference{_conditions(run)}.{beside}"
    )


def test_policy(run: Run) -> Mapping[str, Any] | None:
    """Returns the figures of the retrained winner's policy on the test split; None if it was not evaluated."""
    try:
        winner = run.evaluation["models"].get("kd")
    except MissingPartError:
        return None
    return None if winner is None else winner["policy"]
