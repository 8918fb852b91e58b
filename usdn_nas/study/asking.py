"""Chooses the next batch of trials of a worker: abandoned trials, then enqueued ones, then new ones."""

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
    """Trial numbers that are proposed together.

    Attributes:
        size: Largest number of trials in a batch.
        aligned: If True, a batch ends before the next multiple of ``size``, so that the batches are the same however
            often the search was interrupted. If False, a batch has ``size`` numbers, whatever its first number is.
    """

    size: int
    aligned: bool = True

    def end(self, first: int) -> int:
        """Returns the trial number after the last one of the batch that begins with number ``first``."""
        return (first // self.size + 1) * self.size if self.aligned else first + self.size


def open_trials(trials: Collection[FrozenTrial], worker: str) -> tuple[list[FrozenTrial], int]:
    """Returns the trials that ``worker`` may take over, sorted by number, and the number of trials that others run.

    A worker calls this when it runs no trial. A RUNNING trial with the worker's own lease therefore comes from an
    earlier attempt to take trials. That attempt failed half-way, or it succeeded and its acknowledgement was lost.
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
    """Takes over and creates trials of one batch, and gives each its parameters. Call it inside `asking`.

    If the database fails in the middle of it, it may be called again. It then finds the trials already taken.

    Args:
        study: The study.
        parameters: Distributions of all parameters of a trial.
        batch: The trial numbers that are proposed together.
        trials: Trials of the study; at least all that are not finished.
        count: Number of all trials of the study.
        missing: Number of trials yet to be completed, running ones included.
        worker: Name of the worker, which is written into the leases of its trials.

    Returns:
        The trials. The list is empty if other workers already run all trials that are missing.
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
            # One write creates the trial with its lease, so that a kill leaves no trial, or one that can be adopted.
            template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={LEASE: new_lease(worker)})
            taken.append(storage.create_new_trial(study._study_id, template_trial=template))
            asked.append(_with_parameters(study, taken[-1], parameters))
            number = asked[-1].number + 1
    except BaseException:
        give_up(storage, taken, worker)
        raise
    return asked


def _claimed(storage: BaseStorage, trial_id: int, lease: dict[str, Any]) -> bool:
    """Takes a waiting trial. Returns False if another worker was faster.

    The lease is written first. If only the acknowledgement of the claim is lost, the next attempt then sees that this
    worker owns the trial.
    """
    one_write(storage, lambda: storage.set_trial_user_attr(trial_id, LEASE, lease))
    return storage.set_trial_state_values(trial_id, TrialState.RUNNING)


def _with_parameters(study: optuna.Study, trial_id: int, parameters: Mapping[str, BaseDistribution]) -> ClaimedTrial:
    """Gives the trial the parameters that it does not have yet, in one write."""
    storage = study._storage
    trial = storage.get_trial(trial_id)
    params = dict(trial.params)
    missing = {name: parameters[name] for name in parameters if name not in params}
    if missing:
        # The sampler is asked for enqueued trials too, because genetic samplers count generations when they are asked.
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
