"""Converts a point of a search space into Optuna's parameters and back.

``bits.<group>`` is an index into the group's choices, which are sorted by cost. If the bits of weights (W) and of
inputs (A) are chosen independently, ``weights.<group>`` and ``activations.<group>`` are indices into their rising
lists. With ``exits = "sampled"``, ``exit.<candidate>`` (bool) says whether an exit is placed, and ``threshold`` is the
threshold that all exits share. With other ``exits`` in mode ``pareto``, ``trade_off`` chooses the policy on the
configuration's own front that stands for it.
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
"""Range of ``trade_off``, which is drawn log-uniformly.

A trade-off of 0.001 makes the BOPs (bit operations) of the reference network worth 0.1 percentage points of accuracy,
and a trade-off of 1 makes them worth 100 points. Beyond these ends, the most accurate or the cheapest policy is chosen
anyway.
"""

_WALK = 256

Indices = tuple[int, ...]
"""A bit configuration as the values of its integer parameters, in the order of `distributions`."""


def parameter_sizes(space: SearchSpace) -> dict[str, int]:
    """Returns name -> number of values, for the integer parameters."""
    sizes: dict[str, int] = {}
    for group in space.groups:
        if group.weights is not None and group.activations is not None:
            sizes[f"weights.{group.name}"] = len(group.weights)
            sizes[f"activations.{group.name}"] = len(group.activations)
        else:
            sizes[f"bits.{group.name}"] = len(group.choices)
    return sizes


def distributions(space: SearchSpace, config: SearchConfig) -> dict[str, BaseDistribution]:
    """Returns all parameters of a trial, in order."""
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
    """Asks ``trial`` for the values of all ``parameters``. Optuna does not draw those again that it already has."""
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
    """Returns group name -> (W, A), the bits that ``params`` choose."""
    bits: dict[str, Bits] = {}
    for group in space.groups:
        if group.weights is not None and group.activations is not None:
            weights = group.weights[params[f"weights.{group.name}"]]
            bits[group.name] = (weights, group.activations[params[f"activations.{group.name}"]])
        else:
            bits[group.name] = group.choices[params[f"bits.{group.name}"]]
    return bits


def params_of(space: SearchSpace, bits: Mapping[str, Bits]) -> dict[str, int]:
    """Returns the integer parameters of a bit configuration. It is the inverse of `bits_of`."""
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
    """Returns the names of the exits that ``params`` place (for ``exits = "sampled"``)."""
    return tuple(name for name in space.candidates if params[f"exit.{name}"])


def indices_of(space: SearchSpace, params: Mapping[str, Any]) -> Indices | None:
    """Returns the bit configuration of ``params`` as a key. None if a parameter is still missing."""
    found = [params.get(name) for name in parameter_sizes(space)]
    return None if any(index is None for index in found) else tuple(int(index) for index in found if index is not None)


def configuration(space: SearchSpace, number: int) -> dict[str, int]:
    """Returns the integer parameters of configuration ``number`` in prefix order: the last group changes fastest."""
    params = {}
    for name, size in reversed(parameter_sizes(space).items()):
        number, params[name] = divmod(number, size)
    return params


def unseen(
    space: SearchSpace, params: Mapping[str, Any], seen: Collection[Indices], generator: np.random.Generator
) -> dict[str, Any]:
    """Returns ``params`` with bits that are not among ``seen``.

    If the bits are among ``seen``, random parameters are changed one after the other until the bits are new. If all
    configurations are among ``seen``, ``params`` are returned unchanged.
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
    # The random steps found none, so nearly all configurations are seen, and looking through all of them is quick.
    everything = itertools.product(*(range(size) for size in sizes.values()))
    return dict(params) | dict(zip(sizes, next(key for key in everything if key not in seen), strict=True))
