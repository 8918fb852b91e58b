"""Searchers that `truth.py` lets run against each other. Each yields what a configuration brought, and when."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from usdn_nas.config import SearchConfig
from usdn_nas.engine.engine import Engine
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import score_shared, threshold_grid
from usdn_nas.exits.front import pareto_front
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context
from usdn_nas.space.architecture import Bits
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.study.parameters import TRADE_OFF_RANGE, indices_of, parameter_sizes
from usdn_nas.study.search import TrialSummary, run_search
from usdn_nas.study.session import open_study

THRESHOLDS = 64
REFERENCE_ACCURACY = 0.80
REFERENCE_COST = 1.2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Policies:
    """Policies of one configuration, (n,) each: accuracy, relative BOPs, mask of placed exits, shared threshold."""

    configuration: int
    accuracy: Array
    cost: Array
    masks: NDArray[np.int64]
    thresholds: Array


Event = tuple[float, Policies]
"""Seconds since the start, and what is known since then."""


class Images(Protocol):
    """Outputs of bit configurations, by their numbers in prefix order, on the images of a split: looked up or run."""

    context: Context

    def bits(self, number: int) -> dict[str, Bits]:
        """Group name -> (W, A)."""

    def outputs(self, number: int) -> ExitOutputs:
        """Of configuration ``number``."""


@dataclass
class Bench:
    """Configurations of a run with their exact fronts."""

    search: Images
    _fronts: dict[int, Policies] = field(default_factory=dict)

    @cached_property
    def space(self):  # type: ignore[no-untyped-def]
        return self.search.context.space

    @cached_property
    def reference(self) -> float:
        return float(reference_bops(self.space))

    @cached_property
    def sizes(self) -> dict[str, int]:
        return parameter_sizes(self.space)

    def number(self, ranks: tuple[int, ...]) -> int:
        """Of a configuration, in prefix order."""
        return int(np.ravel_multi_index(ranks, tuple(self.sizes.values())))

    def front(self, number: int) -> Policies:
        """Of a configuration, over all placements and `THRESHOLDS` shared thresholds."""
        if number not in self._fronts:
            self._fronts[number] = self._scored(number)
        return self._fronts[number]

    def _scored(self, number: int) -> Policies:
        outputs = self.search.outputs(number)
        scores = score_shared(
            outputs, exit_costs(self.space, self.search.bits(number)), threshold_grid(outputs, THRESHOLDS)
        )
        accuracy, bops = scores.accuracy.ravel(), scores.bops.ravel()
        kept = pareto_front(accuracy, bops)
        rows, masks = np.divmod(kept, scores.accuracy.shape[1])
        return Policies(number, accuracy[kept], bops[kept] / self.reference, masks, scores.thresholds[rows])

    def score(self, images: Images, number: int, mask: int, threshold: float) -> tuple[float, float]:
        """Accuracy and relative cost of one policy on ``images``."""
        exits = tuple(name for i, name in enumerate(self.space.candidates) if mask >> i & 1)
        costs = exit_costs(self.space, images.bits(number)).placed(exits)
        result = apply(images.outputs(number).placed(exits), costs, [threshold] * len(exits))
        return result.accuracy, result.average_bops / self.reference


def hypervolume(accuracy: Array, cost: Array) -> float:
    """Area between the front and the reference point."""
    inside = (accuracy > REFERENCE_ACCURACY) & (cost < REFERENCE_COST)
    accuracy, cost = accuracy[inside], cost[inside]
    front = pareto_front(accuracy, cost)
    widths = np.diff(np.append(cost[front], REFERENCE_COST))
    return float(((accuracy[front] - REFERENCE_ACCURACY) * widths).sum())


def _sampler(name: str, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"tpe": TPESampler, "nsga2": NSGAIISampler, "random": RandomSampler}[name](seed=seed)


def one_policy(bench: Bench, sampler: str, seed: int, forward: float, trials: int) -> Iterator[Event]:
    """Optuna over bits, exits and a threshold: one policy a trial, one plain forward pass each."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=_sampler(sampler, seed))
    seconds = 0.0
    low = 1 / bench.space.chain.num_classes
    for _ in range(trials):
        began = time.perf_counter()
        trial = study.ask()
        number = bench.number(tuple(trial.suggest_int(name, 0, size - 1) for name, size in bench.sizes.items()))
        exits = [trial.suggest_categorical(f"exit.{name}", [False, True]) for name in bench.space.candidates]
        threshold = trial.suggest_float("threshold", low, 1.0)
        asked = time.perf_counter() - began
        mask = sum(1 << i for i, placed in enumerate(exits) if placed)
        accuracy, cost = bench.score(bench.search, number, mask, threshold)
        began = time.perf_counter()
        study.tell(trial, (accuracy, cost))
        seconds += asked + forward + time.perf_counter() - began
        yield seconds, Policies(number, *map(np.array, ([accuracy], [cost], [mask], [threshold])))


def exact_policies(bench: Bench, sampler: str, seed: int, forward: float, trials: int) -> Iterator[Event]:
    """Optuna over bits and a trade-off, exits and threshold solved exactly; one plain forward pass a trial."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=_sampler(sampler, seed))
    seconds = 0.0
    for _ in range(trials):
        began = time.perf_counter()
        trial = study.ask()
        number = bench.number(tuple(trial.suggest_int(name, 0, size - 1) for name, size in bench.sizes.items()))
        trade_off = trial.suggest_float("trade_off", *TRADE_OFF_RANGE, log=True)
        asked = time.perf_counter() - began
        front = bench.front(number)
        best = int((front.accuracy - trade_off * front.cost).argmax())
        began = time.perf_counter()
        study.tell(trial, (float(front.accuracy[best]), float(front.cost[best])))
        seconds += asked + forward + time.perf_counter() - began
        yield seconds, front


def ours(bench: Bench, engine: Engine, seed: int, configurations: int) -> Iterator[Event]:
    """`run_search` as the command line runs it: every forward pass, proposal, record and journal write for real."""
    events: list[Event] = []
    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(sampler="surrogate", configurations=configurations, thresholds=THRESHOLDS)
        began = time.perf_counter()
        study = open_study(
            bench.space, config, seed=seed, storage_path=Path(folder) / "study.journal", fingerprint={}, name="truth"
        )
        told: list[tuple[float, TrialSummary]] = []
        run_search(
            study,
            bench.space,
            config,
            engine.run,
            on_trial=lambda summary: told.append((time.perf_counter() - began, summary)),
        )
        trials = study.get_trials(deepcopy=False)
        for seconds, summary in told:
            trial = trials[summary.number]
            ranks = indices_of(bench.space, trial.params)
            assert ranks is not None
            accuracy, bops, masks, thresholds = np.array(  # thinned: what the study holds
                [[*policy[:3], policy[3] or 0.0] for policy in trial.user_attrs["front"]], dtype=np.float64
            ).T
            found = Policies(bench.number(ranks), accuracy, bops / bench.reference, masks.astype(np.int64), thresholds)
            events.append((seconds, found))
    yield from events
