"""Small models such as users bring, each with something that makes cutting hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Router(nn.Module):
    """Looks at values: fx cannot trace it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > -9 else x


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return x * scale


class Block(nn.Module):
    """Grouped, depthwise and biased layers, several activations, squeeze-excite and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(channels, 2 * channels, 1, groups=2, bias=True)
        self.norm1 = nn.BatchNorm2d(2 * channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * channels)
        self.excite = SqueezeExcite(2 * channels)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.grouped(x)))
        y = self.excite(F.hardswish(self.norm2(self.depthwise(y))))
        return x + self.project(y)


class Hard(nn.Module):
    """Functional dropout, a layer called twice, an untraceable module, an auxiliary head, a dictionary of results."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.block1, self.block2 = Block(8), Block(8)
        self.router = Router(8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 12, 3, stride=2)
        self.aux = nn.Linear(8, num_classes)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.norm(self.stem(x)))
        x = F.dropout(self.block1(x), 0.5, self.training)
        x = self.router(self.block2(x))
        aux = self.aux(x.mean((2, 3)))
        x = self.twice(F.gelu(self.twice(x)))
        x = F.gelu(self.last(x))
        return {"aux": aux, "out": self.fc(x.mean((2, 3)))}


class ValueDependent(Hard):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(-x if x.sum() > 0 else x)


class NoisyInTraining(Hard):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x + torch.randn_like(x) if self.training else x)


class Stateful(nn.Module):
    """Changes a tensor in place in a statement of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
            x.relu_()
        return self.fc(x.mean((2, 3)))


class PreActivation(nn.Module):
    """Plain norm - activation - layer: norms follow the layer they feed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.AvgPool2d(2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


def hard(num_classes: int = 10) -> nn.Module:
    return Hard(num_classes)


def stateful() -> nn.Module:
    return Stateful()


def preactivation() -> nn.Module:
    return PreActivation()


def value_dependent() -> nn.Module:
    return ValueDependent()


def noisy() -> nn.Module:
    return NoisyInTraining()


def a_number() -> int:
    return 3


def fails() -> nn.Module:
    raise ValueError("no such depth")


def one_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))


def a_map(num_classes: int = 4) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(5)))


not_a_function = 3
