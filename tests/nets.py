"""Builders with torch that tests of several rooms share: small chains, supernets in no special state, splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from usdn_nas.data import Split
from usdn_nas.networks.build import resolve_space
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.search_space import SearchSpace, SpaceSpec

PAIRS = {"choices": [[2, 2], [4, 3], [3, 5]]}
APART = {"weights": [2, 3, 5], "activations": [2, 4]}
RESNET8 = {"name": "resnet_cifar", "depth": 8, "width": 4, "input_shape": [2, 9, 9], "num_classes": 5}
RESNET14 = {**RESNET8, "depth": 14}
RESNET18 = {"name": "torchvision:resnet18", "input_shape": [3, 32, 32], "num_classes": 7}


def spec(
    network: dict[str, Any] | None = None, bits: dict[str, Any] | None = None, exits: dict[str, Any] | None = None
) -> SpaceSpec:
    """A search space; by default over a ResNet-8 of width 4 with `PAIRS` and linear heads."""
    payload = {"network": network or RESNET8, "bits": bits or PAIRS, "exits": exits or {"head": "linear"}}
    return SpaceSpec.model_validate(payload)


def images_for(space: SearchSpace, count: int, seed: int = 0) -> Tensor:
    """(count, C, H, W) float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *space.spec.network.input_shape, generator=generator, dtype=torch.float64)


def unsettle(network: nn.Module, seed: int) -> None:
    """Gives every BatchNorm (each copy its own) statistics and affine parameters that a slip would show in."""
    generator = torch.Generator().manual_seed(seed)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.3, 0.3),
                (norm.running_mean, -0.3, 0.3),
                (norm.running_var, 0.5, 1.5),
            ):
                with torch.no_grad():
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))


def network(space_spec: SpaceSpec, seed: int = 0) -> tuple[SearchSpace, MultiExitNetwork]:
    """The resolved space and its network: float64, evaluation mode, BatchNorm unsettled."""
    torch.manual_seed(seed)
    space, chain = resolve_space(space_spec)
    unsettle(chain, seed)
    return space, chain.double().eval()


def supernet(space_spec: SpaceSpec, seed: int = 0) -> Supernet:
    """A supernet in float64 and evaluation mode; plausible steps, each BatchNorm copy its own."""
    space, chain = network(space_spec, seed)
    net = Supernet(chain, space).double()
    unsettle(net, seed + 2)
    set_steps(net, seed + 3)
    return net.eval()


@torch.no_grad()
def set_steps(net: Supernet, seed: int) -> None:
    """Weights clip at about three deviations, inputs at about 3; one step in four is negative (its modulus counts).

    `Supernet.initialize_steps` does better, but takes its time on a ResNet-18.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in net.layers.values():
        for quantizer, reach in (
            (layer.weight_quantizer, 3 * float(layer.layer.weight.std())),
            (layer.input_quantizer, 3),
        ):
            for step in quantizer.steps.values():
                factor, sign, shift = torch.rand(3, generator=generator).tolist()
                step.step.fill_((0.7 + 0.6 * factor) * reach / step.high * (-1 if sign < 0.25 else 1))
                if step.offset is not None:
                    step.offset.fill_(-(1 + shift) * reach / 3)


class MemorySplit(Split):
    """Images in memory; augmentation adds noise that is a function of the seed and the batch's number."""

    def __init__(self, images: Tensor, labels: Sequence[int] | np.ndarray) -> None:
        self.images = images
        self.labels = np.asarray(labels, dtype=np.int64)

    def _load(
        self, chunks: Sequence[np.ndarray], numbers: Sequence[int], seed: tuple[int, ...] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for number, chunk in zip(numbers, chunks, strict=True):
            images = self.images[chunk]
            if seed is not None:
                noise = np.random.default_rng([*seed, number]).normal(0, 0.1, images.shape)
                images = images + torch.from_numpy(noise).to(images.dtype)
            yield images, torch.from_numpy(self.labels[chunk])


def split(input_shape: Sequence[int], count: int, num_classes: int, seed: int = 0) -> MemorySplit:
    """Images whose brightness tells the class, float32."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(num_classes, size=count)
    images = generator.normal(0, 1, (count, *input_shape)) + labels.reshape(-1, 1, 1, 1)
    return MemorySplit(torch.from_numpy(images).float(), labels)
