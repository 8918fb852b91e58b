"""Internal classifiers (IC heads) by name, for a state whose last tensor is (B, C, H, W)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["build_head"]


class Head(nn.Sequential):
    """Layers that read the last tensor of the state, the one with the coarsest resolution."""

    def forward(self, *state: Tensor) -> Tensor:
        return super().forward(state[-1])


class MixedPool(nn.Module):
    """SDN's feature reduction: max- and average-pooling mixed by a learned scalar (Kaya et al., 2019)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.max = nn.MaxPool2d(kernel)
        self.avg = nn.AvgPool2d(kernel)
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        share = self.mix.sigmoid()
        return share * self.max(x) + (1 - share) * self.avg(x)


def conv_norm_relu(channels: int, width: int, stride: int) -> list[tuple[str, nn.Module]]:
    """3x3 convolution without bias, BatchNorm, ReLU."""
    return [
        ("conv", nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)),
        ("bn", nn.BatchNorm2d(width)),
        ("relu", nn.ReLU(inplace=True)),
    ]


def _stack(channels: int, width: int, strides: tuple[int, ...]) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, stride in enumerate(strides):
        for name, module in conv_norm_relu(channels if index == 0 else width, width, stride):
            layers[f"{name}{index}"] = module
    return layers


def _after(size: int, strides: tuple[int, ...]) -> int:
    for stride in strides:
        size = (size - 1) // stride + 1
    return size


def build_head(
    kind: str, shape: tuple[int, int, int], num_classes: int, *, width: int | None, stem_width: int
) -> nn.Module:
    """A head for a state whose last tensor is ``shape`` = (C, H, W); returns logits (B, num_classes).

    ``linear``: global average pooling, linear. ``sdn``: max and average pooling of kernel floor(size / 4) mixed by
    a learned scalar, linear; linear alone where that is below 2 (Kaya et al., 2019). ``conv``: 3x3 convolution, then as
    ``linear``. ``msdnet``: two stride-2 3x3 convolutions, average pooling of 2, linear (Huang et al., 2018).
    ``conv3``: three stride-2 3x3 convolutions, then as ``linear``: with 64 channels the head whose cost agrees with
    Table I of the USDN supplement. Convolutions are followed by BatchNorm and ReLU.

    Args:
        width: Channels of the head's convolutions; None: ``stem_width`` for ``conv3``, else C.
    """
    channels, size = shape[0], min(shape[1:])
    pool: dict[str, nn.Module] = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    if kind == "linear":
        return Head(OrderedDict(pool, linear=nn.Linear(channels, num_classes)))
    if kind == "sdn":
        kernel = size // 4
        reduce: dict[str, nn.Module] = {"pool": MixedPool(kernel)} if kernel > 1 else {}
        side = shape[1] // max(kernel, 1), shape[2] // max(kernel, 1)
        features = channels * side[0] * side[1]
        return Head(OrderedDict(reduce, flatten=nn.Flatten(), linear=nn.Linear(features, num_classes)))
    strides = {"conv": (1,), "msdnet": (2, 2), "conv3": (2, 2, 2)}[kind]
    width = width or (stem_width if kind == "conv3" else channels)
    layers = _stack(channels, width, strides)
    if kind == "msdnet":
        left = _after(size, strides)
        pool["pool"] = nn.AvgPool2d(min(2, left))
        sides = [_after(side, strides) // min(2, left) for side in shape[1:]]
        width = width * sides[0] * sides[1]
    return Head(OrderedDict(layers, **pool, linear=nn.Linear(width, num_classes)))
