"""The loop: ask a batch of trials, evaluate them together, judge and tell each as it comes."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import TrialState

from usdn_nas.config import SearchConfig
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.asking import ClaimedTrial, take
from usdn_nas.study.counts import Complete, Sizes
from usdn_nas.study.lease import give_up, renewed
from usdn_nas.study.lock import asking
from usdn_nas.study.parameters import bits_of, distributions
from usdn_nas.study.patience import Say
from usdn_nas.study.samplers import SeededSampler, goal
from usdn_nas.study.scoring import ScoredTrial, judge
from usdn_nas.study.storage import one_write, patiently, quiet, sync

__all__ = ["Evaluate", "OutputCache", "TrialSummary", "one_by_one", "run_search"]

Evaluate = Callable[[Sequence[dict[str, Bits]]], Iterable[tuple[int, ExitOutputs]]]
"""Runs bit configurations over the search split, all candidate exits attached: (index, outputs), in any order."""

_CACHE_BYTES = 256 << 20
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class TrialSummary:
    """A trial that has just been completed.

    Attributes:
        values: Of the objectives, in their order.
        accuracy, bops: Of the policy that stands for the trial.
        front_size: Policies on the configuration's own front, after thinning.
        seconds: Since the trial told before it in its batch: forward passes that a batch shares are the first's.
        repeated: The bits had been run before in this session: no forward pass was needed.
        complete: Trials of the study complete, as far as this worker has looked; ``goal`` of how many.
        distinct: Distinct bit configurations among them.
    """

    number: int
    bits: dict[str, Bits]
    values: tuple[float, ...]
    accuracy: float
    bops: float
    front_size: int
    seconds: float
    repeated: bool
    complete: int
    distinct: int
    goal: int


def one_by_one(evaluate: Callable[[dict[str, Bits]], ExitOutputs]) -> Evaluate:
    """An `Evaluate` that runs one configuration after the other."""
    return lambda batch: ((index, evaluate(bits)) for index, bits in enumerate(batch))


class OutputCache:
    """Outputs by bits, so that a configuration seen before costs no forward pass; the oldest go first."""

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self._evaluate = evaluate
        self._limit = limit
        self._kept: OrderedDict[tuple[tuple[str, Bits], ...], ExitOutputs] = OrderedDict()
        self._bytes = 0

    def of(self, batch: Sequence[dict[str, Bits]]) -> Iterator[tuple[int, ExitOutputs, bool]]:
        """(index, outputs, whether no forward pass was needed) of each of ``batch``."""
        places: dict[tuple[tuple[str, Bits], ...], list[int]] = {}
        for index, bits in enumerate(batch):
            places.setdefault(tuple(bits.items()), []).append(index)
        for key in [key for key in places if key in self._kept]:
            self._kept.move_to_end(key)
            for index in places.pop(key):
                yield index, self._kept[key], True
        keys = list(places)
        for position, outputs in self._evaluate([dict(key) for key in keys]) if keys else ():
            self._keep(keys[position], outputs)
            for repeat, index in enumerate(places[keys[position]]):
                yield index, outputs, repeat > 0

    def _keep(self, key: tuple[tuple[str, Bits], ...], outputs: ExitOutputs) -> None:
        self._kept[key] = outputs
        self._bytes += outputs.confidence.nbytes + outputs.correct.nbytes
        while self._bytes > self._limit:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.confidence.nbytes + old.correct.nbytes


def run_search(
    study: optuna.Study,
    space: SearchSpace,
    config: SearchConfig,
    evaluate: Evaluate,
    *,
    on_trial: Callable[[TrialSummary], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    say: Say = lambda text: None,
) -> None:
    """Runs trials until `samplers.goal` of them are complete in the study, whoever ran them.

    Trials are asked in batches of ``config.batch``, those with the same number // batch, and a batch is told before
    the next is asked. An exception raised in ``evaluate``, Ctrl-C included, leaves its trials open, and a run after
    it goes on with them: killed at any moment and started again, a study with one worker equals one that was never
    interrupted. Where other workers are at the last trials, it waits for them, and takes over what they abandon.

    Args:
        study: From `session.open_study`.
        space: The same as there.
        config: The same as there; ``configurations`` may have grown.
        evaluate: Batch of bits -> outputs of all exits on the search split. Must depend on the bits alone.
        on_trial: Called after each trial.
        should_stop: ClaimedTrial before each batch, and while it waits.
        say: Gets a line if the worker has to wait for another one's proposals for long.

    Raises:
        RunError: A metric is not a finite number, or the database failed for too long.
    """
    search = _Search(study, space, config, evaluate, on_trial, say)
    with quiet():
        while not (should_stop is not None and should_stop()):
            asked = search.ask()
            if asked is None:
                return
            if asked:
                search.run(asked)
            else:
                time.sleep(_SECONDS_BETWEEN_LOOKS)


class _Search:
    """What one worker keeps from batch to batch; all of it can be had from the storage again."""

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        config: SearchConfig,
        evaluate: Evaluate,
        on_trial: Callable[[TrialSummary], None] | None,
        say: Say,
    ) -> None:
        self._say, self._worker = say, uuid.uuid4().hex
        self._study, self._space, self._config, self._on_trial = study, space, config, on_trial
        self._wanted = goal(space, config)
        self._parameters = distributions(space, config)
        exact = config.exits != "sampled"
        self._outputs = OutputCache(evaluate, 0 if exact else _CACHE_BYTES)
        self._complete = Complete(space, exact)
        self._sizes = Sizes(config, isinstance(study.sampler, SeededSampler) and study.sampler.enumerates)

    def ask(self) -> list[ClaimedTrial] | None:
        """The next batch; empty where others are at the rest, None once there are enough complete trials."""
        return patiently(self._study._storage, self._ask)

    def _ask(self) -> list[ClaimedTrial] | None:
        with asking(self._study._storage, self._say):
            trials = self._study.get_trials(deepcopy=False)
            unsettled = self._complete.look(trials)
            missing = self._wanted - self._complete.count
            if missing <= 0:
                return None
            batch = self._sizes.batch
            return take(self._study, self._parameters, batch, unsettled, len(trials), missing, self._worker)

    def run(self, asked: list[ClaimedTrial]) -> None:
        """Evaluates, judges and tells a batch; gives up what is not told if something is raised."""
        storage, untold = self._study._storage, {trial.trial_id: trial for trial in asked}
        batch = [bits_of(self._space, trial.params) for trial in asked]
        began = before = time.perf_counter()
        size = 0
        try:
            with renewed(storage, untold.keys(), self._worker):
                for index, outputs, repeated in self._outputs.of(batch):
                    if len(untold) == len(asked):
                        self._complete.look(self._study.get_trials(deepcopy=False))
                    trial, bits = asked[index], batch[index]
                    judgement = judge(self._space, self._config, trial.params, bits, outputs)
                    now = time.perf_counter()
                    self._tell(trial, judgement, now - before)
                    del untold[trial.trial_id]
                    self._complete.add(trial.number, trial.params)
                    if self._on_trial is not None:
                        self._on_trial(self._summary(trial.number, bits, judgement, now - before, repeated))
                    before, size = now, outputs.confidence.nbytes + outputs.correct.nbytes
        except BaseException:
            give_up(storage, untold, self._worker)
            raise
        finally:
            sync(storage)
        self._sizes.took(len(asked), time.perf_counter() - began, size)

    def _tell(self, trial: ClaimedTrial, judgement: ScoredTrial, seconds: float) -> None:
        """Writes all that is known of a trial, in one write."""
        storage, trial_id = self._study._storage, trial.trial_id

        def write() -> None:
            for key, value in {**judgement.record, "seconds": round(seconds, 4)}.items():
                storage.set_trial_user_attr(trial_id, key, value)
            if judgement.excess is not None:
                storage.set_trial_system_attr(trial_id, f"{_CONSTRAINTS_KEY}:budget", judgement.excess)
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, judgement.values)

        # Finished already: an earlier attempt of ours was committed and only the answer was lost, or another worker,
        # who took us for dead, was first. Its figures are the same.
        with contextlib.suppress(UpdateFinishedTrialError):
            one_write(storage, write)

    def _summary(
        self, number: int, bits: dict[str, Bits], judgement: ScoredTrial, seconds: float, repeated: bool
    ) -> TrialSummary:
        return TrialSummary(
            number=number,
            bits=dict(bits),
            values=tuple(judgement.values),
            accuracy=judgement.policy.accuracy,
            bops=judgement.policy.bops,
            front_size=len(judgement.front),
            seconds=seconds,
            repeated=repeated,
            complete=self._complete.trials,
            distinct=self._complete.configurations,
            goal=self._wanted,
        )
