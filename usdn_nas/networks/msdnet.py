"""MSDNet (Huang et al., 2018) as a chain. A state holds the feature maps of all scales, the coarsest last.

The layers, their widths and the layers at which scales end are those of github.com/kalviny/MSDNet-PyTorch with
``prune = "max"``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from usdn_nas._util.errors import UserError
from usdn_nas.networks.heads import build_head
from usdn_nas.networks.msdnet_weights import load_official
from usdn_nas.networks.resnet import Backbone, initialize
from usdn_nas.space.search_space import MsdnetSpec, NetworkSpec

__all__ = ["Plan", "msdnet", "plan"]


class Stack(nn.Sequential):
    """Convolutions, each followed by BatchNorm and ReLU: ``conv0``, ``bn0``, ``relu0``, ``conv1`` ..."""

    def __init__(self, *convolutions: nn.Conv2d) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, conv in enumerate(convolutions):
            layers[f"conv{index}"] = conv
            layers[f"bn{index}"] = nn.BatchNorm2d(conv.out_channels)
            layers[f"relu{index}"] = nn.ReLU(inplace=True)
        super().__init__(layers)


def _bottleneck(channels: int, width: int, factor: int, stride: int) -> Stack:
    """Returns a 1x1 convolution to at most ``factor`` x ``width`` channels, then a 3x3 convolution to ``width``."""
    inner = min(channels, factor * width)
    return Stack(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.Conv2d(inner, width, 3, stride=stride, padding=1, bias=False),
    )


class Scales(nn.Module):
    """The rest of the first layer. It makes the map of each further scale from the previous scale.

    A convolution of stride 2 does this. The input is the stem's map; the output is one map for each scale.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.names = [f"scale{i}" for i in range(1, len(widths))]
        for name, channels, width in zip(self.names, widths, widths[1:], strict=False):
            self.add_module(name, Stack(nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [x]
        for name in self.names:
            maps.append(getattr(self, name)(maps[-1]))
        return tuple(maps)


class Grow(nn.Module):
    """Appends new features to the map of one scale. They come from this map, and from the finer map if there is one."""

    def __init__(self, normal: Stack, down: Stack | None) -> None:
        super().__init__()
        self.normal = normal
        if down is not None:
            self.down = down
        self.both = down is not None

    def forward(self, finer: Tensor | None, own: Tensor) -> Tensor:
        new = [self.down(finer)] if self.both else []
        return torch.cat([own, *new, self.normal(own)], dim=1)


class DenseLayer(nn.Module):
    """One layer over all scales, and the transition after it, if there is one.

    It reads one map (B, C_s, H_s, W_s) for each scale. It returns the same number of maps, or one fewer if the finest
    scale ends here.

    Args:
        grow: Name of each scale that continues -> module that adds its new features.
        transition: Name of each scale -> 1x1 convolution. Empty if there is no transition.
        drops: Whether the finest scale that the layer reads ends here.
    """

    def __init__(self, grow: dict[str, Grow], transition: dict[str, Stack], drops: bool) -> None:
        super().__init__()
        for name, module in grow.items():
            if name in transition:
                module.transition = transition[name]
            self.add_module(name, module)
        self.names, self.drops, self.reduces = list(grow), drops, bool(transition)

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        # Each map is read from ``state`` once, so that layers that read the same tensor share its quantizer.
        maps: list[Tensor | None] = [state[i] for i in range(len(self.names) + self.drops)]
        if not self.drops:
            maps = [None, *maps]
        grown = [getattr(self, name)(*maps[i : i + 2]) for i, name in enumerate(self.names)]
        if self.reduces:
            grown = [getattr(self, name).transition(x) for name, x in zip(self.names, grown, strict=True)]
        return tuple(grown)


@dataclass(frozen=True)
class Plan:
    """The settings of one layer. Channels are in units of a scale's factor.

    Attributes:
        block, index: This is layer ``index`` of block ``block``. Both count from 0.
        first: Number of the finest scale that it returns; 0 is the finest scale of the network.
        drops: Whether it also reads the next finer scale, which ends here.
        channels: Channels that it reads.
        grown: Channels before the transition.
        left: Channels that it returns. Fewer than ``grown`` if a transition follows.
        last: Whether it is the last layer of its block. An exit follows this layer.
    """

    block: int
    index: int
    first: int
    drops: bool
    channels: int
    grown: int
    left: int
    last: bool

    @property
    def name(self) -> str:
        """Name of its segment."""
        return f"block{self.block}.{self.index}"


def plan(spec: MsdnetSpec) -> Iterator[Plan]:
    """Yields the settings of all layers after the first. A scale ends after every ``ceil(layers / scales)`` layers."""
    more = [spec.step if spec.step_mode == "even" else spec.step * i + 1 for i in range(1, spec.blocks)]
    depths = [spec.base, *more]
    scales = len(spec.factors)
    interval = math.ceil(sum(depths) / scales)
    channels, number = spec.channels, 0
    for block, depth in enumerate(depths):
        for index in range(depth):
            first, before = number // interval, max(number - 1, 0) // interval
            grown = channels + spec.growth
            left = math.floor(spec.reduction * grown) if first > before else grown
            yield Plan(block, index, first, first > before, channels, grown, left, index == depth - 1)
            channels, number = left, number + 1


def _layer(spec: MsdnetSpec, at: Plan) -> DenseLayer:
    grow, transition = {}, {}
    for scale in range(at.first, len(spec.factors)):
        wide = spec.factors[scale]
        own, width = at.channels * wide, spec.growth * wide
        down = None
        if scale > at.first or at.drops:
            width //= 2
            finer = at.channels * spec.factors[scale - 1]
            down = _bottleneck(finer, width, spec.bottlenecks[scale - 1], 2)
        grow[f"scale{scale}"] = Grow(_bottleneck(own, width, spec.bottlenecks[scale], 1), down)
        if at.left < at.grown:
            transition[f"scale{scale}"] = Stack(nn.Conv2d(at.grown * wide, at.left * wide, 1, bias=False))
    return DenseLayer(grow, transition, at.drops)


def _stem(spec: MsdnetSpec, channels: int, stride: int) -> nn.Module:
    width = spec.channels * spec.factors[0]
    if spec.stem == "cifar":
        return Stack(nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False))
    conv = nn.Conv2d(channels, width, 7, stride=2, padding=3)  # with a bias, as in the published weights
    stem = Stack(conv)
    stem.add_module("maxpool", nn.MaxPool2d(3, stride=2, padding=1))
    return stem


def _coarsest(side: int, spec: MsdnetSpec, stride: int) -> int:
    strides = [*([2, 2] if spec.stem == "imagenet" else [stride]), *[2] * (len(spec.factors) - 1)]
    for each in strides:
        side = (side - 1) // each + 1
    return side


def msdnet(spec: NetworkSpec) -> Backbone:
    """Builds an MSDNet with the settings of ``network.msdnet``. The default has 5 blocks of 4 layers on four scales.

    The segments are ``stem`` (the first convolution), ``scales`` (the rest of the first layer), ``block0.0`` and so on.
    A transition belongs to the layer before it. The network's own exits follow the last layer of each block. With the
    default settings at 3x224x224, its exits cost 337.2, 681.7, 1003.7, 1249.6 and 1355.6 M multiply-accumulates.

    ``network.weights`` is a checkpoint of kalviny/MSDNet-PyTorch. ``network.stem_stride`` is allowed only for the stem
    ``"cifar"``; its default is 1.

    Raises:
        UserError: A setting is given that MSDNet does not have, or the weights belong to another network.
    """
    settings = spec.msdnet or MsdnetSpec()
    fixed = () if settings.stem == "cifar" else ("stem_stride",)
    for name in ("depth", "width", "stem", *fixed):
        if getattr(spec, name) is not None:
            raise UserError(f"msdnet has no '{name}' to set", where=f"network.{name}")
    stride = spec.stem_stride or 1
    factors = settings.factors
    widths = tuple(settings.channels * factor for factor in factors)
    segments: dict[str, nn.Module] = {"stem": _stem(settings, spec.input_shape[0], stride), "scales": Scales(widths)}
    heads = {}
    sides = [_coarsest(side, settings, stride) for side in spec.input_shape[1:]]
    for at in plan(settings):
        segments[at.name] = _layer(settings, at)
        if at.last:
            shape = (at.left * factors[-1], *sides)
            heads[at.name] = build_head(
                "msdnet", shape, spec.num_classes, width=settings.head_width, stem_width=widths[0]
            )
    for module in (*segments.values(), *heads.values()):
        initialize(module)
    if spec.weights is not None:
        load_official(segments, heads, Path(spec.weights))
    *_, (_, classifier) = heads.items()
    own = {name: head for name, head in heads.items() if head is not classifier}
    return Backbone(segments, classifier, widths[0], heads=own)
