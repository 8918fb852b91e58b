"""A small network of inverted residuals. Its depthwise layers have few multiply-accumulates but need many bits."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

__all__ = ["Compact", "compact"]

STEM = 16
BLOCKS = ((16, 1, 3), (24, 2, 3), (24, 1, 4), (40, 2, 4), (40, 1, 4))
"""Channels, stride and expansion of each block."""


class Compact(nn.Module):
    """Blocks of MobileNetV2 (Sandler et al., 2018) between a stem of stride 2 and a linear classifier.

    It takes images (batch, 1, 28, 28) and returns logits (batch, 10). One image costs 1.32 M multiply-accumulates
    (MACs). MobileNetV2's last 1x1 convolution is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2dNormActivation(1, STEM, stride=2, activation_layer=nn.ReLU6)
        inputs = (STEM, *(channels for channels, _, _ in BLOCKS[:-1]))
        self.blocks = nn.Sequential(*(InvertedResidual(i, *block) for i, block in zip(inputs, BLOCKS, strict=True)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(BLOCKS[-1][0], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, (batch, 10)."""
        logits: Tensor = self.fc(self.pool(self.blocks(self.stem(images))).flatten(1))
        return logits


def compact() -> nn.Module:
    """Returns the network with random weights. Use it with ``network.name = "usdn_nas.networks.compact:compact"``."""
    return Compact()
