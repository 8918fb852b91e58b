"""One network, several processes: each takes a share of every step's images, and all make the same step.

One sum over all processes a step rather than `torch.nn.parallel.DistributedDataParallel`: a supernet's step is no
forward pass of a module but several paths with common segments, each of which leaves most BatchNorm copies unused, and
means of BatchNorm's statistics are wanted as well. docs/training.md has the comparison.
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
"""Of the process group: the others wait while rank 0 evaluates."""


def rank() -> int:
    """This process among `processes`; 0 is the one that evaluates and writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train together: those of torch's default process group, 1 where there is none."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_step(network: nn.Module, runs: Iterable[Callable[[], float]], count: int) -> float:
    """Leaves the means over a step's micro-batches in the gradients and buffers of ``network``; returns the mean loss.

    A micro-batch updates BatchNorm's running statistics from where they were when the step began; the step leaves the
    mean of what the micro-batches made of them. So it does not matter which process ran which.

    Args:
        runs: One for each micro-batch of this process: adds its gradients and returns its loss.
        count: Micro-batches of all processes.

    Raises:
        RunError: Another process is gone.
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
    """In place, in one message."""
    if processes() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _noticing_loss():
        dist.all_reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    _copy([piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)], tensors)


def same_state(network: nn.Module, step: int) -> None:
    """Gives all processes the parameters and buffers that rank 0 has.

    Raises:
        RunError: Another process has not come to ``step``, or is gone.
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
            dense = tensor.contiguous()  # a channels-last one would not be taken
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
