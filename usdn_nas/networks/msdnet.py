"""MSDNet (Huang et al., 2018) as a chain: a state holds the feature maps of all scales, the coarsest last.

Layers, widths and where scales end are those of github.com/kalviny/MSDNet-PyTorch with ``prune = "max"``.
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
    """1x1 to at most ``factor`` x ``width`` channels, then 3x3 to ``width``."""
    inner = min(channels, factor * width)
    return Stack(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.Conv2d(inner, width, 3, stride=stride, padding=1, bias=False),
    )


class Scales(nn.Module):
    """The rest of the first layer: from the stem's map, each further scale by a stride-2 convolution of the one before.

    (x,) -> one map a scale.
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
    """New features of one scale, from its own map and, where there is one, from the next finer map."""

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

    (B, C_s, H_s, W_s) for each of its scales -> as many, or one fewer where the finest ends here.

    Args:
        grow: Name of each scale that goes on -> its new features.
        transition: Name of each scale -> 1x1 convolution; empty: no transition.
        drops: The finest scale that it reads ends here.
    """

    def __init__(self, grow: dict[str, Grow], transition: dict[str, Stack], drops: bool) -> None:
        super().__init__()
        for name, module in grow.items():
            if name in transition:
                module.transition = transition[name]
            self.add_module(name, module)
        self.names, self.drops, self.reduces = list(grow), drops, bool(transition)

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        # One reference for each map: what reads the same tensor shares its quantizer.
        maps: list[Tensor | None] = [state[i] for i in range(len(self.names) + self.drops)]
        if not self.drops:
            maps = [None, *maps]
        grown = [getattr(self, name)(*maps[i : i + 2]) for i, name in enumerate(self.names)]
        if self.reduces:
            grown = [getattr(self, name).transition(x) for name, x in zip(self.names, grown, strict=True)]
        return tuple(grown)


@dataclass(frozen=True)
class Plan:
    """A layer as the settings give it.

    Attributes:
        block, index: It is layer ``index`` of block ``block``, both from 0.
        first: Number of the finest scale that it gives, 0 for the finest of all.
        drops: It reads one scale more, which ends here.
        channels: Channels that it reads, and (``grown``) has before a transition, in units of a scale's factor.
        left: Channels that it gives; fewer than ``grown`` where a transition follows.
        last: It is the last of its block: an exit follows.
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
        """Of its segment."""
        return f"block{self.block}.{self.index}"


def plan(spec: MsdnetSpec) -> Iterator[Plan]:
    """All layers after the first. A scale ends after each ``ceil(layers / scales)`` of them."""
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
    """An MSDNet by the settings of ``network.msdnet``: 5 blocks of 4 layers on four scales unless told otherwise.

    Segments: ``stem`` (the first convolution), ``scales`` (the rest of the first layer), ``block0.0`` ...; a transition
    belongs to the layer before it. The network's own exits follow the last layer of each block. At 3x224x224 its
    exits cost 337.2, 681.7, 1003.7, 1249.6 and 1355.6 M MACs.

    ``network.weights`` is a checkpoint of kalviny/MSDNet-PyTorch. ``network.stem_stride``: of the stem ``"cifar"``, 1
    unless given.

    Raises:
        UserError: A setting of another network is given, factors do not fit, or the weights are of another network.
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
