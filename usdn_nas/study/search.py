"""The loop: take over or create a trial, evaluate its bits, judge, tell."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from usdn_nas.architecture import Bits
from usdn_nas.config import SearchConfig
from usdn_nas.policy.outputs import ExitOutputs
from usdn_nas.space import SearchSpace
from usdn_nas.study.judgement import Judgement, judge
from usdn_nas.study.lease import LEASE, adoptable, expired_lease, new_lease
from usdn_nas.study.parameters import bits_of, distributions, indices_of, suggest
from usdn_nas.study.samplers import goal
from usdn_nas.study.storage import quiet

__all__ = ["Evaluate", "TrialSummary", "run_search"]

Evaluate = Callable[[dict[str, Bits]], ExitOutputs]
"""Runs one bit configuration over the search split, all candidate exits attached."""

_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class TrialSummary:
    """A trial that has just been completed.

    Attributes:
        values: Of the objectives, in their order.
        accuracy, bops: Of the policy that stands for the trial.
        front_size: Policies on the configuration's own front, after thinning.
        seconds: Evaluation and judgement.
        repeated: The bits had been run before in this session: no forward pass was needed.
        complete: Trials of the study complete now; ``goal`` of how many.
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


class _Outputs:
    """Outputs by bits, so that a configuration seen before costs no forward pass; the oldest go first."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._kept: OrderedDict[tuple[tuple[str, Bits], ...], ExitOutputs] = OrderedDict()
        self._bytes = 0

    def of(self, bits: dict[str, Bits]) -> tuple[ExitOutputs, bool]:
        """Outputs, and whether they were kept from before."""
        key = tuple(bits.items())
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key], True
        outputs = self._evaluate(bits)
        self._kept[key] = outputs
        self._bytes += outputs.confidence.nbytes + outputs.correct.nbytes
        while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.confidence.nbytes + old.correct.nbytes
        return outputs, False


def _in_state(trials: list[FrozenTrial], state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == state]


def _next_trial(study: optuna.Study, wanted: int) -> Trial | None:
    """An abandoned trial, else one that somebody enqueued, else a new one; None once there are enough."""
    trials = study.get_trials(deepcopy=False)
    running = _in_state(trials, TrialState.RUNNING)
    complete = len(_in_state(trials, TrialState.COMPLETE))
    if complete >= wanted:
        return None
    storage = study._storage
    for trial in running:
        if adoptable(trial):
            storage.set_trial_user_attr(trial._trial_id, LEASE, new_lease())
            return Trial(study, trial._trial_id)
    if complete + len(running) >= wanted:
        return None  # others are at the rest
    for trial in _in_state(trials, TrialState.WAITING):
        if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
            storage.set_trial_user_attr(trial._trial_id, LEASE, new_lease())
            return Trial(study, trial._trial_id)
    # Created with its lease in one write, so that a kill leaves either no trial or one that can be adopted.
    template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={LEASE: new_lease()})
    return Trial(study, storage.create_new_trial(study._study_id, template_trial=template))


def _record(study: optuna.Study, trial: Trial, judgement: Judgement, seconds: float) -> None:
    try:
        for key, value in {**judgement.record, "seconds": round(seconds, 4)}.items():
            trial.set_user_attr(key, value)
        if judgement.excess is not None and not trial.constraints:
            trial.set_constraint("budget", judgement.excess)
        study.tell(trial, judgement.values, skip_if_finished=True)
    except UpdateFinishedTrialError:
        pass  # another worker, who took us for dead, was first: its figures are the same


def _release(study: optuna.Study, trial: Trial) -> None:
    with contextlib.suppress(Exception):  # something worse is being raised, and a lease ends by itself
        study._storage.set_trial_user_attr(trial._trial_id, LEASE, expired_lease())


def run_search(
    study: optuna.Study,
    space: SearchSpace,
    config: SearchConfig,
    evaluate: Evaluate,
    *,
    on_trial: Callable[[TrialSummary], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Runs trials until `samplers.goal` of them are complete in the study, whoever ran them.

    An exception raised in ``evaluate``, Ctrl-C included, leaves its trial open, and a run after it goes on with that
    trial: killed at any moment and started again, a study with one worker equals one that was never interrupted.

    Args:
        study: From `session.open_study`.
        space: The same as there.
        config: The same as there; ``configurations`` may have grown.
        evaluate: Bits -> outputs of all exits on the search split. Must depend on the bits alone.
        on_trial: Called after each trial.
        should_stop: Asked before each trial.

    Raises:
        RunError: A metric is not a finite number.
    """
    wanted = goal(space, config)
    parameters = distributions(space, config)
    outputs_of = _Outputs(evaluate)
    with quiet():
        while not (should_stop is not None and should_stop()):
            trial = _next_trial(study, wanted)
            if trial is None:
                return
            try:
                if any(name not in trial.params for name in parameters):
                    _ = trial.relative_params  # genetic samplers count generations there, enqueued trials included
                params = suggest(trial, parameters)
                bits = bits_of(space, params)
                began = time.perf_counter()
                outputs, repeated = outputs_of.of(bits)
                judgement = judge(space, config, params, bits, outputs)
                seconds = time.perf_counter() - began
                _record(study, trial, judgement, seconds)
            except BaseException:
                _release(study, trial)
                raise
            if on_trial is not None:
                on_trial(_summary(study, space, trial.number, bits, judgement, seconds, repeated, wanted))


def _summary(
    study: optuna.Study,
    space: SearchSpace,
    number: int,
    bits: Mapping[str, Bits],
    judgement: Judgement,
    seconds: float,
    repeated: bool,
    wanted: int,
) -> TrialSummary:
    complete = _in_state(study.get_trials(deepcopy=False), TrialState.COMPLETE)
    return TrialSummary(
        number=number,
        bits=dict(bits),
        values=tuple(judgement.values),
        accuracy=judgement.policy.accuracy,
        bops=judgement.policy.bops,
        front_size=len(judgement.front),
        seconds=seconds,
        repeated=repeated,
        complete=len(complete),
        distinct=len({indices_of(space, trial.params) for trial in complete}),
        goal=wanted,
    )
