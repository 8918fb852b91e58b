"""The frozen choice that a search makes: bits per group, placed exits, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from usdn_nas.files import digest

__all__ = ["Architecture", "Bits"]

Bits = tuple[int, int]
"""(W, A): bit-widths of a layer's weights and of its input."""


@dataclass(frozen=True)
class Architecture:
    """A point of a search space.

    Attributes:
        bits: Group name -> (W, A).
        exits: Names of the placed exits in the order of the chain, without the final one.
        thresholds: One for each of ``exits``: a sample leaves where its confidence is at least this. In [0, 1];
            the final exit has none, it accepts every sample.
    """

    bits: Mapping[str, Bits]
    exits: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.exits) != len(self.thresholds):
            raise ValueError(f"{len(self.exits)} exits need as many thresholds, got {len(self.thresholds)}")

    def with_thresholds(self, thresholds: Sequence[float]) -> Architecture:
        """The same bits and exits with other thresholds."""
        return Architecture(self.bits, self.exits, tuple(float(t) for t in thresholds))

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types: ``{"bits": {group: [W, A]}, "exits": [...], "thresholds": [...]}``."""
        return {
            "bits": {group: list(pair) for group, pair in self.bits.items()},
            "exits": list(self.exits),
            "thresholds": list(self.thresholds),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of `to_dict`."""
        return digest(self.to_dict())

    @property
    def network_digest(self) -> str:
        """SHA-256 over bits and exits alone: what weights depend on, thresholds left out."""
        return digest({key: value for key, value in self.to_dict().items() if key != "thresholds"})
