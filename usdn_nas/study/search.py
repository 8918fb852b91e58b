"""The search loop: it proposes a batch of trials, evaluates them together, and records each trial once it is scored."""

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
"""Runs bit configurations on the search split with all candidate exits. Yields (index, outputs), in any order."""

_CACHE_BYTES = 256 << 20
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class TrialSummary:
    """A trial that has just been completed.

    Attributes:
        number: Number of the trial.
        bits: Group name -> (W, A).
        values: Values of the objectives, in their order.
        accuracy, bops: Accuracy and average bit operations of the policy that stands for the trial.
        front_size: Number of policies on the configuration's own front, after thinning.
        seconds: Time since the trial that was recorded before it in its batch. The first trial therefore gets the time
            of all forward passes that the batch shares.
        repeated: No forward pass was needed, because an earlier trial of this session had the same bits.
        complete: Number of complete trials of the study that this worker knows of.
        distinct: Number of distinct bit configurations among them.
        goal: Number of trials that the search wants to complete.
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
    """Returns an `Evaluate` that runs one configuration after the other."""
    return lambda batch: ((index, evaluate(bits)) for index, bits in enumerate(batch))


class OutputCache:
    """Cache of outputs by bits, so that a repeated configuration costs no forward pass.

    When the cache grows beyond ``limit`` bytes, the entries that were not used for the longest time are removed.
    """

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self._evaluate = evaluate
        self._limit = limit
        self._kept: OrderedDict[tuple[tuple[str, Bits], ...], ExitOutputs] = OrderedDict()
        self._bytes = 0

    def of(self, batch: Sequence[dict[str, Bits]]) -> Iterator[tuple[int, ExitOutputs, bool]]:
        """Yields (index, outputs, cached) for each configuration of ``batch``, in any order.

        ``cached`` is True if no forward pass was needed.
        """
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
    """Runs trials until `samplers.goal` of them are complete in the study. Trials of other workers count too.

    Trials are proposed in batches of ``config.batch``: those with the same number // batch. A batch is recorded before
    the next one is proposed. If ``evaluate`` raises an exception, or the user presses Ctrl-C, the trials of the batch
    stay open, and the next run continues with them. A study with one worker that is killed at any moment and started
    again therefore equals a study that was never interrupted. If other workers run the last trials, this worker waits
    for them, and takes over the trials that they abandon.

    Args:
        study: The study, from `session.open_study`.
        space: The same search space as there.
        config: The same settings as there. Only ``configurations`` may have grown.
        evaluate: Function from a batch of bits to the outputs of all exits on the search split. The outputs must
            depend on the bits alone.
        on_trial: Called after each trial.
        should_stop: Called before each batch, and while this worker waits. The search ends when it returns True.
        say: Called with a message if the worker waits long for another one's proposals.

    Raises:
        RunError: A metric is not a finite number, or the database could not be reached for too long.
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
    """The state of one worker between batches. All of it can be computed again from the storage."""

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
        """Returns the next batch. None if enough trials are complete; empty if others run all that are missing."""
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
        """Evaluates, scores and records a batch. On an exception it gives up the trials that are not recorded yet."""
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
        """Records the scores of a trial and marks it as complete, in one write."""
        storage, trial_id = self._study._storage, trial.trial_id

        def write() -> None:
            for key, value in {**judgement.record, "seconds": round(seconds, 4)}.items():
                storage.set_trial_user_attr(trial_id, key, value)
            if judgement.excess is not None:
                storage.set_trial_system_attr(trial_id, f"{_CONSTRAINTS_KEY}:budget", judgement.excess)
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, judgement.values)

        # The trial may be finished already: an earlier attempt was committed and only its acknowledgement was lost, or
        # another worker considered this one dead and was faster. The recorded figures are the same in both cases.
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
