"""The points that a study has found, its front, and the choice of a point. All are read from the trials.

A point is a bit configuration with an exit policy. BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from usdn_nas._util.errors import UserError, shown
from usdn_nas._util.units import cost
from usdn_nas.config import SearchConfig
from usdn_nas.exits.front import pareto_front, support
from usdn_nas.space.architecture import Architecture, Bits, Rule
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.parameters import bits_of, indices_of, parameter_sizes
from usdn_nas.study.smoothing import smoothed

__all__ = [
    "FrontPoint",
    "all_points",
    "best_point",
    "complete_trials",
    "completed",
    "find_point",
    "front_points",
    "select",
    "smoothed_front",
]


Array = NDArray[np.float64]


@dataclass(frozen=True)
class FrontPoint:
    """A bit configuration with an exit policy, and its accuracy and cost on the search split.

    Attributes:
        name: ``"trial.policy"``, for example ``"12.3"``.
        bits: Group name -> (W, A).
        exits: Names of the placed exits.
        thresholds: One for each of ``exits``.
        accuracy: A fraction.
        bops: Average BOPs of a sample.
        samples: Number of images in the search split.
        rule: Which exit answers a sample that no placed exit is confident of.
    """

    name: str
    bits: dict[str, Bits]
    exits: tuple[str, ...]
    thresholds: tuple[float, ...]
    accuracy: float
    bops: float
    samples: int
    rule: Rule = "threshold"

    @property
    def architecture(self) -> Architecture:
        """The architecture: bits, exits, thresholds and rule."""
        return Architecture(self.bits, self.exits, self.thresholds, self.rule)


def complete_trials(study: optuna.Study, space: SearchSpace) -> list[FrozenTrial]:
    """Returns the complete trials that have a front. Trials that the user completed by hand have none.

    Raises:
        UserError: The record of a trial is not what a search writes, because the storage is damaged.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = [trial for trial in trials if "front" in trial.user_attrs]
    for trial in found:
        if not (_is_sound(trial.user_attrs) and _is_of(space, trial.params)):
            raise UserError(
                f"the record of trial {trial.number} is damaged",
                where=f"study {shown(study.study_name)}",
                remedy="put back a copy of the storage, or search again in another one",
            )
    return found


def _is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a trial's figures are there, finite, and agree where two of them say the same."""
    try:
        accuracy, bops = record["front"][record["chosen"]][:2]
        numbers = [record["accuracy_without_exits"], *(number for policy in record["front"] for number in policy[:2])]
        return (
            (accuracy, bops) == (record["accuracy"], record["bops"])
            and all(len(policy) == 4 for policy in record["front"])
            and all(map(math.isfinite, numbers))
            and record["samples"] > 0
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return False


def _is_of(space: SearchSpace, params: Mapping[str, Any]) -> bool:
    """Whether the parameters of a trial name a bit configuration of the space."""
    indices = indices_of(space, params)
    sizes = parameter_sizes(space).values()
    return indices is not None and all(0 <= index < size for index, size in zip(indices, sizes, strict=True))


def completed(study: optuna.Study) -> int:
    """Returns the number of complete trials."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _rule(study: optuna.Study) -> Rule:
    rule: Rule = study.user_attrs.get("search", {}).get("rule", "threshold")
    return rule


def _point(space: SearchSpace, trial: FrozenTrial, policy: int, rule: Rule) -> FrontPoint:
    accuracy, bops, mask, threshold = trial.user_attrs["front"][policy]
    exits = tuple(name for i, name in enumerate(space.candidates) if mask >> i & 1)
    return FrontPoint(
        name=f"{trial.number}.{policy}",
        bits=bits_of(space, trial.params),
        exits=exits,
        thresholds=(threshold,) * len(exits),
        accuracy=accuracy,
        bops=bops,
        samples=trial.user_attrs["samples"],
        rule=rule,
    )


def all_points(study: optuna.Study, space: SearchSpace) -> list[FrontPoint]:
    """Returns every policy on the front of every complete trial, by trial, then by BOPs."""
    rule, trials = _rule(study), complete_trials(study, space)
    return [_point(space, trial, i, rule) for trial in trials for i in range(len(trial.user_attrs["front"]))]


def front_points(study: optuna.Study, space: SearchSpace) -> list[FrontPoint]:
    """Returns the front of the study: the non-dominated policies of all trials, by rising BOPs and rising accuracy."""
    places = [(trial, i) for trial in complete_trials(study, space) for i in range(len(trial.user_attrs["front"]))]
    figures = np.array([trial.user_attrs["front"][i][:2] for trial, i in places], dtype=np.float64).reshape(-1, 2)
    rule = _rule(study)
    return [_point(space, *places[int(k)], rule) for k in pareto_front(figures[:, 0], figures[:, 1])]


def smoothed_front(study: optuna.Study, space: SearchSpace, reference_bops: float) -> list[FrontPoint]:
    """Returns the front like `front_points`, but with accuracies that are smoothed over all trials (`smoothing`).

    For each trade-off, the model smooths the best score of every trial, accuracy - trade-off x relative BOPs. The
    policy that reaches the best score moves by the same amount in accuracy. Policies in between move by an amount that
    is interpolated. BOPs do not change, because they are known exactly.
    """
    trials = complete_trials(study, space)
    if not trials:
        return []
    codes = np.array([[trial.params[name] for name in parameter_sizes(space)] for trial in trials], dtype=np.int64)
    fronts = [np.array([policy[:2] for policy in trial.user_attrs["front"]], dtype=np.float64) for trial in trials]
    accuracy = np.concatenate(_smoothed_accuracies(codes, fronts, reference_bops))
    bops = np.concatenate([front[:, 1] for front in fronts])
    places = [(trial, i) for trial, front in zip(trials, fronts, strict=True) for i in range(len(front))]
    rule = _rule(study)
    return [
        replace(_point(space, *places[k], rule), accuracy=float(accuracy[k]))
        for k in map(int, pareto_front(accuracy, bops))
    ]


def _smoothed_accuracies(codes: NDArray[np.int64], fronts: Sequence[Array], reference_bops: float) -> list[Array]:
    """Returns the smoothed accuracies (k,) of the policies of each of n trials.

    Args:
        codes: (n, P) ranks of the parameters' values.
        fronts: For each trial, (k, 2) accuracy and BOPs of its k policies.
        reference_bops: BOPs that relative BOPs are a fraction of.
    """
    supports = [support(front[:, 0], front[:, 1] / reference_bops) for front in fronts]
    values = np.array([found for found, _ in supports])
    moves = smoothed(codes, values) - values
    return [
        front[:, 0] + _between(front[:, 1], front[index, 1], move)
        for front, (_, index), move in zip(fronts, supports, moves, strict=True)
    ]


def _between(bops: Array, known: Array, moves: Array) -> Array:
    """Interpolates ``moves``, which are given at the BOPs ``known``, linearly to ``bops``.

    If several moves are given at the same BOPs, their mean is taken.
    """
    at, which = np.unique(known, return_inverse=True)
    return np.interp(bops, at, np.bincount(which, moves) / np.bincount(which))


def find_point(study: optuna.Study, space: SearchSpace, name: str) -> FrontPoint:
    """Returns the point with the name ``"trial.policy"``. ``"trial"`` alone names the policy that stands for the trial.

    Raises:
        UserError: There is no such point. The message says which names there are.
    """
    number, dot, policy = name.partition(".")
    if not (name.isascii() and number.isdecimal() and (policy.isdecimal() or not dot)):
        raise UserError(f"expected a trial (12) or a trial and a policy (12.3), got {shown(name)}")
    trials = {trial.number: trial for trial in complete_trials(study, space)}
    trial = trials.get(int(number))
    if trial is None:
        raise UserError(
            f"no complete trial {number}",
            remedy=f"{len(trials)} are complete, the last is {max(trials, default='none')}",
        )
    index = int(policy) if dot else trial.user_attrs["chosen"]
    count = len(trial.user_attrs["front"])
    if index >= count:
        raise UserError(f"trial {number} has no policy {index}", remedy=f"it has {number}.0 to {number}.{count - 1}")
    return _point(space, trial, index, _rule(study))


def select(
    points: Sequence[FrontPoint],
    *,
    best: bool = False,
    tr: float | None = None,
    budget_bops: float | None = None,
    reference_bops: float | None = None,
) -> FrontPoint:
    """Returns one of ``points``, the cheapest if several are equally good.

    Give exactly one of ``best``, ``tr`` and ``budget_bops``.

    Args:
        points: Points to choose from, for example a front.
        best: Take the most accurate point.
        tr: Take the point with the greatest accuracy - ``tr`` x BOPs / ``reference_bops``.
        budget_bops: Take the most accurate point with at most these average BOPs.
        reference_bops: BOPs that relative BOPs are a fraction of. It is needed with ``tr``, and ignored without it.

    Raises:
        UserError: There are no points, or none is within the budget. The message then names the cheapest one.
    """
    if best + (tr is not None) + (budget_bops is not None) != 1:
        raise ValueError("give exactly one of 'best', 'tr' and 'budget_bops'")
    if tr is not None and reference_bops is None:
        raise ValueError("'tr' needs 'reference_bops'")
    if not points:
        raise UserError("the search has no complete trial yet")
    weight = tr / reference_bops if tr is not None and reference_bops is not None else 0.0
    fitting = [point for point in points if budget_bops is None or point.bops <= budget_bops]
    if not fitting:
        least = min(points, key=lambda point: point.bops)
        raise UserError(
            f"no configuration has at most {cost(budget_bops or 0, 6)} on average",
            remedy=f"the cheapest is {least.name}: {cost(least.bops, 6)} ({least.bops / 1e9:.6g} GBOPs), "
            f"accuracy {least.accuracy:.4f}",
        )
    return max(fitting, key=lambda point: (point.accuracy - weight * point.bops, -point.bops))


def best_point(points: Sequence[FrontPoint], config: SearchConfig, reference_bops: float) -> FrontPoint:
    """Returns the best point by the study's own objective: by its budget in mode ``budget``, otherwise by its ``tr``.

    Raises:
        UserError: The same as for `select`.
    """
    if config.mode == "budget":
        assert config.gbops is not None
        return select(points, budget_bops=config.gbops * 1e9)
    return select(points, tr=config.tr, reference_bops=reference_bops)
