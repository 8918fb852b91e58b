"""What a study maximises or minimises, and which policy of a configuration stands for it."""

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
    """One objective. ``unit`` is for people: ``"fraction"``, ``"BOPs"``, ``"1"``."""

    name: str
    unit: str
    direction: Literal["maximize", "minimize"]


_ACCURACY = Objective("accuracy", "fraction", "maximize")
_BOPS = Objective("bops", "BOPs", "minimize")
_SCORE = Objective("score", "1", "maximize")


def objectives(config: SearchConfig) -> tuple[Objective, ...]:
    """The ordered objectives of a mode.

    ``pareto``: accuracy and average BOPs. ``scalar``: score = accuracy - tr x average BOPs / reference BOPs.
    ``budget``: accuracy, with the constraint `budget_excess` <= 0.
    """
    return {"pareto": (_ACCURACY, _BOPS), "scalar": (_SCORE,), "budget": (_ACCURACY,)}[config.mode]


def choose(front: Sequence[Policy], config: SearchConfig, reference_bops: float, trade_off: float | None) -> int:
    """Index of the policy that stands for a configuration.

    Args:
        front: The configuration's own front, by rising BOPs, accuracy strictly rising.
        config: ``scalar``: maximises accuracy - ``tr`` x relative BOPs. ``budget``: the most accurate within the
            budget, else the cheapest.
        reference_bops: 1 of relative BOPs.
        trade_off: ``pareto``: the weight that ``tr`` is otherwise; None where the front has one policy.
    """
    if config.mode == "budget":
        assert config.gbops is not None
        within = [i for i, policy in enumerate(front) if policy.bops <= config.gbops * 1e9]
        return within[-1] if within else 0
    weight = config.tr if config.mode == "scalar" else trade_off or 0.0
    return max(range(len(front)), key=lambda i: (front[i].accuracy - weight * front[i].bops / reference_bops, -i))


def budget_excess(front: Sequence[Policy], config: SearchConfig) -> float:
    """Constraint of mode ``budget``: cheapest policy's BOPs / budget - 1; at most 0 where a policy fits."""
    assert config.gbops is not None
    return front[0].bops / (config.gbops * 1e9) - 1


def objective_values(config: SearchConfig, policy: Policy, reference_bops: float) -> list[float]:
    """Values of the objectives, in their order.

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
