"""Which trials a worker runs next: abandoned ones, those that somebody enqueued, new ones; a batch at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from usdn_nas.study.lease import LEASE, adoptable, give_up, is_of, lease_trials, new_lease
from usdn_nas.study.storage import one_write

__all__ = ["Batch", "ClaimedTrial", "open_trials", "take"]


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this worker runs, with all its parameters."""

    trial_id: int
    number: int
    params: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Of which numbers the trials are that are asked together.

    Attributes:
        size: Most trials of a batch.
        aligned: The batch of a number ends at the next multiple of ``size``, so that it is the same however often
            the search was interrupted; else it has ``size`` numbers from the first on.
    """

    size: int
    aligned: bool = True

    def end(self, first: int) -> int:
        """The number after the last of the batch that begins with ``first``."""
        return (first // self.size + 1) * self.size if self.aligned else first + self.size


def open_trials(trials: Collection[FrozenTrial], worker: str) -> tuple[list[FrozenTrial], int]:
    """Trials that ``worker`` may take over, by number; and how many are under way elsewhere.

    A worker asks when it has no trial under way. A running trial with its lease was created or claimed by an attempt
    that failed half-way, or whose success it never heard of.
    """
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    free = [trial for trial in running if is_of(trial, worker) or adoptable(trial)]
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    return sorted(free + waiting, key=lambda trial: trial.number), len(running) - len(free)


def take(
    study: optuna.Study,
    parameters: Mapping[str, BaseDistribution],
    batch: Batch,
    trials: Collection[FrozenTrial],
    count: int,
    missing: int,
    worker: str,
) -> list[ClaimedTrial]:
    """Takes over and creates trials, all of one batch, and gives each its parameters. To be called while `asking`.

    If the database fails in the middle of it, it may be called again: it finds the trials that it had already taken.

    Args:
        study: The study.
        parameters: All that a trial has.
        batch: What belongs together.
        trials: At least all that are not finished.
        count: Of all trials.
        missing: Trials yet to be completed, those under way included.
        worker: Name of the worker, in the leases of its trials.

    Returns:
        None of them where others are at the rest.
    """
    storage, free, under_way = study._storage, *open_trials(trials, worker)
    room = missing - under_way
    end = batch.end(free[0].number if free else count)
    taken: list[int] = []
    try:
        adopted = [trial for trial in free if trial.number < end][: max(room, 0)]
        for trial in adopted:
            if trial.state == TrialState.RUNNING or _claimed(storage, trial._trial_id, new_lease(worker)):
                taken.append(trial._trial_id)
        if taken:
            lease_trials(storage, taken, new_lease(worker))
        asked = [_with_parameters(study, trial_id, parameters) for trial_id in taken]
        number = count
        while number < end and len(taken) < room:
            # Created with its lease in one write, so that a kill leaves either no trial or one that can be adopted.
            template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={LEASE: new_lease(worker)})
            taken.append(storage.create_new_trial(study._study_id, template_trial=template))
            asked.append(_with_parameters(study, taken[-1], parameters))
            number = asked[-1].number + 1
    except BaseException:
        give_up(storage, taken, worker)
        raise
    return asked


def _claimed(storage: BaseStorage, trial_id: int, lease: dict[str, Any]) -> bool:
    """Takes a waiting trial; False if another worker was faster.

    The lease comes first: if only the acknowledgement of the claim is lost, the next attempt finds the trial as this
    worker's own.
    """
    one_write(storage, lambda: storage.set_trial_user_attr(trial_id, LEASE, lease))
    return storage.set_trial_state_values(trial_id, TrialState.RUNNING)


def _with_parameters(study: optuna.Study, trial_id: int, parameters: Mapping[str, BaseDistribution]) -> ClaimedTrial:
    """Gives the trial the parameters that it lacks, in one write."""
    storage = study._storage
    trial = storage.get_trial(trial_id)
    params = dict(trial.params)
    missing = {name: parameters[name] for name in parameters if name not in params}
    if missing:
        # ClaimedTrial for enqueued trials too: genetic samplers count generations there.
        proposed = study.sampler.sample_relative(study, trial, dict(parameters))
        fixed = trial.system_attrs.get("fixed_params", {})
        for name, distribution in missing.items():
            given = name in fixed and _fits(distribution, fixed[name])
            params[name] = fixed[name] if given else proposed[name]

        def write() -> None:
            for name, distribution in missing.items():
                storage.set_trial_param(trial_id, name, distribution.to_internal_repr(params[name]), distribution)

        one_write(storage, write)
    return ClaimedTrial(trial_id, trial.number, params)


def _fits(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
