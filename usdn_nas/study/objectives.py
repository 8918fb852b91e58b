"""The objectives of a study, and the choice of the policy that stands for a configuration.

BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from usdn_nas._util.errors import RunError
from usdn_nas.config import SearchConfig
from usdn_nas.exits.front import Policy

__all__ = ["Objective", "budget_excess", "choose", "objective_values", "objectives"]


@dataclass(frozen=True)
class Objective:
    """One objective. ``unit`` is meant for readers of the study: ``"fraction"``, ``"BOPs"`` or ``"1"``."""

    name: str
    unit: str
    direction: Literal["maximize", "minimize"]


_ACCURACY = Objective("accuracy", "fraction", "maximize")
_BOPS = Objective("bops", "BOPs", "minimize")
_SCORE = Objective("score", "1", "maximize")


def objectives(config: SearchConfig) -> tuple[Objective, ...]:
    """Returns the objectives of the study's mode, in order.

    Mode ``pareto`` has accuracy and average BOPs. Mode ``scalar`` has the score, accuracy - tr x average BOPs /
    reference BOPs. Mode ``budget`` has accuracy, with the constraint `budget_excess` <= 0.
    """
    return {"pareto": (_ACCURACY, _BOPS), "scalar": (_SCORE,), "budget": (_ACCURACY,)}[config.mode]


def choose(front: Sequence[Policy], config: SearchConfig, reference_bops: float, trade_off: float | None) -> int:
    """Returns the index of the policy that stands for a configuration.

    Mode ``scalar`` takes the policy with the greatest accuracy - ``tr`` x relative BOPs. Mode ``pareto`` does the same
    with ``trade_off`` in place of ``tr``. Mode ``budget`` takes the most accurate policy within the budget, or the
    cheapest one if none is within it.

    Args:
        front: The configuration's own front, by rising BOPs and strictly rising accuracy.
        config: The settings of the search.
        reference_bops: BOPs that relative BOPs are a fraction of.
        trade_off: Weight of relative BOPs in mode ``pareto``. None stands for 0.
    """
    if config.mode == "budget":
        assert config.gbops is not None
        within = [i for i, policy in enumerate(front) if policy.bops <= config.gbops * 1e9]
        return within[-1] if within else 0
    weight = config.tr if config.mode == "scalar" else trade_off or 0.0
    return max(range(len(front)), key=lambda i: (front[i].accuracy - weight * front[i].bops / reference_bops, -i))


def budget_excess(front: Sequence[Policy], config: SearchConfig) -> float:
    """Returns the constraint of mode ``budget``: BOPs of the cheapest policy / budget - 1.

    It is at most 0 if a policy is within the budget.
    """
    assert config.gbops is not None
    return front[0].bops / (config.gbops * 1e9) - 1


def objective_values(config: SearchConfig, policy: Policy, reference_bops: float) -> list[float]:
    """Returns the values of the objectives for ``policy``, in the order of `objectives`.

    Raises:
        RunError: A metric is missing, NaN or infinite.
    """
    metrics: Mapping[str, float] = {
        "accuracy": policy.accuracy,
        "bops": policy.bops,
        "score": policy.accuracy - config.tr * policy.bops / reference_bops,
    }
    values = []
    for objective in objectives(config):
        value = metrics.get(objective.name, math.nan)
        if not math.isfinite(value):
            raise RunError(f"objective '{objective.name}' is {value}: the configuration cannot be judged")
        values.append(float(value))
    return values
