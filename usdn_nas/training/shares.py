"""Which images a step runs: its micro-batches, divided among the processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass

from torch import Tensor

from usdn_nas._util.errors import UserError
from usdn_nas.config import TrainConfig
from usdn_nas.data.loaders import Loader, loader_batches
from usdn_nas.data.splits import Split
from usdn_nas.training.distributed import processes, rank

__all__ = ["Plan", "Share", "micro_batches", "planned"]


def micro_batches(settings: TrainConfig, where: object = None) -> int:
    """Micro-batches of a step, over all processes: ``accumulate``, and at least one for each process.

    Raises:
        UserError: They cannot be shared evenly, or the batch cannot be cut into so many. ``where`` names the settings.
    """
    count = max(settings.accumulate, processes())
    if count % processes():
        raise UserError(
            f"{count} micro-batches a step cannot be shared evenly by {processes()} processes", where=where,
            remedy="'accumulate' must be a multiple of their number",
        )  # fmt: skip
    if settings.batch_size % count:
        raise UserError(
            f"a batch of {settings.batch_size} cannot be cut into {count} micro-batches of one size", where=where,
            remedy="'batch_size', of all processes together, must be a multiple of their number and of 'accumulate'",
        )  # fmt: skip
    return count


@dataclass(frozen=True)
class Plan:
    """How images come to steps.

    Attributes:
        micro_batches: Of a step, over all processes.
        size: Images in each.
        per_epoch: Steps.
        steps: Of the whole training.
    """

    micro_batches: int
    size: int
    per_epoch: int
    steps: int

    @classmethod
    def of(cls, split: Split, settings: TrainConfig, where: object = None) -> Plan:
        """A split smaller than a batch is used whole, or as much of it as can be shared evenly.

        ``where`` names the settings in errors.

        Raises:
            UserError: It has fewer images than a step has micro-batches, or these cannot be shared evenly.
        """
        count = micro_batches(settings, where)
        size = min(settings.batch_size, len(split)) // count
        if size == 0:
            raise UserError(f"{len(split)} training images cannot be shared by {count} micro-batches", where=where)
        per_epoch = len(split) // (size * count)
        steps = settings.epochs * per_epoch
        return cls(count, size, per_epoch, min(steps, settings.max_steps or steps))


Share = Iterator[tuple[int, tuple[Tensor, Tensor]]]
"""The micro-batches of a step that fall to this process, each with its number in the step."""


Shares = Callable[[int], Iterator[Share]]
"""Number of the first step -> the shares of that step and all later ones, each to be used up before the next."""


def planned(data: Split | Loader, settings: TrainConfig, seed: tuple[int, ...], augment: bool) -> tuple[Plan, Shares]:
    """Returns how many steps a training has, and where their images come from.

    Args:
        data: A split, whose order and augmentation are functions of ``seed`` and the epoch; or a loader, which decides
            about batches, order and augmentation itself.

    Raises:
        UserError: There are too few images, or they cannot be divided evenly.
    """
    if isinstance(data, Split):
        plan = Plan.of(data, settings)
        return plan, lambda first: _split_shares(data, plan, seed, first, augment)
    plan = _loader_plan(data, settings)
    return plan, lambda first: _loader_shares(data, plan, first)


def _loader_plan(loader: Loader, settings: TrainConfig) -> Plan:
    """Each process has a loader of its own, and runs one of its batches a step."""
    first = next(loader_batches(loader), None)
    if first is None:
        raise UserError("expected batches of images and labels to train on, got a loader that yields none")
    per_epoch = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    steps = settings.epochs * per_epoch
    return Plan(processes(), len(first[0]), per_epoch, min(steps, settings.max_steps or steps))


def _loader_shares(loader: Loader, plan: Plan, first: int) -> Iterator[Share]:
    at = first
    while at < plan.steps:
        start = at % plan.per_epoch
        count = min(plan.per_epoch - start, plan.steps - at)
        found = 0
        for batch in itertools.islice(loader_batches(loader), start, start + count):
            yield iter([(rank(), batch)])
            found += 1
        if found < count:
            raise UserError(
                f"expected {plan.per_epoch} batches an epoch, got {start + found}",
                where="the training loader",
                remedy="pass a DataLoader or a list of batches: a generator yields its batches only once",
            )
        at += count


def _split_shares(split: Split, plan: Plan, seed: tuple[int, ...], first: int, augment: bool) -> Iterator[Share]:
    """Yields the shares of steps ``first`` and later. The order is drawn anew each epoch.

    Micro-batches are numbered through an epoch, so that it makes no difference which process runs one.
    """
    numbers = range(rank(), plan.micro_batches, processes())
    at = first
    while at < plan.steps:
        epoch, start = divmod(at, plan.per_epoch)
        batches = split.batches(
            plan.size, shuffle_seed=(*seed, epoch), augment=augment, start=start * plan.micro_batches + rank(),
            stride=processes(), drop_last=True,
        )  # fmt: skip
        count = min(plan.per_epoch - start, plan.steps - at)
        for _ in range(count):
            yield zip(numbers, batches, strict=False)  # takes no batch more than there are numbers
        at += count
