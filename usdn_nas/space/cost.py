"""Costs, computed from layer records: multiply-accumulates (MACs) and bit operations (BOPs).

The BOPs of a layer are its MACs x the bits W of its weights x the bits A of its input. They are summed over
convolutions and linear layers. Opaque layers, which stay at full precision, count with 32 x 32 bits.
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
        chain: (E,) int64, BOPs of all segments up to the one that exit e follows, that one included.
        heads: (E,) int64, BOPs of exit e's own head.
    """

    names: tuple[str, ...]
    chain: NDArray[np.int64]
    heads: NDArray[np.int64]

    def placed(self, exits: Sequence[str]) -> ExitCosts:
        """Returns the costs of ``exits`` and the final exit only: len(exits) + 1 exits."""
        keep = [i for i, name in enumerate(self.names) if name in exits or name == FINAL_EXIT]
        return ExitCosts(tuple(self.names[i] for i in keep), self.chain[keep], self.heads[keep])

    @property
    def cumulative(self) -> NDArray[np.int64]:
        """(E,) int64: BOPs of a sample that leaves at exit e, with the heads of all exits up to e."""
        return self.chain + np.cumsum(self.heads)


def _bops(layers: Sequence[LayerRecord], bits: Mapping[str, Bits]) -> int:
    return sum(layer.macs * bits[layer.name][0] * bits[layer.name][1] for layer in layers)


def exit_costs(space: SearchSpace, bits: Mapping[str, Bits] | None) -> ExitCosts:
    """Returns the costs of all exits of ``space`` under ``bits`` (group name -> (W, A)).

    None stands for full precision, with 32/32 bits everywhere.
    """
    by_layer = {layer.name: (32, 32) for layer in space.chain.layers()} if bits is None else space.layer_bits(bits)
    prefix = np.cumsum([_bops(segment.layers, by_layer) for segment in space.chain.segments], dtype=np.int64)
    exits = space.chain.exits
    return ExitCosts(
        tuple(exit_.name for exit_ in exits),
        prefix[[exit_.segment for exit_ in exits]],
        np.array([_bops(exit_.layers, by_layer) for exit_ in exits], dtype=np.int64),
    )


def full_bops(space: SearchSpace, bits: Mapping[str, Bits]) -> int:
    """Returns the BOPs of the network without internal classifiers."""
    costs = exit_costs(space, bits)
    return int(costs.chain[-1] + costs.heads[-1])


def least_bops(space: SearchSpace) -> int:
    """Returns the lowest average BOPs in ``space``: cheapest bits, and every sample leaves at the cheapest exit."""
    cheapest = {group.name: min(group.choices, key=lambda pair: pair[0] * pair[1]) for group in space.groups}
    costs = exit_costs(space, cheapest)
    return int((costs.chain + costs.heads).min())


def uniform_bops(space: SearchSpace, width: int, *, ends: int | None = 8) -> int:
    """Returns the BOPs of the network at uniform bits, without internal classifiers.

    Every layer has ``width``/``width`` bits, except the ends and opaque layers, which have 32/32. ``bits.fixed`` of the
    search space is ignored.

    Args:
        space: The search space.
        width: Bits of all layers between the ends.
        ends: Bits of the ends, which are the stem and the final classifier. None gives them ``width`` too.
    """
    inner = [layer for segment in space.chain.segments[1:] for layer in segment.layers]
    outer = [*space.chain.segments[0].layers, *space.chain.exits[-1].layers]
    end = width if ends is None else ends
    opaque = sum(layer.macs for layer in (*inner, *outer) if layer.kind == OPAQUE)
    inside, outside = (sum(layer.macs for layer in part if layer.kind != OPAQUE) for part in (inner, outer))
    return inside * width**2 + outside * end**2 + opaque * 32**2


def reference_bops(space: SearchSpace) -> int:
    """Returns the reference of relative BOPs: those of the network at 4/4 bits, with 8-bit ends and without internal
    classifiers.
    """
    return uniform_bops(space, 4)


def layer_table(space: SearchSpace, architecture: Architecture) -> list[dict[str, Any]]:
    """Returns one row for each layer that the architecture runs: layers of segments, placed heads, final classifier.

    Keys: ``name``, ``part`` (name of the segment or exit), ``exit`` (True for a layer of an exit), ``group`` (None if
    the bits are fixed), ``kind``, ``macs``, ``weight_bits``, ``activation_bits``, ``bops``.
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
    """Returns the plain and the MAC-weighted means of W and A over rows of `layer_table`."""
    macs = np.array([row["macs"] for row in rows], dtype=np.float64)
    out = {}
    for key in ("weight_bits", "activation_bits"):
        values = np.array([row[key] for row in rows], dtype=np.float64)
        out[f"mean_{key}"] = float(values.mean())
        out[f"mac_weighted_{key}"] = float(np.average(values, weights=macs))
    return out
