"""The layers that an architecture runs, with their bits and sizes, and where samples may leave: what `bits` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from usdn_nas.report.figures._places import Places
from usdn_nas.report.figures.share import Share
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.records import FINAL_EXIT, LayerRecord
from usdn_nas.space.search_space import SearchSpace

__all__ = ["BitsData", "LayerBits", "bits_data"]


@dataclass(frozen=True)
class LayerBits:
    """A layer: its name within its block, its bits and its size."""

    name: str
    weight_bits: int
    activation_bits: int
    searched: bool
    macs: int

    @property
    def bops(self) -> int:
        """MACs x W x A."""
        return self.macs * self.weight_bits * self.activation_bits


@dataclass(frozen=True)
class BitsData:
    """What the figure shows.

    Attributes:
        layers: In the order of the chain.
        blocks: (name, index of its first layer, number of layers), contiguous.
        flags: (position, text) of each placed exit; position counts the layers before it.
    """

    title: str
    layers: tuple[LayerBits, ...]
    blocks: tuple[tuple[str, int, int], ...]
    flags: tuple[tuple[int, str], ...]

    @property
    def places(self) -> Places:
        """The layers along the axis."""
        return Places(tuple(layer.name for layer in self.layers), self.blocks)

    def share(self, of: Share) -> tuple[float, ...]:
        """Each layer's part of the layers shown, in percent."""
        sizes = [getattr(layer, of) for layer in self.layers]
        return tuple(100 * size / max(sum(sizes), 1) for size in sizes)


def bits_data(space: SearchSpace, architecture: Architecture, heads: bool) -> BitsData:
    """Layers of segments, of placed heads (if ``heads``) where they branch off, and of the final classifier."""
    bits = space.layer_bits(architecture.bits)
    chain = space.chain
    thresholds = dict(zip(architecture.exits, architecture.thresholds, strict=True))
    layers: list[LayerBits] = []
    blocks: list[tuple[str, int, int]] = []
    flags: list[tuple[int, str]] = []

    def add(part: str, records: Sequence[LayerRecord], label: str) -> None:
        if records:
            blocks.append((label, len(layers), len(records)))
        for record in records:
            name = record.name.removeprefix("exit:").removeprefix(f"{part}.")
            layers.append(LayerBits(name, *bits[record.name], record.name in space.group_of, record.macs))

    for index, segment in enumerate(chain.segments):
        add(segment.name, segment.layers, segment.name)
        for exit_ in chain.exits:
            if exit_.segment != index:
                continue
            if exit_.name == FINAL_EXIT:
                add(exit_.name, exit_.layers, exit_.name)
            elif exit_.name in thresholds:
                flags.append((len(layers), f"{exit_.name}\n≥ {thresholds[exit_.name]:.2f}"))
                if heads:
                    add(exit_.name, exit_.layers, f"head {len(flags) - 1}")
    return BitsData(f"Bit-widths, {chain.network.removeprefix('model:')}", tuple(layers), tuple(blocks), tuple(flags))
