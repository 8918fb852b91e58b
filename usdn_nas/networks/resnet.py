"""Builds ResNets as chains: those for CIFAR-size images, and torchvision's ResNet-18."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from usdn_nas._util.errors import UserError
from usdn_nas.networks.foreign import load_foreign
from usdn_nas.space.search_space import NetworkSpec

__all__ = ["Backbone", "cifar_resnet", "initialize", "torchvision_resnet18"]


@dataclass
class Backbone:
    """A network without the heads of exits: segments and a classifier.

    Attributes:
        segments: Name -> module, in order. The first is the stem.
        classifier: The module that reads the state of the last segment.
        stem_width: Channels that the stem returns.
        dropped: Modules of the original network that are not in the chain.
        kept: Path of a module that runs unchanged, at full precision -> the reason.
        channels_last: Segments whose state is (B, H, W, C).
        heads: The network's own exits, used with ``head = "own"``: name of a segment -> module that reads its state.
    """

    segments: dict[str, nn.Module]
    classifier: nn.Module
    stem_width: int
    dropped: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    channels_last: frozenset[str] = frozenset()
    heads: Mapping[str, nn.Module] = field(default_factory=dict)


class CifarBlock(nn.Module):
    """A basic residual block whose shortcut has no parameters (option A of He et al., 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.stride = stride
        self.padding = width - channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1 or self.padding:
            before = self.padding // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.padding - before))
        return self.relu2(out + x)


def initialize(module: nn.Module) -> None:
    """Draws the weights of convolutions as in He et al. (2015), scaled by fan-out."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def cifar_resnet(spec: NetworkSpec) -> Backbone:
    """Builds a ResNet for small images (He et al., 2016). It has 6n+2 layers and stages of width w, 2w and 4w.

    By default, ``depth`` is 20, ``width`` is 16 and ``stem_stride`` is 1. The segments are ``stem``, and ``layer1.0``
    to ``layer3.{n-1}``. ResNet-20 of width 16 costs 40.55 M multiply-accumulates for a 32x32 colour image.

    Raises:
        UserError: ``depth`` is not 6n+2.
    """
    depth, width, stride = spec.depth or 20, spec.width or 16, spec.stem_stride or 1
    if depth < 8 or (depth - 2) % 6:
        raise UserError(f"expected 6n+2 (8, 14, 20, ...), got {depth}", where="network.depth")
    stem = OrderedDict(
        conv1=nn.Conv2d(spec.input_shape[0], width, 3, stride=stride, padding=1, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(inplace=True),
    )
    segments: dict[str, nn.Module] = {"stem": nn.Sequential(stem)}
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            out = width * 2**stage
            segments[f"layer{stage + 1}.{block}"] = CifarBlock(channels, out, 2 if stage and not block else 1)
            channels = out
    backbone = Backbone(segments, _classifier(nn.Linear(channels, spec.num_classes)), width)
    for module in segments.values():
        initialize(module)
    return backbone


def torchvision_resnet18(spec: NetworkSpec) -> Backbone:
    """Builds torchvision's ResNet-18.

    The segments are ``stem`` (convolution, BatchNorm, ReLU, max pooling) and ``layer1.0`` to ``layer4.1``. With
    ``stem = "cifar"`` the stem is a 3x3 convolution of stride 1, BatchNorm and ReLU, as is usual for 32x32 images. The
    network then costs 555.42 M multiply-accumulates for such an image.
    """
    for name in ("depth", "width", "stem_stride"):
        if getattr(spec, name) is not None:
            raise UserError(f"torchvision:resnet18 has no '{name}' to set", where=f"network.{name}")
    if spec.input_shape[0] != 3:
        raise UserError(
            f"torchvision:resnet18 reads 3 channels, got {spec.input_shape[0]}", where="network.input_shape"
        )
    net = torchvision.models.resnet18(weights=None, num_classes=spec.num_classes)
    if spec.stem == "cifar":
        net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
        initialize(net.conv1)
    if spec.weights is not None:
        load_foreign(net, Path(spec.weights))
    stem = OrderedDict[str, nn.Module](conv1=net.conv1, bn1=net.bn1, relu=net.relu)
    if spec.stem != "cifar":
        stem["maxpool"] = net.maxpool
    segments: dict[str, nn.Module] = {"stem": nn.Sequential(stem)}
    for stage in range(1, 5):
        for index, block in enumerate(getattr(net, f"layer{stage}")):
            segments[f"layer{stage}.{index}"] = block
    return Backbone(segments, _classifier(net.fc), net.conv1.out_channels)


def _classifier(linear: nn.Linear) -> nn.Module:
    return nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=linear))
