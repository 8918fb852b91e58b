"""Trains one network in several processes: each runs a part of every step's images, and all make the same step.

The processes add up their gradients once a step. `torch.nn.parallel.DistributedDataParallel` does not fit, because a
step of a supernet is not one forward pass of a module: it runs several paths with common segments, and each path leaves
most BatchNorm copies unused. Besides, BatchNorm's statistics must be averaged too. docs/training.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from usdn_nas._util.errors import RunError

__all__ = ["TIMEOUT", "mean_step", "processes", "rank", "same_state"]

TIMEOUT = timedelta(days=1)
"""Timeout of the process group. It is long because the other processes wait while rank 0 evaluates."""


def rank() -> int:
    """Returns the number of this process, from 0 to `processes` - 1. Process 0 evaluates and writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Returns how many processes train together: the size of torch's default process group, or 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_step(network: nn.Module, runs: Iterable[Callable[[], float]], count: int) -> float:
    """Runs the micro-batches of one step and averages gradients, buffers and losses over those of all processes.

    Every micro-batch starts from BatchNorm's running statistics at the beginning of the step. After the step, the
    statistics are the mean of those that the micro-batches produced. So the result does not depend on which process ran
    which micro-batch.

    Args:
        runs: One function for each micro-batch of this process. It adds its gradients and returns its loss.
        count: Number of micro-batches of all processes together.

    Returns:
        The mean loss.

    Raises:
        RunError: Another process has ended.
    """
    if count == 1:
        return sum(run() for run in runs)
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    averaged = [index for index, buffer in enumerate(buffers) if buffer.is_floating_point()]
    changes = [torch.zeros_like(buffers[index]) for index in averaged]
    loss = 0.0
    for number, run in enumerate(runs):
        if number:
            _copy(before, buffers)
        loss += run()
        for change, index in zip(changes, averaged, strict=True):
            change += buffers[index] - before[index]
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    losses = torch.tensor([loss], device=gradients[0].device, dtype=gradients[0].dtype)
    means = [losses, *gradients, *changes]
    _sum_over_processes(means)
    for mean in means:
        mean /= count
    _copy(
        [before[index] + change for change, index in zip(changes, averaged, strict=True)],
        [buffers[index] for index in averaged],
    )
    return float(losses)


@torch.no_grad()
def _copy(source: list[Tensor], destination: list[Tensor]) -> None:
    for ours, theirs in zip(destination, source, strict=True):
        ours.copy_(theirs)


def _sum_over_processes(tensors: list[Tensor]) -> None:
    """Sums each tensor over all processes, in place. All tensors travel in one message."""
    if processes() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _noticing_loss():
        dist.all_reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    _copy([piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)], tensors)


def same_state(network: nn.Module, step: int) -> None:
    """Copies the parameters and buffers of rank 0 to all processes.

    Raises:
        RunError: Another process is at a different step than ``step``, or has ended.
    """
    if processes() == 1:
        return
    tensors = [*network.parameters(), *network.buffers()]
    steps = torch.zeros(processes(), dtype=torch.int64, device=tensors[0].device)
    steps[rank()] = step
    with _noticing_loss(), torch.no_grad():
        dist.all_reduce(steps)
        if (steps != step).any():
            raise RunError(
                f"the processes stand at different steps ({', '.join(map(str, steps.tolist()))}): "
                "the run folder must be on a disk that all of them see"
            )
        for tensor in tensors:
            dense = tensor.contiguous()  # broadcast does not accept channels-last tensors
            dist.broadcast(dense, 0)
            tensor.copy_(dense)


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(". ")[0]
        raise RunError(
            f"another process of this training ended; the same command goes on from here ({reason})"
        ) from None
