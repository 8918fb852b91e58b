"""Samplers by name, made reproducible and resumable.

Optuna's samplers hold a random generator that starts over when a study is reopened, so that they repeat their first
proposals. `SeededSampler` instead builds the inner sampler anew for each trial, with a seed from the study's seed and
the trial's number. It shows the inner sampler all other trials, and presents those of the same batch as under way. A
proposal then depends only on the seed, the number and the other trials. Reopening a study repeats nothing. If a worker
dies while it proposes a trial, the worker that adopts the trial proposes the same parameters, even if other trials of
the batch were completed meanwhile.
"""

from __future__ import annotations

import copy
import warnings
from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from usdn_nas._util.errors import UserError
from usdn_nas.config import SearchConfig
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.parameters import (
    Indices,
    configuration,
    distributions,
    indices_of,
    parameter_sizes,
    params_of,
    unseen,
)
from usdn_nas.study.proposals import Proposals, Seen, initial_design

__all__ = ["BRUTE_LIMIT", "SamplerSettings", "SeededSampler", "affordable", "goal", "sampler_settings"]

BRUTE_LIMIT = 200_000
"""Largest number of bit configurations that ``brute`` enumerates."""


@dataclass(frozen=True)
class SamplerSettings:
    """Settings that a study's proposals depend on. They are fixed when the study is created.

    Attributes:
        name: Name of the sampler, with ``auto`` resolved.
        seed: The study's seed.
        population: Population size of ``nsga2`` and ``nsga3``.
        initial: Number of trials of ``surrogate`` that are fixed in advance: first the uniform configurations, then
            those of `initial_design`.
    """

    name: str
    seed: int
    population: int
    initial: int = 0


def sampler_settings(space: SearchSpace, config: SearchConfig, seed: int) -> SamplerSettings:
    """Resolves ``auto``, the population size and the number of trials that are fixed in advance.

    ``auto`` stands for ``brute`` if that is `affordable`, otherwise for ``surrogate``. With sampled exits it stands for
    ``nsga2`` in mode ``pareto``, and for ``tpe`` in the other modes. The population is a sixth of ``configurations``,
    at least 8 and at most 50 (Optuna's default), so that a search has about six generations. At most a third of
    ``configurations`` is fixed in advance, but always all uniform configurations.

    Raises:
        UserError: ``brute`` is asked for with more than `BRUTE_LIMIT` bit configurations, or ``brute`` or ``surrogate``
            with sampled exits.
    """
    name: str = config.sampler
    count = space.bit_configurations
    if name == "auto":
        if config.exits != "sampled":
            name = "brute" if affordable(space, config) else "surrogate"
        else:
            name = "nsga2" if config.mode == "pareto" else "tpe"
    if name == "brute" and count > BRUTE_LIMIT:
        raise UserError(
            f"brute enumerates at most {BRUTE_LIMIT:,} bit configurations, this space has {count:,}",
            where="search.sampler",
            remedy="take another sampler, or fewer groups or choices",
        )
    if name in ("brute", "surrogate") and config.exits == "sampled":
        does = "enumerates bit configurations" if name == "brute" else "learns what a configuration's best exits reach"
        raise UserError(
            f"{name} {does} and cannot take sampled exits",
            where="search.sampler",
            remedy='set search.exits = "exact"',
        )
    ladder = len(space.ladder())
    given = min(ladder + len(initial_design(space)), max(config.configurations // 3, ladder))
    return SamplerSettings(name, seed, min(max(config.configurations // 6, 8), 50), given)


def affordable(space: SearchSpace, config: SearchConfig) -> bool:
    """True if ``auto`` enumerates all bit configurations.

    It does so if the enumeration in prefix order runs no more segments than ``configurations`` separate runs would.
    """
    count = space.bit_configurations
    if config.exits == "sampled" or count > BRUTE_LIMIT:
        return False
    return count <= config.configurations or sum(space.prefixes) <= config.configurations * len(space.prefixes)


def goal(space: SearchSpace, config: SearchConfig) -> int:
    """Returns the number of trials to complete.

    It is ``configurations``. Unless exits are sampled, it is at most the number of bit configurations, because running
    one again brings nothing new. If ``auto`` finds the enumeration `affordable`, it is the number of all bit
    configurations.
    """
    if config.exits == "sampled":
        return config.configurations
    if config.sampler == "auto" and affordable(space, config):
        return space.bit_configurations
    return min(config.configurations, space.bit_configurations)


def _build(settings: SamplerSettings, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if settings.name == "tpe":
            return TPESampler(seed=seed)
        if settings.name == "nsga2":
            return NSGAIISampler(seed=seed, population_size=settings.population)
        if settings.name == "nsga3":
            return NSGAIIISampler(seed=seed, population_size=settings.population)
        if settings.name == "gp":
            return GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)
    return RandomSampler(seed=seed)  # for brute: draws the parameters that it does not enumerate


class _OtherTrials(optuna.Study):
    """A study as seen from one of its trials: a snapshot of all other trials.

    Trials are proposed in batches that are aligned to their numbers. A trial sees the others of its batch as under way
    even if they are finished. If a search is killed in the middle of a batch, the proposals stay the same when it
    continues.
    """

    def __init__(self, study: optuna.Study, number: int, batch: int) -> None:
        self.__setstate__(study.__getstate__())  # Study.__init__ would read from the storage again
        trials = study.get_trials(deepcopy=False)  # sorted by number
        start = bisect_left(trials, number // batch * batch, key=_number)
        end = bisect_left(trials, (number // batch + 1) * batch, key=_number)
        mates = [_under_way(trial) for trial in trials[start:end] if trial.number != number]
        self.others = trials[:start] + mates + trials[end:]

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [t for t in self.others if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _number(trial: FrozenTrial) -> int:
    return trial.number


def _under_way(trial: FrozenTrial) -> FrozenTrial:
    """Returns a running or complete trial as a running one without results. Other trials are returned unchanged."""
    if trial.state not in (TrialState.RUNNING, TrialState.COMPLETE):
        return trial
    pending = copy.copy(trial)
    pending.state, pending.values, pending.datetime_complete, pending.user_attrs = TrialState.RUNNING, None, None, {}
    pending.system_attrs = {k: v for k, v in trial.system_attrs.items() if not k.startswith("constraints")}
    return pending


def _has_front(trial: FrozenTrial) -> bool:
    """True if the trial is complete and has a front. A trial that the user completed by hand has none."""
    return trial.state == TrialState.COMPLETE and "front" in trial.user_attrs


class SeededSampler(BaseSampler):
    """Proposes all parameters of a trial at once. A proposal depends only on seed, trial number and other trials.

    The first trials run the uniform configurations (`SearchSpace.ladder`), so that every study has its baselines.
    ``brute`` instead enumerates all bit configurations in prefix order, by trial number. Unless exits are sampled, a
    proposal with the bits of another trial is changed in random steps until no other trial has its bits.
    """

    def __init__(self, space: SearchSpace, config: SearchConfig, settings: SamplerSettings) -> None:
        self._space = space
        self._settings = settings
        self._batch = config.batch
        self._distributions = distributions(space, config)
        self._distinct = config.exits != "sampled"
        self._ladder = [] if settings.name == "brute" else [params_of(space, bits) for bits in space.ladder()]
        self._done: set[Indices] = set()
        self._settled = 0
        self._proposals = Proposals(space, config, settings.seed) if settings.name == "surrogate" else None
        self._design = [dict(zip(parameter_sizes(space), codes, strict=True)) for codes in initial_design(space)]
        self._values: dict[int, Seen] = {}
        self._complete: dict[int, Seen] = {}

    @property
    def enumerates(self) -> bool:
        """True if a proposal depends on the trial's number alone."""
        return self._settings.name == "brute"

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns all parameters, so that Optuna draws none of them independently."""
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns a value for every parameter."""
        others = _OtherTrials(study, trial.number, self._batch)
        params = self._informed(others, trial) or self._inner_proposal(others, trial)
        if trial.number < len(self._ladder):
            return params | self._ladder[trial.number]
        if self._settings.name == "brute" and trial.number < self._space.bit_configurations:
            return params | configuration(self._space, trial.number)
        if self._distinct:
            generator = np.random.default_rng([self._settings.seed, trial.number])
            return unseen(self._space, params, self._seen(others.others), generator)
        return params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draws a parameter that does not belong to the search space."""
        return self._inner(trial.number).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passes the call on to the inner sampler."""
        self._inner(trial.number).after_trial(study, trial, state, values)

    def _inner(self, number: int) -> BaseSampler:
        seed = np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0]
        return _build(self._settings, int(seed))

    def _inner_proposal(self, others: _OtherTrials, trial: FrozenTrial) -> dict[str, Any]:
        inner = self._inner(trial.number)
        if isinstance(inner, BaseGASampler):
            # Optuna stores the parents of a generation once they are selected. They are selected here by a separate
            # sampler, so that the random generator of the proposal is the same whether they were stored or not.
            generation = inner.get_trial_generation(others, trial)
            inner.get_parent_population(others, generation)
            trial = copy.copy(trial)
            trial.system_attrs = {**trial.system_attrs, inner._get_generation_key(): generation}
            inner = self._inner(trial.number)
        inner.before_trial(others, trial)
        relative_space = inner.infer_relative_search_space(others, trial)
        relative = inner.sample_relative(others, trial, relative_space)
        params: dict[str, Any] = {}
        for name, distribution in self._distributions.items():
            if distribution.single():
                params[name] = distribution.to_external_repr(0.0)
            elif name in relative:
                params[name] = relative[name]
            else:
                params[name] = inner.sample_independent(others, trial, name, distribution)
        return params

    def _informed(self, others: _OtherTrials, trial: FrozenTrial) -> dict[str, Any] | None:
        """Returns the proposal of the surrogate, or of its initial design.

        None for the first trials (the uniform configurations), while no trial is complete, and for other samplers.
        """
        if self._proposals is None:
            return None
        if len(self._ladder) <= trial.number < self._settings.initial:
            return self._inner_proposal(others, trial) | self._design[trial.number - len(self._ladder)]
        complete, pending = self._results(others, trial)
        if trial.number < self._settings.initial or not complete:
            return None
        return self._proposals.propose(trial.number, trial.number // self._batch, complete, pending)

    def _results(self, others: _OtherTrials, trial: FrozenTrial) -> tuple[dict[int, Seen], dict[int, Indices]]:
        """Returns the results of complete trials and the bits of trials under way, each by trial number."""
        self._settle(others.others)
        batch = trial.number // self._batch
        complete, pending = self._complete, {}
        if complete and next(reversed(complete)) >= batch * self._batch:  # the trial was abandoned in an earlier batch
            complete = {number: seen for number, seen in complete.items() if number // self._batch != batch}
        for other in others.others[self._settled :]:
            if (codes := indices_of(self._space, other.params)) is None:
                continue
            if other.state == TrialState.RUNNING:
                pending[other.number] = codes
            elif _has_front(other):
                complete = complete | {other.number: self._found(other, codes)}
        return complete, pending

    def _found(self, trial: FrozenTrial, codes: Indices) -> Seen:
        if trial.number not in self._values:
            assert self._proposals is not None
            self._values[trial.number] = self._proposals.seen(codes, trial.user_attrs["front"])
        return self._values[trial.number]

    def _settle(self, trials: Sequence[FrozenTrial]) -> None:
        """Reads the finished trials at the beginning once, because they do not change any more."""
        while self._settled < len(trials):
            trial = trials[self._settled]
            # The numbers have a gap at the trial that the proposal is for.
            if trial.number != self._settled or not trial.state.is_finished():
                return
            self._settled += 1
            for codes in self._bits_of(trial):
                self._done.add(codes)
                if self._proposals is not None and _has_front(trial):
                    self._complete[trial.number] = self._found(trial, codes)

    def _seen(self, trials: Sequence[FrozenTrial]) -> set[Indices]:
        """Returns the bits of all trials that are complete, running or waiting."""
        self._settle(trials)
        return self._done.union(*map(self._bits_of, trials[self._settled :]))

    def _bits_of(self, trial: FrozenTrial) -> set[Indices]:
        if trial.state in (TrialState.FAIL, TrialState.PRUNED):
            return set()
        key = indices_of(self._space, trial.params)
        return set() if key is None else {key}
