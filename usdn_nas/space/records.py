"""What a chain is made of, as numbers: layers with their MACs, segments, exits. No torch in here.

One multiply-accumulate counts one. Counted are convolutions and linear layers; every other operator is listed
by name and number of calls in `ChainRecord.not_counted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FINAL_EXIT", "OPAQUE", "ChainRecord", "ExitRecord", "LayerRecord", "SegmentRecord"]

FINAL_EXIT = "final"
"""Name of the last exit: the network's own classifier. It is always placed and accepts every sample."""

OPAQUE = "opaque"
"""Kind of what computes multiply-accumulates but stays at full precision, such as attention in one call."""


@dataclass(frozen=True)
class LayerRecord:
    """A convolution or linear layer, or something opaque that stays at full precision.

    Attributes:
        name: Qualified by its segment (``"layer1.0.conv1"``) or exit (``"exit:layer1.0.conv0"``).
        kind: ``"conv"``, ``"linear"`` or `OPAQUE` (of which ``reads``, ``signed`` and ``feature_count`` say nothing).
        macs: Multiply-accumulates for one sample.
        weights: Number of weights, bias not among them.
        reads: Name of the tensor it reads; layers of a group that read the same one share its quantizer.
        signed: Whether that tensor can be negative.
        feature_count: Elements of that tensor for one sample.
    """

    name: str
    kind: str
    macs: int
    weights: int
    reads: str
    signed: bool
    feature_count: int


@dataclass(frozen=True)
class SegmentRecord:
    """A stretch of the chain between two boundaries."""

    name: str
    layers: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class ExitRecord:
    """A candidate exit: the head that reads the state after segment number ``segment`` (0-based)."""

    name: str
    segment: int
    layers: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class ChainRecord:
    """A network as an ordered chain. The last of ``exits`` is `FINAL_EXIT` and follows the last segment.

    Attributes:
        not_counted: Operator name -> number of calls in one forward pass through all segments and exits.
        dropped: Modules of the original network that are not in the chain, such as auxiliary heads.
        kept: Path of a module that is run as it stands -> why.
    """

    network: str
    input_shape: tuple[int, ...]
    num_classes: int
    segments: tuple[SegmentRecord, ...]
    exits: tuple[ExitRecord, ...]
    not_counted: dict[str, int]
    dropped: tuple[str, ...] = ()
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the exits that may be placed or not, in order: all but the final one."""
        return tuple(exit_.name for exit_ in self.exits[:-1])

    def layers(self) -> Iterator[LayerRecord]:
        """All layers: those of the segments in order, then those of the exits in order."""
        parts: tuple[SegmentRecord | ExitRecord, ...] = (*self.segments, *self.exits)
        for part in parts:
            yield from part.layers

    @property
    def macs(self) -> int:
        """MACs of the network without internal classifiers: all segments and the final exit."""
        parts: tuple[SegmentRecord | ExitRecord, ...] = (*self.segments, self.exits[-1])
        return sum(layer.macs for part in parts for layer in part.layers)

    @property
    def opaque_macs(self) -> int:
        """Of `macs`, those that stay at full precision because they are opaque."""
        parts: tuple[SegmentRecord | ExitRecord, ...] = (*self.segments, self.exits[-1])
        return sum(layer.macs for part in parts for layer in part.layers if layer.kind == OPAQUE)

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types (tuples become lists when written)."""
        return asdict(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> ChainRecord:
        """The record that `to_dict` gave ``payload`` of, also after a round through JSON."""
        return cls(
            network=payload["network"],
            input_shape=tuple(payload["input_shape"]),
            num_classes=payload["num_classes"],
            segments=tuple(SegmentRecord(s["name"], _layers(s)) for s in payload["segments"]),
            exits=tuple(ExitRecord(e["name"], e["segment"], _layers(e)) for e in payload["exits"]),
            not_counted=dict(payload["not_counted"]),
            dropped=tuple(payload.get("dropped", ())),
            kept=dict(payload.get("kept", {})),
        )


def _layers(part: Mapping[str, Any]) -> tuple[LayerRecord, ...]:
    return tuple(LayerRecord(**layer) for layer in part["layers"])
