"""A search in Python: an objective for `optuna.Study.optimize`, and `search`, which runs several trials together.

BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

import optuna
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from usdn_nas._util.errors import UserError
from usdn_nas._util.validation import validate
from usdn_nas.config import SearchConfig
from usdn_nas.data.loaders import Loader, as_split
from usdn_nas.data.splits import Split
from usdn_nas.engine.engine import Engine, choose_settings
from usdn_nas.engine.outputs import Batches
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Rule
from usdn_nas.space.records import ChainRecord
from usdn_nas.space.search_space import SearchSpace, SpaceSpec
from usdn_nas.study.objectives import objectives
from usdn_nas.study.parameters import bits_of, distributions, suggest
from usdn_nas.study.samplers import SeededSampler, sampler_settings
from usdn_nas.study.scoring import ScoredTrial, judge
from usdn_nas.study.search import OutputCache
from usdn_nas.study.session import settings_that_matter

__all__ = ["Objective", "SurrogateSampler", "describe", "search", "space_of"]

_SPACE = "space"
_BATCH_SIZE = 500
"""Number of images in a batch when the images of a loader are read again. The engine then regroups them."""
_CACHE_BYTES = 256 << 20


class Objective:
    """Evaluates a trial: accuracy and average cost of one bit configuration with its best exits.

    A trial chooses the bits of every group. The supernet runs them once over all images, with all candidate exits.
    Every set of exits and every shared threshold is then scored by counting. Pass the objective to ``study.optimize``,
    or to `search`, which is faster because trials share the segments that their bits have in common.

    Every trial gets user attributes, among them ``accuracy`` (a fraction), ``bops`` (average BOPs of a sample),
    ``exits``, and ``front``: the non-dominated policies of this trial, thinned to about 64.

    Args:
        supernet: The trained supernet.
        images_and_labels: Search images with labels, as batches. They are read once and kept in memory.
        mode: "pareto" has two objectives: it maximizes accuracy and minimizes average BOPs. "scalar" maximizes
            accuracy - ``tr`` x average BOPs / reference BOPs. "budget" maximizes accuracy with average BOPs of at most
            ``max_bops``.
        tr: Weight of the relative cost in mode "scalar".
        max_bops: Largest average BOPs of a sample that mode "budget" allows.
        exits: "exact" scores every set of exits, "all" scores the set of all candidates only, "sampled" makes exits
            and one threshold parameters of the trial.
        thresholds: Number of shared thresholds that are scored, unless exits are sampled.
        rule: Which exit answers a sample that no placed exit is confident of.
        backend: Arithmetic that computes the supernet's layers. "auto" takes "integer" if it can be used on the
            supernet's device, otherwise "float".
        memory_gb: Largest memory for activations and outputs, in units of 1e9 bytes.

    Raises:
        UserError: An argument is out of range, or the images do not fit the supernet.
    """

    def __init__(
        self,
        supernet: Supernet,
        images_and_labels: Loader | Split,
        *,
        mode: Literal["pareto", "scalar", "budget"] = "pareto",
        tr: float = 0.1,
        max_bops: float | None = None,
        exits: Literal["exact", "all", "sampled"] = "exact",
        thresholds: int = 64,
        rule: Rule = "threshold",
        backend: Literal["auto", "float", "integer"] = "auto",
        memory_gb: float = 2.0,
    ) -> None:
        given = {
            **{"mode": mode, "tr": tr, "gbops": None if max_bops is None else max_bops / 1e9, "exits": exits},
            **{"thresholds": thresholds, "rule": rule, "backend": backend, "memory_gb": memory_gb},
        }
        self.config = validate(SearchConfig, given, where="Objective")
        self.space = supernet.space
        split = as_split(images_and_labels)
        _check_images(split, self.space)
        batches = Batches(split, _BATCH_SIZE, next(supernet.parameters()).device)
        settings = choose_settings(supernet, backend)
        self._engine = Engine(supernet, batches, settings, memory_bytes=int(memory_gb * 1e9))
        self._parameters = distributions(self.space, self.config)
        self._outputs = OutputCache(self._engine.run, _CACHE_BYTES)

    @property
    def directions(self) -> list[str]:
        """Directions for `optuna.create_study`, one for each value that a trial returns."""
        return [objective.direction for objective in objectives(self.config)]

    def __call__(self, trial: Trial) -> float | Sequence[float]:
        """Runs one trial and returns its value, or its values in the order of `directions`."""
        _, values = next(self.run(trial.study, [trial]))
        return values[0] if len(values) == 1 else values

    def run(self, study: optuna.Study, trials: Sequence[Trial]) -> Iterator[tuple[Trial, list[float]]]:
        """Runs several trials together and yields each with its values, in any order.

        Raises:
            UserError: The study has other directions, or belongs to another search space.
            RunError: A metric is not a finite number.
        """
        describe(study, self.space, self.config)
        params = [suggest(trial, self._parameters) for trial in trials]
        before = time.perf_counter()
        for index, outputs, _ in self._outputs.of([bits_of(self.space, given) for given in params]):
            trial, bits = trials[index], bits_of(self.space, params[index])
            judgement = judge(self.space, self.config, params[index], bits, outputs)
            now = time.perf_counter()
            _record(trial, judgement, now - before)
            before = now
            yield trial, judgement.values


def _check_images(split: Split, space: SearchSpace) -> None:
    """Checks that the images have the network's input shape, and that the labels are classes of the network.

    Raises:
        UserError: The shape is different, or a label is out of range.
    """
    images, _ = next(iter(split.batches(1)))
    expected = tuple(space.spec.network.input_shape)
    if tuple(images.shape[1:]) != expected:
        raise UserError(f"expected images of shape {expected}, got {tuple(images.shape[1:])}", where="Objective")
    classes = space.spec.network.num_classes
    lowest, highest = int(split.labels.min()), int(split.labels.max())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise UserError(f"expected labels from 0 to {classes - 1}, got {wrong}", where="Objective")


def _record(trial: Trial, judgement: ScoredTrial, seconds: float) -> None:
    for key, value in {**judgement.record, "seconds": round(seconds, 4)}.items():
        trial.set_user_attr(key, value)
    if judgement.excess is not None:
        trial.set_constraint("budget", judgement.excess)


def describe(study: optuna.Study, space: SearchSpace, config: SearchConfig) -> None:
    """Writes the search space, the settings and the objectives into a study, so that it can be read without them.

    If they are there already, it checks that they are the same.

    Raises:
        UserError: The study has other directions, or holds trials of another search space or objective.
    """
    wanted = objectives(config)
    directions = [objective.direction for objective in wanted]
    if [_DIRECTIONS[direction] for direction in study.directions] != directions:
        raise UserError(
            f"mode '{config.mode}' needs a study with directions {directions}",
            where=f"study '{study.study_name}'",
            remedy="optuna.create_study(directions=objective.directions)",
        )
    meaning: dict[str, Any] = {
        "search": settings_that_matter(config),
        "exits": list(space.candidates),
        "objectives": [asdict(objective) for objective in wanted],
        _SPACE: {"spec": space.spec.model_dump(mode="json"), "chain": space.chain.to_dict()},
    }
    known = study.user_attrs
    for key, value in meaning.items():
        if key not in known:
            study.set_user_attr(key, value)
        elif known[key] != value:
            raise UserError(
                f"the study was started with another {'search space' if key == _SPACE else key}",
                where=f"study '{study.study_name}'",
                remedy="create another study",
            )


_DIRECTIONS = {StudyDirection.MAXIMIZE: "maximize", StudyDirection.MINIMIZE: "minimize"}


def space_of(study: optuna.Study) -> SearchSpace:
    """Returns the search space that the study's trials belong to.

    Raises:
        UserError: No trial of this study was run by an `Objective`.
    """
    found = study.user_attrs.get(_SPACE)
    if found is None:
        raise UserError("no trial was run by a usdn_nas.Objective", where=f"study '{study.study_name}'")
    spec = validate(SpaceSpec, found["spec"], where=f"study '{study.study_name}'")
    return SearchSpace(spec, ChainRecord.from_dict(found["chain"]))


def search(study: optuna.Study, objective: Objective, n_trials: int, *, batch: int = 16) -> None:
    """Runs trials as ``study.optimize(objective, n_trials)`` does, but several at a time.

    The trials of a batch are proposed together and run together: segments that their bits have in common run once. The
    sampler sees their results when the batch is done.

    Args:
        study: Any study. Its sampler proposes the trials.
        objective: The objective that evaluates the trials.
        n_trials: Number of trials to run.
        batch: Largest number of trials that are proposed together.

    Raises:
        UserError: The study does not fit the objective.
        RunError: A metric is not a finite number. The trials of that batch that have no result are marked as failed.
    """
    if n_trials < 1 or batch < 1:
        raise UserError(f"expected n_trials and batch of at least 1, got {n_trials} and {batch}", where="search")
    describe(study, objective.space, objective.config)
    for start in range(0, n_trials, batch):
        asked = [study.ask() for _ in range(min(batch, n_trials - start))]
        untold = {trial.number for trial in asked}
        try:
            for trial, values in objective.run(study, asked):
                study.tell(trial, values)
                untold.discard(trial.number)
        except BaseException:
            for number in untold:
                study.tell(number, state=TrialState.FAIL)
            raise


class SurrogateSampler(SeededSampler):
    """Proposes bits with a Gaussian process that predicts the best score of a configuration at every trade-off.

    It first proposes the uniform configurations, then configurations in which one group has its most bits and all
    others their fewest. After that it proposes the configurations with the greatest upper confidence bound, at one cost
    after another (GP-UCB, Srinivas et al. 2010). It reads the user attributes that `Objective` writes, and needs exits
    that are not sampled. A proposal depends only on the seed, the trial's number and the other trials.

    Args:
        space: The search space.
        seed: Seed of all proposals.
        mode: The objective's mode.
        tr: The objective's ``tr``.
        max_bops: The objective's ``max_bops``.
        n_trials: Approximate number of trials of the study. At most a third of them are fixed in advance, or as many
            as there are uniform configurations.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        mode: Literal["pareto", "scalar", "budget"] = "pareto",
        tr: float = 0.1,
        max_bops: float | None = None,
        n_trials: int = 128,
    ) -> None:
        given = {"mode": mode, "tr": tr, "gbops": None if max_bops is None else max_bops / 1e9}
        config = validate(
            SearchConfig,
            given | {"sampler": "surrogate", "configurations": n_trials, "batch": 1},
            where="SurrogateSampler",
        )
        super().__init__(space, config, sampler_settings(space, config, seed))
