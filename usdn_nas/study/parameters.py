"""Optuna's parameters for a point of a search space, and back.

``bits.<group>``: index into the group's choices, which are ordered by cost. Where W and A are chosen apart,
``weights.<group>`` and ``activations.<group>``: indices into their rising lists. With ``exits = "sampled"`` also
``exit.<candidate>`` (bool) and one shared ``threshold``. With ``exits = "exact"`` in mode ``pareto`` also
``trade_off``: which point of the configuration's own front stands for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from usdn_nas.config import SearchConfig
from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace

__all__ = [
    "THRESHOLD",
    "TRADE_OFF",
    "TRADE_OFF_RANGE",
    "Indices",
    "bits_of",
    "configuration",
    "distributions",
    "exits_of",
    "indices_of",
    "parameter_sizes",
    "params_of",
    "suggest",
    "unseen",
]

THRESHOLD = "threshold"
TRADE_OFF = "trade_off"
TRADE_OFF_RANGE = (1e-3, 1.0)
"""Log-uniform. At .001 all of the reference's BOPs are worth .1 points of accuracy, at 1 they are worth all of it:
beyond either end the most accurate or the cheapest policy is picked anyway."""

_WALK = 256

Indices = tuple[int, ...]
"""A bit configuration as the values of its integer parameters, in the order of `distributions`."""


def parameter_sizes(space: SearchSpace) -> dict[str, int]:
    """Name -> number of values, of the integer parameters."""
    sizes: dict[str, int] = {}
    for group in space.groups:
        if group.weights is not None and group.activations is not None:
            sizes[f"weights.{group.name}"] = len(group.weights)
            sizes[f"activations.{group.name}"] = len(group.activations)
        else:
            sizes[f"bits.{group.name}"] = len(group.choices)
    return sizes


def distributions(space: SearchSpace, config: SearchConfig) -> dict[str, BaseDistribution]:
    """All parameters of a trial, in order."""
    found: dict[str, BaseDistribution] = {
        name: IntDistribution(0, size - 1) for name, size in parameter_sizes(space).items()
    }
    if config.exits == "sampled":
        found |= {f"exit.{name}": CategoricalDistribution((False, True)) for name in space.candidates}
        found[THRESHOLD] = FloatDistribution(1 / space.chain.num_classes, 1.0)
    elif config.mode == "pareto":
        found[TRADE_OFF] = FloatDistribution(*TRADE_OFF_RANGE, log=True)
    return found


def suggest(trial: Trial, parameters: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Asks ``trial`` for all ``parameters``; those it has already are not drawn again."""
    values: dict[str, Any] = {}
    for name, distribution in parameters.items():
        if isinstance(distribution, IntDistribution):
            values[name] = trial.suggest_int(name, distribution.low, distribution.high)
        elif isinstance(distribution, FloatDistribution):
            values[name] = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
        elif isinstance(distribution, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, distribution.choices)
    return values


def bits_of(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Bits]:
    """Group name -> (W, A)."""
    bits: dict[str, Bits] = {}
    for group in space.groups:
        if group.weights is not None and group.activations is not None:
            weights = group.weights[params[f"weights.{group.name}"]]
            bits[group.name] = (weights, group.activations[params[f"activations.{group.name}"]])
        else:
            bits[group.name] = group.choices[params[f"bits.{group.name}"]]
    return bits


def params_of(space: SearchSpace, bits: Mapping[str, Bits]) -> dict[str, int]:
    """The integer parameters of a bit configuration: the inverse of `bits_of`."""
    params = {}
    for group in space.groups:
        pair = bits[group.name]
        if group.weights is not None and group.activations is not None:
            params[f"weights.{group.name}"] = group.weights.index(pair[0])
            params[f"activations.{group.name}"] = group.activations.index(pair[1])
        else:
            params[f"bits.{group.name}"] = group.choices.index(pair)
    return params


def exits_of(space: SearchSpace, params: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the exits that ``params`` places (``exits = "sampled"``)."""
    return tuple(name for name in space.candidates if params[f"exit.{name}"])


def indices_of(space: SearchSpace, params: Mapping[str, Any]) -> Indices | None:
    """The bit configuration of ``params`` as a key; None where a parameter is still missing."""
    found = [params.get(name) for name in parameter_sizes(space)]
    return None if any(index is None for index in found) else tuple(int(index) for index in found if index is not None)


def configuration(space: SearchSpace, number: int) -> dict[str, int]:
    """Integer parameters of bit configuration ``number`` in prefix order: the last group changes fastest."""
    params = {}
    for name, size in reversed(parameter_sizes(space).items()):
        number, params[name] = divmod(number, size)
    return params


def unseen(
    space: SearchSpace, params: Mapping[str, Any], seen: Collection[Indices], generator: np.random.Generator
) -> dict[str, Any]:
    """``params``, its bits walked away at random, a parameter at a time, until they are not among ``seen``.

    Where all configurations are among ``seen``, ``params`` as they are.
    """
    sizes = parameter_sizes(space)
    names = [name for name, size in sizes.items() if size > 1]
    if len(seen) >= space.bit_configurations or not names:
        return dict(params)
    walked = dict(params)
    for _ in range(_WALK):
        if indices_of(space, walked) not in seen:
            return walked
        name = names[int(generator.integers(len(names)))]
        walked[name] = (walked[name] + 1 + int(generator.integers(sizes[name] - 1))) % sizes[name]
    # Nearly all are seen, so that looking through all of them is short.
    everything = itertools.product(*(range(size) for size in sizes.values()))
    return dict(params) | dict(zip(sizes, next(key for key in everything if key not in seen), strict=True))
