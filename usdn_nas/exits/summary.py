"""Figures that are reported about one trained network: exit rates, costs, calibration, and curves of accuracy and cost.

BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from usdn_nas.exits.apply import PolicyResult, apply
from usdn_nas.exits.calibration import auroc, calibration
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.thresholds import fit_trade_offs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

__all__ = ["Evaluated", "model_summary", "policy_metrics", "relative_changes"]

_TRADE_OFFS = (1e-3, 1.0)
"""Range of the weights of relative BOPs that thresholds are fitted to. The weights are evenly spaced in the logarithm.
"""


def policy_metrics(result: PolicyResult, reference_bops: int, n: int) -> dict[str, Any]:
    """Returns ``accuracy``, ``average_bops``, ``relative_bops`` and ``n`` (the number of samples) of a policy."""
    return {
        "accuracy": result.accuracy,
        "average_bops": result.average_bops,
        "relative_bops": result.average_bops / reference_bops,
        "n": n,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class Evaluated:
    """A network's outputs on the test and the search split, and the costs of its exits.

    Attributes:
        test, search: Outputs of the placed exits and the final one on each split, (E, N).
        costs: Costs of the same exits.
        reference_bops: BOPs that relative BOPs are a fraction of.
        rule: Which exit answers a sample that no placed exit is confident of.
    """

    test: ExitOutputs
    search: ExitOutputs
    costs: ExitCosts
    reference_bops: int
    rule: Rule = "threshold"

    def metrics(self, thresholds: Sequence[float]) -> dict[str, Any]:
        """Returns the metrics (`policy_metrics`) of the policy with these thresholds on the test split."""
        return policy_metrics(
            apply(self.test, self.costs, thresholds, self.rule), self.reference_bops, self.test.samples
        )

    def search_metrics(self, thresholds: Sequence[float]) -> dict[str, Any]:
        """Returns the metrics (`policy_metrics`) of the policy with these thresholds on the search split."""
        return policy_metrics(
            apply(self.search, self.costs, thresholds, self.rule), self.reference_bops, self.search.samples
        )

    def leaving(self, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        """Returns Table I: one row for each exit, about the samples of the test split that leave there."""
        result, cumulative = apply(self.test, self.costs, thresholds, self.rule), self.costs.cumulative
        return [
            {
                "exit": name,
                "threshold": float(thresholds[i]) if i < len(thresholds) else None,
                "exit_rate": float(result.exit_rates[i]),
                "accuracy_leaving": _or_none(float(result.accuracy_leaving[i])),
                "cumulative_bops": int(cumulative[i]),
                "cost_share_bops": float(result.exit_rates[i] * cumulative[i]),
            }
            for i, name in enumerate(self.test.names)
        ]

    def calibrated(self, thresholds: Sequence[float], bins: int) -> list[dict[str, Any]]:
        """Returns accuracy and calibration of each exit on the test split.

        They are computed over all samples, and under the key ``leaving`` over the samples that leave at the exit.
        """
        leaves_at, rows = apply(self.test, self.costs, thresholds, self.rule).leaves_at, []
        for i, (confidence, correct) in enumerate(zip(self.test.confidence, self.test.correct, strict=True)):
            overall = calibration(confidence, correct, bins)
            gone = leaves_at == i
            leaving = calibration(confidence[gone], correct[gone], bins) if gone.any() else None
            accuracy = float(correct.mean())
            rows.append(
                {
                    "accuracy": accuracy,
                    "error": 1 - accuracy,
                    "ece": overall.ece,
                    "mce": overall.mce,
                    "signed_gap": overall.signed_gap,
                    "auroc": _or_none(auroc(confidence, correct)),
                    "n": overall.n,
                    "bins": [vars(one) for one in overall.bins],
                    "leaving": leaving
                    and {"n": leaving.n, "ece": leaving.ece, "mce": leaving.mce, "signed_gap": leaving.signed_gap},
                }
            )
        return rows

    def answers(self, thresholds: Sequence[float], bins: int) -> dict[str, Any]:
        """Returns the calibration of the policy's answers: of each sample's confidence at the exit that answers it."""
        where = (apply(self.test, self.costs, thresholds, self.rule).answers_at, np.arange(self.test.samples))
        confidence, correct = self.test.confidence[where], self.test.correct[where]
        overall = calibration(confidence, correct, bins)
        return {
            "ece": overall.ece,
            "mce": overall.mce,
            "signed_gap": overall.signed_gap,
            "auroc": _or_none(auroc(confidence, correct)),
        }

    def shared_curve(self, count: int) -> list[dict[str, Any]]:
        """Returns ``count`` policies whose exits share one threshold, evenly spaced over [0.1, 1]."""
        exits = len(self.test.candidates)
        return [
            {"threshold": float(t), **self.metrics([t] * exits), "search": self.search_metrics([t] * exits)}
            for t in (np.linspace(0.1, 1, count) if exits else ())
        ]

    def fitted_curve(self, count: int) -> list[dict[str, Any]]:
        """Returns ``count`` policies, each for one weight of relative BOPs.

        Every exit has its own threshold, which is fitted on the search split.
        """
        if not self.test.candidates:
            return []
        weights, search = np.geomspace(*_TRADE_OFFS, count).tolist(), self.search.under(self.rule)
        fits = [fit.thresholds for fit in fit_trade_offs(search, self.costs, weights, self.reference_bops)]
        return [
            {"tr": tr, "thresholds": list(fit), **self.metrics(fit), "search": self.search_metrics(fit)}
            for tr, fit in zip(weights, fits, strict=True)
        ]


def model_summary(
    label: str,
    evaluated: Evaluated,
    thresholds: Sequence[float],
    *,
    precision: str,
    bins: int,
    sweep: int,
    fits: int,
    threshold: float,
    temperatures: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Returns one entry of ``models`` in ``evaluation.json``.

    Args:
        label: Name of the network for readers.
        evaluated: The network's outputs and costs.
        thresholds: E - 1 thresholds, chosen on the search split.
        precision: ``"full"`` or ``"quantized"``.
        bins: Number of bins of the expected and maximum calibration error (ECE, MCE).
        sweep: Number of shared thresholds that are tried.
        fits: Number of trade-offs for which each exit gets a fitted threshold of its own.
        threshold: The shared threshold of the table ``shared``.
        temperatures: E temperatures that the logits were divided by. None if they were not divided.
    """
    leaving, calibrated = evaluated.leaving(thresholds), evaluated.calibrated(thresholds, bins)
    everywhere = [threshold] * len(thresholds)
    return {
        "label": label,
        "precision": precision,
        "thresholds": [float(t) for t in thresholds],
        "temperatures": None if temperatures is None else list(temperatures),
        "exits": [{**left, **right} for left, right in zip(leaving, calibrated, strict=True)],
        "policy": evaluated.metrics(thresholds),
        "answers": evaluated.answers(thresholds, bins),
        "search_policy": evaluated.search_metrics(thresholds),
        "shared": {
            "threshold": threshold, "exits": evaluated.leaving(everywhere), "policy": evaluated.metrics(everywhere)
        } if thresholds else None,
        "sweep": evaluated.shared_curve(sweep),
        "fitted": evaluated.fitted_curve(fits),
    }  # fmt: skip


def relative_changes(ce: Mapping[str, Any], kd: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns Table II: every exit's error and calibration errors (ECE, MCE) in two trainings, and their difference.

    ``ce`` was trained with cross-entropy alone, and ``kd`` with knowledge distillation. The difference is
    100 (KD - CE) / CE, in percent. None if the figure of ``ce`` is 0.
    """
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
