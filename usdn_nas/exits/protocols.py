"""Figures that the authors of other early-exit networks report: budgeted batches (MSDNet) and overthinking (SDN)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas.exits.budgeted import budgeted_curve
from usdn_nas.exits.calibration import auroc
from usdn_nas.exits.overthinking import overthinking
from usdn_nas.exits.summary import Evaluated, policy_metrics

__all__ = ["budgeted_batches", "overthinking_summary"]

Array = NDArray[np.float64]


def budgeted_batches(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Returns one policy for each ratio of exit shares. The list is empty if no exit is placed.

    Thresholds are computed on the search split, whose images are not augmented. Keys: ``ratio``, ``thresholds`` (no
    sample leaves at an exit with a threshold above 1), ``exit_rates`` and the metrics on the test split, and ``search``
    with the metrics on the search split.
    """
    if not evaluated.test.candidates:
        return []
    curve = budgeted_curve(evaluated.search, evaluated.test, evaluated.costs, rule=evaluated.rule)
    reference = evaluated.reference_bops
    return [
        {
            "ratio": point.ratio,
            "thresholds": list(point.thresholds),
            "exit_rates": point.result.exit_rates.tolist(),
            **policy_metrics(point.result, reference, evaluated.test.samples),
            "search": evaluated.search_metrics(point.thresholds),
        }
        for point in curve
    ]


def overthinking_summary(evaluated: Evaluated, confusion: Array, search_confusion: Array) -> dict[str, Any] | None:
    """Returns the overthinking on the test split, and how well confusion predicts a wrong final answer.

    Args:
        evaluated: The network's outputs on both splits.
        confusion: (N,) confusion of the samples of the test split.
        search_confusion: (N',) confusion of the samples of the search split.

    Returns:
        The fields of `Overthinking`, and three figures about confusion. ``confusion_right`` and ``confusion_wrong`` are
        its means over the samples that the final exit answers right and wrong. They are standardized by mean and
        standard deviation of the search split (SDN's authors use the training split). ``confusion_auroc`` is 1 if every
        sample with a wrong answer has a higher confusion than every sample with a right one, and 0.5 by chance. A
        figure is None if it is undefined. The whole result is None if no exit is placed.
    """
    if not evaluated.test.candidates:
        return None
    found, right = overthinking(evaluated.test, evaluated.costs), evaluated.test.correct[-1]
    scores = (confusion - search_confusion.mean()) / (search_confusion.std() or 1.0)
    area = auroc(scores, ~right)
    return {
        **vars(found),
        "first_right": found.first_right.tolist(),
        "confusion_right": float(scores[right].mean()) if right.any() else None,
        "confusion_wrong": float(scores[~right].mean()) if not right.all() else None,
        "confusion_auroc": None if math.isnan(area) else area,
    }
