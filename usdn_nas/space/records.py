"""Records of a network as a chain: its segments and exits, and their layers with multiply-accumulates (MACs).

One multiply-accumulate counts as one. MACs are counted for convolutions, linear layers and opaque layers. Every other
operator is listed in `ChainRecord.not_counted`, by name and number of calls. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FINAL_EXIT", "OPAQUE", "ChainRecord", "ExitRecord", "LayerRecord", "SegmentRecord"]

FINAL_EXIT = "final"
"""Name of the last exit: the network's own classifier. It is always placed and accepts every sample."""

OPAQUE = "opaque"
"""Kind of an operation that computes multiply-accumulates but stays at full precision, such as attention in one call.
"""


@dataclass(frozen=True)
class LayerRecord:
    """A convolution, a linear layer, or an opaque operation that stays at full precision.

    Attributes:
        name: Name with its segment (``"layer1.0.conv1"``) or its exit (``"exit:layer1.0.conv0"``) in front.
        kind: ``"conv"``, ``"linear"`` or `OPAQUE`. For `OPAQUE`, ``reads``, ``signed`` and ``feature_count`` have no
            meaning.
        macs: Multiply-accumulates for one sample.
        weights: Number of weights, without biases.
        reads: Name of the tensor that the layer reads. Layers of a group that read the same tensor share its quantizer.
        signed: True if that tensor can be negative.
        feature_count: Number of elements of that tensor for one sample.
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
    """A segment of the chain: the layers between two places where an exit can follow."""

    name: str
    layers: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class ExitRecord:
    """A candidate exit. Its head reads the output of the segment with index ``segment``, counted from 0."""

    name: str
    segment: int
    layers: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class ChainRecord:
    """A network as an ordered chain. The last of ``exits`` is `FINAL_EXIT` and follows the last segment.

    Attributes:
        network: Name of the network.
        input_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes.
        segments: The segments in order.
        exits: The exits in order.
        not_counted: Operator name -> number of calls in one forward pass through all segments and exits.
        dropped: Modules of the original network that are not in the chain, such as auxiliary heads.
        kept: Path of a module that runs unchanged -> the reason for that.
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
        """Names of the candidate exits in order: all exits but the final one."""
        return tuple(exit_.name for exit_ in self.exits[:-1])

    def layers(self) -> Iterator[LayerRecord]:
        """Yields all layers: those of the segments in order, then those of the exits in order."""
        parts: tuple[SegmentRecord | ExitRecord, ...] = (*self.segments, *self.exits)
        for part in parts:
            yield from part.layers

    @property
    def macs(self) -> int:
        """MACs of all segments and the final exit, which is the network without internal classifiers."""
        parts: tuple[SegmentRecord | ExitRecord, ...] = (*self.segments, self.exits[-1])
        return sum(layer.macs for part in parts for layer in part.layers)

    @property
    def opaque_macs(self) -> int:
        """The part of `macs` that belongs to opaque layers, which stay at full precision."""
        parts: tuple[SegmentRecord | ExitRecord, ...] = (*self.segments, self.exits[-1])
        return sum(layer.macs for part in parts for layer in part.layers if layer.kind == OPAQUE)

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as dictionaries, tuples, strings and numbers, which JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> ChainRecord:
        """Returns the record that `to_dict` turned into ``payload``. It also works after ``payload`` was JSON."""
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
