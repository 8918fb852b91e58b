"""MACs and BOPs as arithmetic over layer records.

BOPs of a layer = MACs x W bits x A bits (A: of the layer's input), summed over convolutions and linear layers, and
over what is opaque at 32 x 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.records import FINAL_EXIT, OPAQUE, ExitRecord, LayerRecord, SegmentRecord
from usdn_nas.space.search_space import SearchSpace

__all__ = [
    "ExitCosts",
    "exit_costs",
    "full_bops",
    "layer_table",
    "least_bops",
    "mean_bits",
    "reference_bops",
    "uniform_bops",
]


@dataclass(frozen=True)
class ExitCosts:
    """BOPs along the chain for one bit configuration, with E exits (candidates in order, then the final one).

    Attributes:
        names: E exit names.
        chain: (E,) int64, BOPs of the segments up to and including the one that exit e follows (cumulative).
        heads: (E,) int64, BOPs of exit e's own head.
    """

    names: tuple[str, ...]
    chain: NDArray[np.int64]
    heads: NDArray[np.int64]

    def placed(self, exits: Sequence[str]) -> ExitCosts:
        """The costs with only ``exits`` (and the final one) placed: E' = len(exits) + 1."""
        keep = [i for i, name in enumerate(self.names) if name in exits or name == FINAL_EXIT]
        return ExitCosts(tuple(self.names[i] for i in keep), self.chain[keep], self.heads[keep])

    @property
    def cumulative(self) -> NDArray[np.int64]:
        """(E,) int64: what a sample that leaves at exit e has cost, heads of all exits up to e included."""
        return self.chain + np.cumsum(self.heads)


def _bops(layers: Sequence[LayerRecord], bits: Mapping[str, Bits]) -> int:
    return sum(layer.macs * bits[layer.name][0] * bits[layer.name][1] for layer in layers)


def exit_costs(space: SearchSpace, bits: Mapping[str, Bits] | None) -> ExitCosts:
    """Costs of all exits of ``space`` under ``bits`` (group name -> (W, A)); None: full precision, 32/32 everywhere."""
    by_layer = {layer.name: (32, 32) for layer in space.chain.layers()} if bits is None else space.layer_bits(bits)
    prefix = np.cumsum([_bops(segment.layers, by_layer) for segment in space.chain.segments], dtype=np.int64)
    exits = space.chain.exits
    return ExitCosts(
        tuple(exit_.name for exit_ in exits),
        prefix[[exit_.segment for exit_ in exits]],
        np.array([_bops(exit_.layers, by_layer) for exit_ in exits], dtype=np.int64),
    )


def full_bops(space: SearchSpace, bits: Mapping[str, Bits]) -> int:
    """BOPs of the network without internal classifiers."""
    costs = exit_costs(space, bits)
    return int(costs.chain[-1] + costs.heads[-1])


def least_bops(space: SearchSpace) -> int:
    """No policy of ``space`` has fewer average BOPs: the cheapest bits, every sample leaving at the cheapest exit."""
    cheapest = {group.name: min(group.choices, key=lambda pair: pair[0] * pair[1]) for group in space.groups}
    costs = exit_costs(space, cheapest)
    return int((costs.chain + costs.heads).min())


def uniform_bops(space: SearchSpace, width: int, *, ends: int | None = 8) -> int:
    """BOPs without internal classifiers, every layer between the ends at ``width``/``width``, what is opaque at 32/32.

    Args:
        ends: Bits of the stem and the final classifier; None: ``width`` there too. ``bits.fixed`` is not heeded.
    """
    inner = [layer for segment in space.chain.segments[1:] for layer in segment.layers]
    outer = [*space.chain.segments[0].layers, *space.chain.exits[-1].layers]
    end = width if ends is None else ends
    opaque = sum(layer.macs for layer in (*inner, *outer) if layer.kind == OPAQUE)
    inside, outside = (sum(layer.macs for layer in part if layer.kind != OPAQUE) for part in (inner, outer))
    return inside * width**2 + outside * end**2 + opaque * 32**2


def reference_bops(space: SearchSpace) -> int:
    """The reference of relative costs: the network without internal classifiers at 4/4 with 8-bit ends."""
    return uniform_bops(space, 4)


def layer_table(space: SearchSpace, architecture: Architecture) -> list[dict[str, Any]]:
    """One row a layer that the architecture runs: the segments' layers, placed heads, final classifier.

    Keys: ``name``, ``part`` (segment or exit), ``exit`` (bool), ``group`` (or None), ``kind``, ``macs``,
    ``weight_bits``, ``activation_bits``, ``bops``.
    """
    by_layer = space.layer_bits(architecture.bits)
    exits = [e for e in space.chain.exits if e.name in architecture.exits or e.name == FINAL_EXIT]
    parts: list[SegmentRecord | ExitRecord] = [*space.chain.segments, *exits]
    rows = []
    for part in parts:
        for layer in part.layers:
            w, a = by_layer[layer.name]
            rows.append(
                {
                    "name": layer.name,
                    "part": part.name,
                    "exit": isinstance(part, ExitRecord),
                    "group": space.group_of.get(layer.name),
                    "kind": layer.kind,
                    "macs": layer.macs,
                    "weight_bits": w,
                    "activation_bits": a,
                    "bops": layer.macs * w * a,
                }
            )
    return rows


def mean_bits(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Plain and MAC-weighted means of W and A over rows of `layer_table`."""
    macs = np.array([row["macs"] for row in rows], dtype=np.float64)
    out = {}
    for key in ("weight_bits", "activation_bits"):
        values = np.array([row[key] for row in rows], dtype=np.float64)
        out[f"mean_{key}"] = float(values.mean())
        out[f"mac_weighted_{key}"] = float(np.average(values, weights=macs))
    return out
