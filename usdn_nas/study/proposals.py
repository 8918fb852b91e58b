"""The proposals of the surrogate sampler: configurations that may raise the front, at one cost after another.

Let lambda be a trade-off, the weight of relative BOPs (bit operations), and V_lambda the greatest
accuracy - lambda x relative BOPs among the policies of a configuration. In a plot of accuracy against cost, a line of
slope lambda through that policy meets the accuracy axis at V_lambda. With the best V_lambda of all trials, the convex
hull of the front at cost c is the least V_lambda + lambda c over all lambdas.

Every trial aims at the lambda whose line bounds the hull at some cost; these costs are spread evenly over the trials.
It takes the configuration with the greatest upper confidence bound of that V_lambda (Srinivas et al. 2010). Trials
under way count as observed, which narrows the bounds of similar configurations (GP-BUCB, Desautels et al. 2014).

Shapes: P parameters, L trade-offs.
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
"""Upper end of the range of costs over which the hull is raised, in relative BOPs."""

_CELLS = 600
_GOLDEN = (5**0.5 - 1) / 2
"""Golden ratio - 1. Its first n multiples, modulo 1, are spread evenly for every n."""
_CONFIDENCE = 0.5
"""The upper confidence bound is this many standard deviations above the mean."""
_MOST_TRIALS = 512

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """A complete trial: the ranks (P,) of its bits, and its V_lambda (L,)."""

    codes: Indices
    values: Array


def initial_design(space: SearchSpace) -> list[Indices]:
    """Returns configurations that show the effect of each parameter: it has its most bits, all others their fewest."""
    sizes = list(parameter_sizes(space).values())
    return [tuple(sizes[p] - 1 if p == q else 0 for q in range(len(sizes))) for p in range(len(sizes)) if sizes[p] > 1]


def trade_off_weights(best: Array, trade_offs: Array, low: float, high: float) -> Array:
    """Returns (L,) weights: for each trade-off, the share of the costs in [low, high] at which it bounds the hull.

    Args:
        best: (L,) greatest V_lambda so far.
        trade_offs: (L,) the lambdas.
        low, high: Ends of the range in relative BOPs. If they are equal, only that cost counts.
    """
    costs = np.linspace(low, high, _CELLS if high > low else 1)
    bounding = (best + trade_offs * costs[:, None]).argmin(axis=1)
    return np.bincount(bounding, minlength=len(best)) / len(costs)


def aim(weights: Array, number: int) -> int:
    """Returns the index of the trade-off that trial ``number`` aims at.

    Over many trials, each trade-off is chosen in proportion to the square root of its weight. The root favours small
    weights, because a long range of costs that one trade-off bounds is flat, and little can be gained there.
    """
    shares = np.cumsum(np.sqrt(weights))
    return int(np.searchsorted(shares, (number * _GOLDEN) % 1.0 * shares[-1], side="right"))


class Proposals:
    """Proposes bit configurations. A proposal depends only on the seed, the trial number and the other trials.

    Args:
        space: The search space.
        config: Settings of the search. The mode decides which trade-offs count.
        seed: The study's seed.
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
        """Returns a complete trial in the form that `propose` takes, from its ``front`` in the trial's record."""
        policies = np.array([policy[:2] for policy in front], dtype=np.float64)
        return Seen(codes, support(policies[:, 0], policies[:, 1] / self._reference, self._trade_offs)[0])

    def propose(
        self, number: int, batch: int, complete: Mapping[int, Seen], pending: Mapping[int, Indices]
    ) -> dict[str, Any]:
        """Returns the parameters of a trial.

        Args:
            number: Number of the trial.
            batch: Number of its batch. Random candidates are drawn once for each batch.
            complete: Trial number -> complete trial; at least one. Complete trials never change or disappear, so that
                within a batch their number identifies them.
            pending: Trial number -> bits, for the trials under way.
        """
        key = (batch, len(complete))
        if self._batch is None or self._batch[0] != key or not self._batch[1].goes_on_to(pending):
            # This is only a cache: it avoids fitting the model again, and does not change any proposal.
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
    """Returns the indices of the trials that the model is fitted to.

    These are all trials, or `_MOST_TRIALS` of them: three quarters are nearest to the front, and the rest are spread
    evenly over the other trials.
    """
    if len(values) <= _MOST_TRIALS:
        return np.arange(len(values))
    gap = ((best - values) / (values.std(axis=0) + 1e-12))[:, weights > 0].min(axis=1)
    near = np.argsort(gap, kind="stable")[: _MOST_TRIALS * 3 // 4]
    rest = np.setdiff1d(np.arange(len(values)), near)
    throughout = rest[np.linspace(0, len(rest) - 1, _MOST_TRIALS - len(near)).astype(np.intp)]
    return np.union1d(near, throughout)


class _Batch:
    """The posterior over the candidates of one batch. It is updated while the trials of the batch are proposed."""

    def __init__(self, posterior: Posterior, weights: Array, complete: Iterable[Indices]) -> None:
        self._posterior, self._weights = posterior, weights
        self._index = {tuple(code): i for i, code in enumerate(posterior.codes.tolist())}
        self._taken = [self._index[code] for code in complete if code in self._index]
        self._pended: list[tuple[int, Indices]] = []

    def goes_on_to(self, pending: Mapping[int, Indices]) -> bool:
        """True if this posterior can be updated to ``pending``.

        ``pending`` must begin with the trials that the posterior already takes for pending, and all must be candidates.
        """
        trials = sorted(pending.items())
        return trials[: len(self._pended)] == self._pended and all(code in self._index for _, code in trials)

    def pick(self, number: int, pending: Mapping[int, Indices]) -> tuple[Indices, int]:
        """Returns the best candidate for trial ``number``, and the index of the trade-off that the trial aims at."""
        for trial in sorted(pending.items())[len(self._pended) :]:
            self._posterior.pend(self._index[trial[1]])
            self._taken.append(self._index[trial[1]])
            self._pended.append(trial)
        trade_off = aim(self._weights, number)
        bound = self._posterior.bound(trade_off, _CONFIDENCE)
        bound[self._taken] = -np.inf
        return tuple(int(rank) for rank in self._posterior.codes[int(bound.argmax())]), trade_off
