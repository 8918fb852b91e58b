"""Internal classifiers (IC heads) by name, for a state whose last tensor is (B, C, H, W) or can be seen so."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["build_head", "map_of"]


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


class ChannelsFirst(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class TokensToMap(nn.Module):
    """(B, N, C) -> (B, C, H, W): N is H x H, or one more for a class token in front, which is left out; else H x 1."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.first = int(math.isqrt(tokens) ** 2 != tokens and math.isqrt(tokens - 1) ** 2 == tokens - 1)
        side = math.isqrt(tokens - self.first)
        self.sides = (side, side) if side**2 == tokens - self.first else (tokens, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = x[:, self.first :]
        return x.transpose(1, 2).unflatten(2, self.sides)


def map_of(shape: tuple[int, ...], channels_last: bool) -> tuple[nn.Module | None, tuple[int, int, int]]:
    """What makes (B, C, H, W) of a state, None where it is so already, and (C, H, W).

    Args:
        shape: (C, H, W), or (H, W, C) with ``channels_last``, or (N, C) of N tokens.
    """
    if len(shape) == 2:
        tokens = TokensToMap(shape[0])
        return tokens, (shape[1], *tokens.sides)
    if channels_last:
        return ChannelsFirst(), (shape[2], shape[0], shape[1])
    return None, (shape[0], shape[1], shape[2])


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
    kind: str,
    shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int | None,
    stem_width: int,
    channels_last: bool = False,
) -> nn.Module:
    """A head for a state whose last tensor is ``shape`` = (C, H, W); returns logits (B, num_classes).

    ``linear``: global average pooling, linear. ``sdn``: max and average pooling of kernel floor(size / 4) mixed by
    a learned scalar, linear; linear alone where that is below 2 (Kaya et al., 2019). ``conv``: 3x3 convolution, then as
    ``linear``. ``msdnet``: two stride-2 3x3 convolutions, average pooling of 2, linear (Huang et al., 2018).
    ``conv3``: three stride-2 3x3 convolutions, then as ``linear``; with 64 channels its cost agrees with Table I of the
    USDN supplement at exit 0, and not at the later exits. Convolutions are followed by BatchNorm and ReLU.

    Args:
        shape: Or (N, C) of tokens, or (H, W, C).
        width: Channels of the head's convolutions; None: ``stem_width`` for ``conv3``, else C.
        channels_last: ``shape`` is (H, W, C).
    """
    view, shape = map_of(shape, channels_last)
    seen = {} if view is None else {"map": view}
    layers = _layers(kind, shape, num_classes, width, stem_width)
    return Head(OrderedDict(seen, **layers))


def _layers(
    kind: str, shape: tuple[int, int, int], num_classes: int, width: int | None, stem_width: int
) -> dict[str, nn.Module]:
    channels, size = shape[0], min(shape[1:])
    pool: dict[str, nn.Module] = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    if kind == "linear":
        return dict(pool, linear=nn.Linear(channels, num_classes))
    if kind == "sdn":
        kernel = size // 4
        reduce: dict[str, nn.Module] = {"pool": MixedPool(kernel)} if kernel > 1 else {}
        side = shape[1] // max(kernel, 1), shape[2] // max(kernel, 1)
        features = channels * side[0] * side[1]
        return dict(reduce, flatten=nn.Flatten(), linear=nn.Linear(features, num_classes))
    strides = {"conv": (1,), "msdnet": (2, 2), "conv3": (2, 2, 2)}[kind]
    width = width or (stem_width if kind == "conv3" else channels)
    layers = _stack(channels, width, strides)
    if kind == "msdnet":
        left = _after(size, strides)
        pool["pool"] = nn.AvgPool2d(min(2, left))
        sides = [_after(side, strides) // min(2, left) for side in shape[1:]]
        width = width * sides[0] * sides[1]
    return dict(layers, **pool, linear=nn.Linear(width, num_classes))
