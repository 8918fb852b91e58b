"""What the authors of other early-exit networks report of theirs: budgeted batches (MSDNet), overthinking (SDN)."""

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
    """A policy for each ratio of exit shares, its thresholds read off the search split, which is not augmented.

    Keys: ``ratio``, ``thresholds`` (above 1: nobody leaves there), ``exit_rates`` and the metrics of the test split,
    ``search`` (the same of the search split). Empty where no exit is placed.
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
    """How much later exits waste and spoil on the test split, and how well confusion foretells a wrong final answer.

    Args:
        confusion, search_confusion: (N,) of the two splits.

    Returns:
        The fields of `Overthinking`, and ``confusion_right`` and ``confusion_wrong``: means over the samples that the
        final exit has right and wrong, in standard deviations from the mean of the search split (SDN's authors take
        the training split); ``confusion_auroc``: 1 where every wrong answer is the more confused, .5 chance. A figure
        is None where it is undefined. None where no exit is placed.
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
