"""What a study has found: points, its front, and the choice among them. All of it is read from the trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from usdn_nas.study.parameters import bits_of, parameter_sizes
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
    """A bit configuration with an exit policy, and its figures on the search split (on which it was selected).

    Attributes:
        name: ``"trial.policy"``.
        bops: Average BOPs of a sample.
        samples: Size of the search split.
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
        """Bits, exits, thresholds and rule."""
        return Architecture(self.bits, self.exits, self.thresholds, self.rule)


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those that carry a front: somebody may have told others by hand."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if "front" in trial.user_attrs]


def completed(study: optuna.Study) -> int:
    """Number of complete trials."""
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
    """Every policy on every complete trial's own front, by trial, then by BOPs."""
    rule, trials = _rule(study), complete_trials(study)
    return [_point(space, trial, i, rule) for trial in trials for i in range(len(trial.user_attrs["front"]))]


def front_points(study: optuna.Study, space: SearchSpace) -> list[FrontPoint]:
    """The study's front: the non-dominated policies of all trials, by rising BOPs, accuracy strictly rising."""
    places = [(trial, i) for trial in complete_trials(study) for i in range(len(trial.user_attrs["front"]))]
    figures = np.array([trial.user_attrs["front"][i][:2] for trial, i in places], dtype=np.float64).reshape(-1, 2)
    rule = _rule(study)
    return [_point(space, *places[int(k)], rule) for k in pareto_front(figures[:, 0], figures[:, 1])]


def smoothed_front(study: optuna.Study, space: SearchSpace, reference_bops: float) -> list[FrontPoint]:
    """As `front_points`, of policies whose accuracy is what all trials together say (`smoothing`).

    Smoothed are the greatest accuracy - trade-off x relative BOPs of each trial, for every trade-off: a policy's
    accuracy moves by as much as that, between trade-offs by what lies between. What bits cost is known, and stays.
    """
    trials = complete_trials(study)
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
    """Of the policies of n trials: ``codes`` (n, P), their fronts (k, 2) of accuracy and BOPs."""
    supports = [support(front[:, 0], front[:, 1] / reference_bops) for front in fronts]
    values = np.array([found for found, _ in supports])
    moves = smoothed(codes, values) - values
    return [
        front[:, 0] + _between(front[:, 1], front[index, 1], move)
        for front, (_, index), move in zip(fronts, supports, moves, strict=True)
    ]


def _between(bops: Array, known: Array, moves: Array) -> Array:
    """``moves``, each at the BOPs ``known``, at ``bops``: linear between, the mean where several are at the same."""
    at, which = np.unique(known, return_inverse=True)
    return np.interp(bops, at, np.bincount(which, moves) / np.bincount(which))


def find_point(study: optuna.Study, space: SearchSpace, name: str) -> FrontPoint:
    """The point ``"trial.policy"``; ``"trial"`` alone: the policy that stands for the trial.

    Raises:
        UserError: There is none of that name; the message says what there is.
    """
    number, dot, policy = name.partition(".")
    if not (name.isascii() and number.isdecimal() and (policy.isdecimal() or not dot)):
        raise UserError(f"expected a trial (12) or a trial and a policy (12.3), got {shown(name)}")
    trials = {trial.number: trial for trial in complete_trials(study)}
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
    """One of ``points``; of equals the cheapest. Give exactly one of ``best``, ``tr`` and ``budget_bops``.

    Args:
        points: To choose from, a front for example.
        best: The most accurate.
        tr: The greatest accuracy - ``tr`` x BOPs / ``reference_bops``.
        budget_bops: The most accurate with at most these average BOPs.
        reference_bops: Needed with ``tr``, without it of no effect.

    Raises:
        UserError: There are no points, or none fits the budget; the message names the cheapest.
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
    """The best by the study's own objective: its budget in mode ``budget``, else its ``tr``.

    Raises:
        UserError: As `select`.
    """
    if config.mode == "budget":
        assert config.gbops is not None
        return select(points, budget_bops=config.gbops * 1e9)
    return select(points, tr=config.tr, reference_bops=reference_bops)
