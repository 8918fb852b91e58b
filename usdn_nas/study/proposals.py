"""What the surrogate proposes: first sensitivities, then what may raise the front at one cost after another.

A trial's policies reach the line of slope lambda at V_lambda, and the front's hull at cost c lies at the least
V_lambda + lambda c over the lambdas. Every trial aims at the lambda that bounds the hull at some cost, the costs spread
evenly over the trials, and takes the configuration with the greatest upper confidence bound of that V_lambda (Srinivas
et al. 2010); trials under way count as observed, which narrows the bounds beside them (GP-BUCB, Desautels et al. 2014).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas.config import SearchConfig
from usdn_nas.exits.front import TRADE_OFFS, support
from usdn_nas.space.cost import reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.candidates import EXACT_LIMIT, everything, promising
from usdn_nas.study.parameters import TRADE_OFF, TRADE_OFF_RANGE, Indices, distributions, parameter_sizes
from usdn_nas.study.surrogate import Posterior, Surrogate

__all__ = ["HIGHEST_COST", "Proposals", "Seen", "initial_design", "trade_off_weights"]

HIGHEST_COST = 1.2
"""The hypervolume's range of costs ends there, in reference BOPs, unless the most accurate policy costs more."""

_CELLS = 600
_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo 1, are spread evenly however many there are."""
_CONFIDENCE = 0.5
"""Standard deviations above the mean."""
_MOST_TRIALS = 512

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """A complete trial: its bits as ranks (P,), and V_lambda (L,)."""

    codes: Indices
    values: Array


def initial_design(space: SearchSpace) -> list[Indices]:
    """Sensitivities: from the least bits everywhere, each parameter in turn at its most."""
    sizes = list(parameter_sizes(space).values())
    return [tuple(sizes[p] - 1 if p == q else 0 for q in range(len(sizes))) for p in range(len(sizes)) if sizes[p] > 1]


def trade_off_weights(best: Array, trade_offs: Array, low: float, high: float) -> Array:
    """(L,) share of the costs in [low, high] at which each trade-off is the one that bounds the hull.

    Args:
        best: (L,) greatest V_lambda so far.
        trade_offs: (L,).
        low, high: Relative BOPs; equal ones: that cost alone.
    """
    costs = np.linspace(low, high, _CELLS if high > low else 1)
    bounding = (best + trade_offs * costs[:, None]).argmin(axis=1)
    return np.bincount(bounding, minlength=len(best)) / len(costs)


def aim(weights: Array, number: int) -> int:
    """Which trade-off trial ``number`` aims at: over the trials, each in proportion to the root of its weight.

    The root, since long ranges of costs where one trade-off bounds the hull are flat, with little to gain.
    """
    shares = np.cumsum(np.sqrt(weights))
    return int(np.searchsorted(shares, (number * _GOLDEN) % 1.0 * shares[-1], side="right"))


class Proposals:
    """Proposes bit configurations as a function of seed, trial number, and what other trials are and have found.

    Args:
        space: The search space.
        config: Its mode says which trade-offs count.
        seed: The study's.
    """

    def __init__(self, space: SearchSpace, config: SearchConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._sizes = tuple(parameter_sizes(space).values())
        self._names = tuple(parameter_sizes(space))
        self._has_trade_off = TRADE_OFF in distributions(space, config)
        self._reference = float(reference_bops(space))
        self._trade_offs = np.array([config.tr]) if config.mode == "scalar" else TRADE_OFFS
        self._everything = everything(self._sizes) if space.bit_configurations <= EXACT_LIMIT else None
        self._batch: tuple[object, _Batch] | None = None

    def seen(self, codes: Indices, front: Sequence[Sequence[float]]) -> Seen:
        """Of a complete trial; ``front`` as in its record."""
        policies = np.array([policy[:2] for policy in front], dtype=np.float64)
        return Seen(codes, support(policies[:, 0], policies[:, 1] / self._reference, self._trade_offs)[0])

    def propose(
        self, number: int, batch: int, complete: Mapping[int, Seen], pending: Mapping[int, Indices]
    ) -> dict[str, Any]:
        """Parameters of a trial.

        Args:
            number: The trial's.
            batch: Number of its batch: random candidates are drawn for a batch, not for a trial.
            complete: By trial number; at least one. Trials are never taken back: as many of them are the same ones.
            pending: Trials under way, by number.
        """
        key = (batch, len(complete))
        if self._batch is None or self._batch[0] != key or not self._batch[1].goes_on_to(pending):
            # What is kept here can be had from the trials again: it spares a fit, and changes no proposal.
            self._batch = (key, self._prepare(batch, [complete[number] for number in sorted(complete)], pending))
        return self._params(*self._batch[1].pick(number, pending))

    def _prepare(self, batch: int, complete: Sequence[Seen], pending: Mapping[int, Indices]) -> _Batch:
        codes = np.array([seen.codes for seen in complete], dtype=np.int64)
        values = np.array([seen.values for seen in complete])
        best = values.max(axis=0)
        weights = self._weights(best)
        kept = _informative(values, best, weights)
        surrogate = Surrogate(codes[kept], values[kept])
        candidates = self._everything
        if candidates is None:
            generator = np.random.default_rng([self._seed, batch])
            champions = codes[np.unique(values[:, weights > 0].argmax(axis=0))]
            candidates = promising(self._sizes, surrogate, weights, best, champions, generator)
        known = set(map(tuple, candidates.tolist())) if self._everything is None else None
        extra = [code for code in pending.values() if known is not None and code not in known]
        if extra:
            candidates = np.concatenate([candidates, np.array(extra, dtype=np.int64)])
        return _Batch(surrogate.predict(candidates), weights, (seen.codes for seen in complete))

    def _weights(self, best: Array) -> Array:
        config = self._config
        if config.mode == "budget":
            assert config.gbops is not None
            low = high = config.gbops * 1e9 / self._reference
        else:
            low, high = 0.0, HIGHEST_COST
        return trade_off_weights(best, self._trade_offs, low, high)

    def _params(self, codes: Indices, trade_off: int) -> dict[str, Any]:
        params: dict[str, Any] = dict(zip(self._names, codes, strict=True))
        if self._has_trade_off:
            params[TRADE_OFF] = float(np.clip(self._trade_offs[trade_off], *TRADE_OFF_RANGE))
        return params


def _informative(values: Array, best: Array, weights: Array) -> NDArray[np.intp]:
    """Which trials the model is fitted to: all, or `_MOST_TRIALS` of them, most near the front and some throughout."""
    if len(values) <= _MOST_TRIALS:
        return np.arange(len(values))
    gap = ((best - values) / (values.std(axis=0) + 1e-12))[:, weights > 0].min(axis=1)
    near = np.argsort(gap, kind="stable")[: _MOST_TRIALS * 3 // 4]
    rest = np.setdiff1d(np.arange(len(values)), near)
    throughout = rest[np.linspace(0, len(rest) - 1, _MOST_TRIALS - len(near)).astype(np.intp)]
    return np.union1d(near, throughout)


class _Batch:
    """The posterior over the candidates as a batch goes on."""

    def __init__(self, posterior: Posterior, weights: Array, complete: Iterable[Indices]) -> None:
        self._posterior, self._weights = posterior, weights
        self._index = {tuple(code): i for i, code in enumerate(posterior.codes.tolist())}
        self._taken = [self._index[code] for code in complete if code in self._index]
        self._pended: list[tuple[int, Indices]] = []

    def goes_on_to(self, pending: Mapping[int, Indices]) -> bool:
        """Whether ``pending`` begins with what is taken for pending here, and holds candidates only."""
        trials = sorted(pending.items())
        return trials[: len(self._pended)] == self._pended and all(code in self._index for _, code in trials)

    def pick(self, number: int, pending: Mapping[int, Indices]) -> tuple[Indices, int]:
        """The best candidate for trial ``number``, and the number of the trade-off that it aims at."""
        for trial in sorted(pending.items())[len(self._pended) :]:
            self._posterior.pend(self._index[trial[1]])
            self._taken.append(self._index[trial[1]])
            self._pended.append(trial)
        trade_off = aim(self._weights, number)
        bound = self._posterior.bound(trade_off, _CONFIDENCE)
        bound[self._taken] = -np.inf
        return tuple(int(rank) for rank in self._posterior.codes[int(bound.argmax())]), trade_off
