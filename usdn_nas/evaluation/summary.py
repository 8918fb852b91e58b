"""What is reported of one trained network: exit rates, costs, calibration, threshold sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from usdn_nas.architecture import Rule
from usdn_nas.cost import ExitCosts
from usdn_nas.policy.apply import PolicyResult, apply
from usdn_nas.policy.calibration import auroc, calibration
from usdn_nas.policy.outputs import ExitOutputs

__all__ = ["model_summary", "policy_metrics", "relative_changes"]


def policy_metrics(result: PolicyResult, reference_bops: int, n: int) -> dict[str, Any]:
    """``accuracy``, ``average_bops``, ``relative_bops`` and ``n`` of a policy."""
    return {
        "accuracy": result.accuracy,
        "average_bops": result.average_bops,
        "relative_bops": result.average_bops / reference_bops,
        "n": n,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def model_summary(
    label: str,
    test: ExitOutputs,
    search: ExitOutputs,
    costs: ExitCosts,
    thresholds: Sequence[float],
    *,
    precision: str,
    reference_bops: int,
    bins: int,
    sweep: int,
    rule: Rule = "threshold",
) -> dict[str, Any]:
    """One entry of ``evaluation.json``'s ``models``.

    Args:
        test, search: (E, N) outputs of the placed exits on the two splits.
        costs: Of the same exits.
        thresholds: E - 1, selected on the search split.
        sweep: Number of shared thresholds, evenly spaced over [1 / 10, 1], that are tried on the test split.
        rule: Which exit answers what was confident at none.
    """

    def at_shared(threshold: float) -> dict[str, Any]:
        shared = apply(test, costs, [threshold] * len(thresholds), rule)
        return policy_metrics(shared, reference_bops, test.samples)

    result = apply(test, costs, thresholds, rule)
    cumulative = costs.cumulative
    exits = []
    for i, name in enumerate(test.names):
        overall = calibration(test.confidence[i], test.correct[i], bins)
        gone = result.leaves_at == i
        leaving = calibration(test.confidence[i][gone], test.correct[i][gone], bins) if gone.any() else None
        accuracy = float(test.correct[i].mean())
        exits.append(
            {
                "exit": name,
                "threshold": float(thresholds[i]) if i < len(thresholds) else None,
                "exit_rate": float(result.exit_rates[i]),
                "accuracy": accuracy,
                "error": 1 - accuracy,
                "accuracy_leaving": _or_none(float(result.accuracy_leaving[i])),
                "cumulative_bops": int(cumulative[i]),
                "cost_share_bops": float(result.exit_rates[i] * cumulative[i]),
                "ece": overall.ece,
                "mce": overall.mce,
                "signed_gap": overall.signed_gap,
                "auroc": _or_none(auroc(test.confidence[i], test.correct[i])),
                "n": overall.n,
                "bins": [vars(one) for one in overall.bins],
                "leaving": leaving
                and {"n": leaving.n, "ece": leaving.ece, "mce": leaving.mce, "signed_gap": leaving.signed_gap},
            }
        )
    return {
        "label": label,
        "precision": precision,
        "thresholds": [float(t) for t in thresholds],
        "exits": exits,
        "policy": policy_metrics(result, reference_bops, test.samples),
        "search_policy": policy_metrics(apply(search, costs, thresholds, rule), reference_bops, search.samples),
        "sweep": [
            {"threshold": float(t), **at_shared(float(t))} for t in np.linspace(0.1, 1, sweep)
        ]
        if thresholds
        else [],
    }  # fmt: skip


def relative_changes(ce: Mapping[str, Any], kd: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Table II: error, ECE and MCE of every exit with CE alone and with KD, and 100 (KD - CE) / CE."""
    rows = []
    for before, after in zip(ce["exits"], kd["exits"], strict=True):
        for metric in ("error", "ece", "mce"):
            change = 100 * (after[metric] - before[metric]) / before[metric] if before[metric] else None
            rows.append(
                {
                    "exit": before["exit"],
                    "metric": metric,
                    "ce": before[metric],
                    "kd": after[metric],
                    "change_percent": change,
                }
            )
    return rows
