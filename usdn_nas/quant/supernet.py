"""Makes a weight-sharing quantized supernet from a full-precision chain, and extracts one architecture from it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from usdn_nas._util.errors import UserError
from usdn_nas.networks.build import analyze_chain, build_network
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.quant.layers import (
    FULL_PRECISION,
    QuantConv2d,
    QuantLinear,
    SwitchableBatchNorm2d,
    SwitchableLayer,
    SwitchableQuantizer,
)
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.records import OPAQUE
from usdn_nas.space.search_space import SearchSpace

__all__ = ["VALUES_PER_IMAGE", "Supernet", "extract_chain"]

VALUES_PER_IMAGE = 100
"""Calibration reads at most this many values of a layer's input for each image."""


class Supernet(nn.Module):
    """A network in which every layer can take each of its choices of weight and activation bits.

    Switch between choices with `set_bits`.

    Args:
        network: The model that ``space`` was made for, or its chain with all candidate exits. It is copied. If it is a
            model, new exit heads draw their weights from torch's global generator.
        space: The search space.

    Raises:
        UserError: The model cannot be cut into the segments that ``space`` describes.
    """

    def __init__(self, network: nn.Module, space: SearchSpace) -> None:
        super().__init__()
        if isinstance(network, MultiExitNetwork):
            self.chain = copy.deepcopy(network)
        else:
            network = self.chain = build_network(space.spec, network)
        self.space = space
        self.layers: dict[str, SwitchableLayer] = {}
        """Switchable layers: layer name -> layer."""
        self._norms: list[tuple[str, SwitchableBatchNorm2d]] = []
        self._convert(list(analyze_chain(network, space.spec.network.input_shape)))
        self.set_bits(None)

    def _convert(self, graphs: list[tuple[str, object]]) -> None:
        choices = {group.name: group.choices for group in self.space.groups}
        shared: dict[tuple[str, str], SwitchableQuantizer] = {}
        for (prefix, part), (_, graph) in zip(self.chain.parts(), graphs, strict=True):
            for record in graph.layers:  # type: ignore[attr-defined]
                if record.kind == OPAQUE:
                    continue
                group = self.space.group_of.get(record.name)
                pairs = choices[group] if group else (self.space.fixed[record.name],)
                key = (record.reads, group or record.name)
                if key not in shared:
                    shared[key] = SwitchableQuantizer(
                        (a for _, a in pairs), signed=False, offset=record.signed, count=record.feature_count
                    )
                path = record.name.removeprefix(f"{prefix}.")
                layer = SwitchableLayer(cast(nn.Conv2d, part.get_submodule(path)), pairs, shared[key])
                self.layers[record.name] = layer
                part.set_submodule(path, layer)
            for path, owner in graph.norm_of.items():  # type: ignore[attr-defined]
                name = f"{prefix}.{owner}"
                group = self.space.group_of.get(name)
                pairs = choices[group] if group else (self.space.fixed[name],)
                norm = SwitchableBatchNorm2d(cast(nn.BatchNorm2d, part.get_submodule(path)), pairs)
                self._norms.append((name, norm))
                part.set_submodule(path, norm)

    def set_bits(self, bits: Mapping[str, Bits] | None) -> None:
        """Switches the whole network to a bit configuration.

        Args:
            bits: Group name -> (weight bits W, activation bits A). None: full precision everywhere.
        """
        chosen = {} if bits is None else self.space.layer_bits(bits)
        self.set_layer_bits({name: chosen.get(name, FULL_PRECISION) for name in self.layers})

    def set_layer_bits(self, by_layer: Mapping[str, Bits]) -> None:
        """Switches the named layers, and the BatchNorms that belong to them. Other layers keep their bits.

        Use it to run one part of the network by itself.
        """
        for name, pair in by_layer.items():
            self.layers[name].bits = pair
        for owner, norm in self._norms:
            norm.bits = self.layers[owner].bits

    @cached_property
    def shared_segments(self) -> int:
        """Number of leading segments that are the same in all configurations and followed by no exit."""
        chain = self.space.chain
        searched = [any(layer.name in self.space.group_of for layer in segment.layers) for segment in chain.segments]
        return min([*(i for i, found in enumerate(searched) if found), chain.exits[0].segment])

    def norm_owners(self) -> dict[SwitchableBatchNorm2d, str]:
        """Returns the owner of each BatchNorm: BatchNorm -> name of the layer that it is switched with."""
        return {norm: owner for owner, norm in self._norms}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of all E exits, one tensor (B, C) each."""
        return cast(tuple[Tensor, ...], self.chain(images))

    def calibrate(self, images_and_labels: Iterable[tuple[Tensor, Tensor]], images: int = 512) -> Supernet:
        """Sets every quantizer's step size from the weights, and from the inputs of layers on the first images.

        Args:
            images_and_labels: Batches of training images (B, C, H, W), normalized as in training, with their labels.
            images: Number of images to use; later ones are not read.

        Returns:
            The supernet itself.

        Raises:
            UserError: There is no batch.
        """
        self.initialize_steps(_first(images_and_labels, images, next(self.parameters()).device))
        return self

    @torch.no_grad()
    def initialize_steps(self, batches: Iterable[Tensor]) -> None:
        """Sets the step sizes of all quantizers.

        Those of weights are computed from the weights. Those of inputs are computed from the inputs at full precision
        on ``batches``. Every image contributes the same number of values, at most `VALUES_PER_IMAGE`. The batch size
        does not matter.

        Args:
            batches: Images (B, C, H, W) of the training split.
        """
        seen: dict[SwitchableQuantizer, list[Tensor]] = {}
        generators: dict[SwitchableQuantizer, torch.Generator] = {}

        def keep(module: nn.Module, inputs: tuple[Tensor, int]) -> None:
            quantizer = cast(SwitchableQuantizer, module)
            generator = generators.setdefault(quantizer, torch.Generator().manual_seed(0))
            seen.setdefault(quantizer, []).append(_values(inputs[0], generator))

        quantizers = {layer.input_quantizer for layer in self.layers.values()}
        hooks = [quantizer.register_forward_pre_hook(keep) for quantizer in quantizers]
        self.eval()
        self.set_bits(None)
        for images in batches:
            self(images)
        for hook in hooks:
            hook.remove()
        for quantizer, samples in seen.items():
            for step in quantizer.steps.values():
                cast(LSQQuantizer, step).initialize(torch.cat(samples))
        for layer in self.layers.values():
            for step in layer.weight_quantizer.steps.values():
                cast(LSQQuantizer, step).initialize(layer.layer.weight)


def _first(batches: Iterable[tuple[Tensor, Tensor]], count: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the first ``count`` images, batch by batch."""
    left = count
    for images, _ in batches:
        yield images[:left].to(device)
        left -= len(images)
        if left <= 0:
            return
    if left == count:
        raise UserError("expected batches of images and labels to calibrate on, got none")


def _values(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Returns values of a layer's inputs (B, ...) as one vector, with the same number of values from each image."""
    rows = inputs.reshape(len(inputs), -1)
    if rows.shape[1] > VALUES_PER_IMAGE:  # drawn at random: a fixed stride could always hit the same columns
        index = torch.randint(rows.shape[1], (len(rows), VALUES_PER_IMAGE), generator=generator)
        rows = rows.gather(1, index.to(rows.device))
    return rows.flatten()


def extract_chain(supernet: Supernet, architecture: Architecture) -> MultiExitNetwork:
    """Returns the standalone network of ``architecture``.

    It has layers with fixed bits and only the exits of the architecture. Parameters are copied.
    """
    chain = copy.deepcopy(supernet.chain.place(architecture.exits))
    by_layer = supernet.space.layer_bits(architecture.bits)
    names = {id(layer): name for name, layer in supernet.layers.items()}
    original = supernet.chain.place(architecture.exits)
    for (_, part), (_, source) in zip(chain.parts(), original.parts(), strict=True):
        twins = dict(source.named_modules())
        for path, module in list(part.named_modules()):
            if isinstance(module, SwitchableLayer):
                w, a = by_layer[names[id(twins[path])]]
                kind = QuantConv2d if isinstance(module.layer, nn.Conv2d) else QuantLinear
                fixed = kind(module.layer, module.weight_quantizer.at(w), module.input_quantizer.at(a))  # type: ignore[arg-type]
                part.set_submodule(path, fixed)
            elif isinstance(module, SwitchableBatchNorm2d):
                owner = next(name for name, norm in supernet._norms if norm is twins[path])
                part.set_submodule(path, module.at(by_layer[owner]))
    return chain
