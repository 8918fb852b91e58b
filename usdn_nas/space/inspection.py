"""The figures about a search space that ``usdn-nas inspect`` prints, as JSON's own types."""

from __future__ import annotations

from typing import Any

from usdn_nas.space.cost import reference_bops, uniform_bops
from usdn_nas.space.records import OPAQUE, ExitRecord, SegmentRecord
from usdn_nas.space.search_space import SearchSpace

__all__ = ["inspect_space"]

UNIFORM = (2, 3, 4, 5, 6, 8)


def inspect_space(space: SearchSpace) -> dict[str, Any]:
    """Returns the chain, its groups, the size of the space, and the bit operations (BOPs) at uniform bit-widths.

    ``macs`` (multiply-accumulates) and ``uniform_bops`` do not include internal classifiers. ``uniform_bops`` has
    8-bit ends (stem and final classifier); ``uniform_bops_all_layers`` gives the uniform bits to the ends too.
    ``opaque`` lists the layers that stay at full precision, with their shares of ``macs``; ``quantized_share`` is the
    share of all other layers. ``kept`` names modules that run unchanged, with the reason. ``dropped`` lists modules
    that are left out.
    """
    chain = space.chain
    names = [segment.name for segment in chain.segments]
    parts: list[SegmentRecord | ExitRecord] = [*chain.segments, *chain.exits]
    whole = max(chain.macs, 1)
    layers: list[dict[str, Any]] = [
        {
            "name": layer.name,
            "part": part.name,
            "exit": isinstance(part, ExitRecord),
            "after": names[part.segment] if isinstance(part, ExitRecord) else None,
            "kind": layer.kind,
            "macs": layer.macs,
            "weights": layer.weights,
            "signed": layer.signed,
            "group": space.group_of.get(layer.name),
            "fixed": list(space.fixed[layer.name]) if layer.name in space.fixed else None,
        }
        for part in parts
        for layer in part.layers
    ]
    return {
        "schema": "usdn-nas/inspection/1",
        "network": chain.network,
        "input_shape": list(chain.input_shape),
        "num_classes": chain.num_classes,
        "macs": chain.macs,
        "segments": [
            {"name": segment.name, "macs": sum(layer.macs for layer in segment.layers), "layers": len(segment.layers)}
            for segment in chain.segments
        ],
        "exits": [
            {"name": e.name, "after": names[e.segment], "macs": sum(layer.macs for layer in e.layers)}
            for e in chain.exits
        ],
        "layers": layers,
        "opaque": [
            {"name": row["name"], "part": row["part"], "macs": row["macs"], "share": row["macs"] / whole}
            for row in layers
            if row["kind"] == OPAQUE
        ],
        "quantized_share": 1 - chain.opaque_macs / whole,
        "kept": chain.kept,
        "dropped": list(chain.dropped),
        "groups": [
            {"name": g.name, "layers": list(g.layers), "choices": [list(pair) for pair in g.choices]}
            for g in space.groups
        ],
        "size": {
            "bit_configurations": space.bit_configurations,
            "placements": 2 ** len(space.candidates),
            "points": space.size,
        },
        "uniform_bops": {str(b): uniform_bops(space, b) for b in UNIFORM},
        "uniform_bops_all_layers": {str(b): uniform_bops(space, b, ends=None) for b in UNIFORM},
        "reference_bops": reference_bops(space),
        "not_counted": chain.not_counted,
        "space_digest": space.digest,
    }
