"""Recomputes the BatchNorm statistics of a trained supernet over images and configurations.

In training, the running statistics of a BatchNorm copy come from the last few configurations that used it. Here every
copy gets the mean and the variance of all values that it reads, over all batches and all configurations. The result is
the same as `torch.var` of one tensor with all these values. fvcore's precise BatchNorm does the same. The mean of the
batches' variances would be too small: it ignores that the means of batches differ, and they do differ because every
batch runs on several configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits

__all__ = ["recalibrate_bn"]


@torch.no_grad()
def recalibrate_bn(supernet: Supernet, batches: Iterable[Tensor], draw: Callable[[], list[dict[str, Bits]]]) -> None:
    """Replaces the running statistics of every BatchNorm copy by those of all values that it reads.

    A copy whose bits are never drawn keeps its statistics. Every value has the same weight, so a smaller batch counts
    less. The supernet is left in training mode.

    Args:
        supernet: The trained supernet.
        batches: Images (B, C, H, W) of the training split.
        draw: Draws the configurations of a batch.
    """
    norms = [norm for norm in supernet.modules() if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats]
    populations = [_Population(norm) for norm in norms]
    supernet.train()
    for images in batches:
        for bits in draw():
            supernet.set_bits(bits)
            supernet(images)
    for population in populations:
        population.finish()


class _Population:
    """Collects count, mean and sum of squared deviations of all values that a BatchNorm reads, for each channel.

    Each batch is merged by the formula of Chan, Golub and LeVeque (1983) in float64. It loses no digits if the mean is
    much larger than the deviation.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self._norm = norm
        self._own = [buffer.clone() for buffer in norm.buffers()]
        self._momentum, norm.momentum = norm.momentum, 1.0  # running statistics then come from the last batch alone
        norm.reset_running_stats()
        self._count = 0
        self._mean = torch.zeros(norm.num_features, dtype=torch.float64)
        self._deviations = torch.zeros_like(self._mean)
        self._hook = norm.register_forward_hook(self._merge)

    def _merge(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        count = output.numel() // output.shape[1]
        mean, variance = (cast(Tensor, b).cpu().double() for b in (self._norm.running_mean, self._norm.running_var))
        total = self._count + count
        distance = mean - self._mean
        # BatchNorm's running variance is the unbiased one, a sum divided by count - 1.
        self._deviations += variance * (count - 1) + distance**2 * (self._count * count / total)
        self._mean += distance * (count / total)
        self._count = total

    def finish(self) -> None:
        """Restores the BatchNorm's settings and gives it the new statistics. Its variance is the unbiased one."""
        self._hook.remove()
        self._norm.momentum = self._momentum
        for buffer, own in zip(self._norm.buffers(), self._own, strict=True):
            buffer.copy_(own)
        if self._count:
            cast(Tensor, self._norm.running_mean).copy_(self._mean)
            cast(Tensor, self._norm.running_var).copy_(self._deviations / (self._count - 1))
