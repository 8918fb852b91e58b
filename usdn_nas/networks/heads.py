"""Builds internal classifiers (IC heads) by name.

They read the last tensor of a state, which is (B, C, H, W) or can be rearranged to that shape.
"""

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
    """Mixes max pooling and average pooling by a learned scalar: the feature reduction of SDN (Kaya et al., 2019)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.max = nn.MaxPool2d(kernel)
        self.avg = nn.AvgPool2d(kernel)
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        share = self.mix.sigmoid()
        return share * self.max(x) + (1 - share) * self.avg(x)


class ChannelsFirst(nn.Module):
    """Rearranges (B, H, W, C) to (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class TokensToMap(nn.Module):
    """Rearranges N tokens (B, N, C) to a map (B, C, H, W).

    If N is a square, the map is square. If N - 1 is a square, the first token is a class token; it is left out, and the
    map is square. Otherwise the map is N x 1.
    """

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
    """Returns a module that rearranges a state to (B, C, H, W), and the shape (C, H, W) after it.

    The module is None if the state already has this layout.

    Args:
        shape: (C, H, W); or (H, W, C) with ``channels_last``; or (N, C) for N tokens.
        channels_last: Whether ``shape`` is (H, W, C).
    """
    if len(shape) == 2:
        tokens = TokensToMap(shape[0])
        return tokens, (shape[1], *tokens.sides)
    if channels_last:
        return ChannelsFirst(), (shape[2], shape[0], shape[1])
    return None, (shape[0], shape[1], shape[2])


def conv_norm_relu(channels: int, width: int, stride: int) -> list[tuple[str, nn.Module]]:
    """Returns a 3x3 convolution without bias, a BatchNorm and a ReLU, as (name, module)."""
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
    """Builds a head for a state. The head returns logits (B, num_classes).

    The kinds are:

    - ``linear``: global average pooling, then a linear layer.
    - ``sdn``: max and average pooling mixed by a learned scalar, then a linear layer (Kaya et al., 2019). The kernel
      is floor(size / 4), where size is the smaller of H and W. Pooling is left out if the kernel would be below 2.
    - ``conv``: a 3x3 convolution, then as ``linear``.
    - ``msdnet``: two 3x3 convolutions of stride 2, average pooling with kernel 2, then a linear layer (Huang et al.,
      2018).
    - ``conv3``: three 3x3 convolutions of stride 2, then as ``linear``. With 64 channels its cost agrees with Table I
      of the USDN supplement at exit 0, but not at the later exits.

    BatchNorm and ReLU follow every convolution.

    Args:
        kind: One of the kinds above.
        shape: Shape of the state's last tensor for one image: (C, H, W); or (H, W, C) with ``channels_last``; or (N, C)
            for N tokens.
        num_classes: Number of logits.
        width: Channels of the head's convolutions; None: ``stem_width`` for ``conv3``, else C.
        stem_width: Channels that the network's stem returns.
        channels_last: Whether ``shape`` is (H, W, C).
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
