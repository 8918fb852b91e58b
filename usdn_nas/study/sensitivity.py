"""``sensitivity.json``: the effect of each group's choices, and the share of the variance that each group explains.

These are main effects and first-order Sobol indices (Sobol 1993) of the surrogate's mean, over configurations that are
drawn uniformly. V is the best accuracy - trade-off x relative BOPs (bit operations) over all exit policies.

Shapes: n trials, P parameters, L trade-offs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from usdn_nas.documents import SensitivityDocument, write_document
from usdn_nas.exits.front import TRADE_OFFS, support
from usdn_nas.space.architecture import Bits
from usdn_nas.space.cost import reference_bops
from usdn_nas.space.search_space import Group, SearchSpace
from usdn_nas.study.parameters import indices_of, parameter_sizes, params_of
from usdn_nas.study.points import complete_trials
from usdn_nas.study.surrogate import Surrogate

__all__ = ["sensitivity", "write_sensitivity"]

_MOST_TRIALS = 512
_DRAWN = 512

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


def _observed(study: optuna.Study, space: SearchSpace) -> tuple[Codes, Array]:
    """Returns ranks (n, P) and values (n, 1 + L) of complete trials: the accuracy without exits, then V at each
    trade-off.
    """
    trials = complete_trials(study, space)
    if len(trials) > _MOST_TRIALS:
        trials = [trials[int(i)] for i in np.linspace(0, len(trials) - 1, _MOST_TRIALS)]
    reference = reference_bops(space)
    values = []
    for trial in trials:
        accuracy, bops = np.array([policy[:2] for policy in trial.user_attrs["front"]]).T
        values.append([trial.user_attrs["accuracy_without_exits"], *support(accuracy, bops / reference)[0]])
    return np.array([indices_of(space, trial.params) for trial in trials], dtype=np.int64), np.array(values)


def _forced(space: SearchSpace, codes: Codes, group: Group, choice: Bits) -> Codes:
    """Returns ``codes`` (m, P) with ``choice`` set for ``group`` in all of them."""
    ranks = params_of(space, space.choice_bits([0] * len(space.groups)) | {group.name: choice})
    forced = codes.copy()
    for column, (parameter, rank) in enumerate(ranks.items()):
        if parameter.partition(".")[2] == group.name:
            forced[:, column] = rank
    return forced


def sensitivity(study: optuna.Study, space: SearchSpace) -> dict[str, Any]:
    """Returns the content of ``sensitivity.json``.

    It needs at least one complete trial, and a search whose exits were not sampled.

    Keys:
        ``trials``: Number of trials that the figures were estimated from.
        ``trade_offs``: L weights of relative BOPs.
        ``groups``: For each group its ``name``, its ``choices``, the mean effect of each choice on the accuracy without
            exits (``accuracy``, a fraction; the effects of a group sum to 0), L such effects on V for each choice
            (``value``), and the L shares of the variance of V that the group explains by itself (``importance``).
        ``importance_of_accuracy``: For each group, the share of the variance of the accuracy without exits.
    """
    codes, values = _observed(study, space)
    surrogate = Surrogate(codes, values)
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.integers(size, size=_DRAWN) for size in parameter_sizes(space).values()], axis=1)
    variance = surrogate.predict(drawn).mean.var(axis=0) + 1e-18
    groups: list[dict[str, Any]] = []
    of_accuracy: list[float] = []
    for group in space.groups:
        effects = [
            surrogate.predict(_forced(space, drawn, group, choice)).mean.mean(axis=0) for choice in group.choices
        ]
        effect = np.array(effects) - np.mean(effects, axis=0)  # (choices, 1 + L)
        share = effect.var(axis=0) / variance
        groups.append(
            {
                "name": group.name,
                "choices": [list(choice) for choice in group.choices],
                "accuracy": effect[:, 0].tolist(),
                "value": effect[:, 1:].tolist(),
                "importance": share[1:].tolist(),
            }
        )
        of_accuracy.append(float(share[0]))
    return {
        "trials": len(codes),
        "trade_offs": TRADE_OFFS.tolist(),
        "importance_of_accuracy": of_accuracy,
        "groups": groups,
    }


def write_sensitivity(study: optuna.Study, space: SearchSpace, path: Path, provenance: Mapping[str, Any]) -> None:
    """Writes ``sensitivity.json``, atomically."""
    write_document(path, SensitivityDocument, {**sensitivity(study, space), "provenance": dict(provenance)})
