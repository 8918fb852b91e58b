"""Which trials a worker runs next: abandoned ones, those that somebody enqueued, new ones; a batch at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from usdn_nas.files import digest
from usdn_nas.study.lease import LEASE, adoptable, give_up, lease_trials, new_lease
from usdn_nas.study.storage import one_write, place_of

if sys.platform != "win32":
    import fcntl

__all__ = ["Asked", "Batch", "asking", "open_trials", "take"]


@dataclass(frozen=True)
class Asked:
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


@contextlib.contextmanager
def asking(storage: BaseStorage) -> Iterator[None]:
    """Holds the right to ask, among the workers of this machine: a proposal then sees all that were made before it.

    Workers elsewhere may propose the same bits at the same moment, which costs a trial and loses nothing.
    """
    place = place_of(storage)
    if sys.platform == "win32" or place is None:
        yield
        return
    if not isinstance(place, Path):
        place = Path(tempfile.gettempdir()) / f"usdn-nas-{os.getuid()}-{digest(place)[:16]}.lock"
    handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def open_trials(trials: Collection[FrozenTrial]) -> tuple[list[FrozenTrial], int]:
    """Trials that may be taken over, by number; and how many are under way elsewhere."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    free = [trial for trial in running if adoptable(trial)]
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    return sorted(free + waiting, key=lambda trial: trial.number), len(running) - len(free)


def take(
    study: optuna.Study,
    parameters: Mapping[str, BaseDistribution],
    batch: Batch,
    trials: Collection[FrozenTrial],
    count: int,
    missing: int,
) -> list[Asked]:
    """Takes over and creates trials, all of one batch, and gives each its parameters. To be called while `asking`.

    Args:
        study: The study.
        parameters: All that a trial has.
        batch: What belongs together.
        trials: At least all that are not finished.
        count: Of all trials.
        missing: Trials yet to be completed, those under way included.

    Returns:
        None of them where others are at the rest.
    """
    storage, free, under_way = study._storage, *open_trials(trials)
    room = missing - under_way
    end = batch.end(free[0].number if free else count)
    taken: list[int] = []
    try:
        adopted = [trial for trial in free if trial.number < end][: max(room, 0)]
        for trial in adopted:
            if trial.state == TrialState.RUNNING or storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                taken.append(trial._trial_id)
        if taken:
            lease_trials(storage, taken)
        asked = [_with_parameters(study, trial_id, parameters) for trial_id in taken]
        number = count
        while number < end and len(taken) < room:
            # Created with its lease in one write, so that a kill leaves either no trial or one that can be adopted.
            template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={LEASE: new_lease()})
            taken.append(storage.create_new_trial(study._study_id, template_trial=template))
            asked.append(_with_parameters(study, taken[-1], parameters))
            number = asked[-1].number + 1
    except BaseException:
        give_up(storage, taken)
        raise
    return asked


def _with_parameters(study: optuna.Study, trial_id: int, parameters: Mapping[str, BaseDistribution]) -> Asked:
    """Gives the trial the parameters that it lacks, in one write."""
    storage = study._storage
    trial = storage.get_trial(trial_id)
    params = dict(trial.params)
    missing = {name: parameters[name] for name in parameters if name not in params}
    if missing:
        # Asked for enqueued trials too: genetic samplers count generations there.
        proposed = study.sampler.sample_relative(study, trial, dict(parameters))
        fixed = trial.system_attrs.get("fixed_params", {})
        with one_write(storage):
            for name, distribution in missing.items():
                value = fixed[name] if name in fixed and _fits(distribution, fixed[name]) else proposed[name]
                params[name] = value
                storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
    return Asked(trial_id, trial.number, params)


def _fits(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
