"""Backbones as chains: CIFAR-style ResNets and torchvision's ResNet-18."""

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
    """Segments in order (the first is the stem), and the classifier that reads the last one's state.

    Attributes:
        stem_width: Channels that the stem gives.
        dropped: Modules of the original network that are not in the chain.
        kept: Path of a module that is run as it stands -> why.
        channels_last: Segments whose state is (B, H, W, C).
        heads: The network's own exits: segment that one follows -> module that reads its state. (``head = "own"``)
    """

    segments: dict[str, nn.Module]
    classifier: nn.Module
    stem_width: int
    dropped: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    channels_last: frozenset[str] = frozenset()
    heads: Mapping[str, nn.Module] = field(default_factory=dict)


class CifarBlock(nn.Module):
    """Basic residual block whose shortcut has no parameters (option A of He et al., 2016)."""

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
    """Draws the weights of convolutions as He et al. (2015), by what they give."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def cifar_resnet(spec: NetworkSpec) -> Backbone:
    """A ResNet for small images (He et al., 2016): ``depth`` = 6n+2 layers, stages of width w, 2w, 4w.

    ``depth`` is 20, ``width`` 16 and ``stem_stride`` 1 unless given. Segments: ``stem``, ``layer1.0`` ...
    ``layer3.{n-1}``; with width 16 and 32x32 colour images ResNet-20 has 40.55 M MACs.

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
    """Torchvision's ResNet-18: segments ``stem`` (conv, BatchNorm, ReLU, max-pool), ``layer1.0`` ... ``layer4.1``.

    With ``stem = "cifar"`` the stem is a 3x3 convolution of stride 1, BatchNorm and ReLU, as is usual at 32x32, where
    it has 555.42 M MACs.
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
