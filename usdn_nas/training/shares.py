"""Chooses the images of each step, cuts them into micro-batches and divides these among the processes."""

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
    """Returns how many micro-batches a step has over all processes: ``accumulate``, and at least one for each process.

    Args:
        settings: Settings of the training.
        where: Name of the settings, for error messages.

    Raises:
        UserError: The processes cannot share the micro-batches evenly, or the batch cannot be cut into that many.
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
    """How the images are divided into epochs, steps and micro-batches.

    Attributes:
        micro_batches: Number of micro-batches in a step, over all processes.
        size: Number of images in a micro-batch.
        per_epoch: Number of steps in an epoch.
        steps: Number of steps in the whole training.
    """

    micro_batches: int
    size: int
    per_epoch: int
    steps: int

    @classmethod
    def of(cls, split: Split, settings: TrainConfig, where: object = None) -> Plan:
        """Returns how a split is divided.

        If the split is smaller than a batch, a step uses the largest number of its images that can be divided evenly.

        Args:
            split: The training images.
            settings: Settings of the training.
            where: Name of the settings, for error messages.

        Raises:
            UserError: The split has fewer images than a step has micro-batches, or the processes cannot share the
                micro-batches evenly.
        """
        count = micro_batches(settings, where)
        size = min(settings.batch_size, len(split)) // count
        if size == 0:
            raise UserError(f"{len(split)} training images cannot be shared by {count} micro-batches", where=where)
        per_epoch = len(split) // (size * count)
        steps = settings.epochs * per_epoch
        return cls(count, size, per_epoch, min(steps, settings.max_steps or steps))


Share = Iterator[tuple[int, tuple[Tensor, Tensor]]]
"""The micro-batches of a step that this process runs, each with its number in the step."""


Shares = Callable[[int], Iterator[Share]]
"""Function that takes the number of the first step and yields the shares of that step and of all later steps.

Each share must be used up before the next one is taken.
"""


def planned(data: Split | Loader, settings: TrainConfig, seed: tuple[int, ...], augment: bool) -> tuple[Plan, Shares]:
    """Returns how the images of a training are divided, and a function that yields the shares of its steps.

    Args:
        data: A split or a loader. ``seed`` and the epoch determine the order and augmentation of a split. A loader
            decides about batches, order and augmentation itself.

    Raises:
        UserError: There are too few images, or they cannot be divided evenly.
    """
    if isinstance(data, Split):
        plan = Plan.of(data, settings)
        return plan, lambda first: _split_shares(data, plan, seed, first, augment)
    plan = _loader_plan(data, settings)
    return plan, lambda first: _loader_shares(data, plan, first)


def _loader_plan(loader: Loader, settings: TrainConfig) -> Plan:
    """Returns how a loader is divided: each process has its own loader and runs one batch of it in every step."""
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
    """Yields the shares of step ``first`` and of all later steps. Each epoch has its own random order.

    Micro-batches are numbered through the whole epoch over all processes. So their images do not depend on which
    process runs them.
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
            yield zip(numbers, batches, strict=False)  # zip stops after the last number without taking another batch
        at += count
