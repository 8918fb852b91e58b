"""The frozen choice that a search makes: bits per group, placed exits, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from usdn_nas._util.files import digest

__all__ = ["Architecture", "Bits", "Rule"]

Bits = tuple[int, int]
"""(W, A): bit-widths of a layer's weights and of its input."""

Rule = Literal["threshold", "most-confident"]
"""``threshold``: the final exit answers whatever reaches it. ``most-confident``: a sample that was confident at no
placed exit is answered by its most confident exit, the final one included, the first of equals (SDN, Kaya et al.
2019)."""


@dataclass(frozen=True)
class Architecture:
    """A point of a search space.

    Attributes:
        bits: Group name -> (W, A).
        exits: Names of the placed exits in the order of the chain, without the final one.
        thresholds: One for each of ``exits``: a sample leaves where its confidence is at least this. In [0, 1];
            the final exit has none, it accepts every sample.
        rule: Which exit answers what was confident at none, see `Rule`.
    """

    bits: Mapping[str, Bits]
    exits: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    rule: Rule = "threshold"

    def __post_init__(self) -> None:
        if len(self.exits) != len(self.thresholds):
            raise ValueError(f"{len(self.exits)} exits need as many thresholds, got {len(self.thresholds)}")

    def with_thresholds(self, thresholds: Sequence[float]) -> Architecture:
        """The same bits and exits with other thresholds."""
        return replace(self, thresholds=tuple(float(t) for t in thresholds))

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types: ``{"bits": {group: [W, A]}, "exits": [...], "thresholds": [...]}``.

        ``"rule"`` is among it where it is not ``threshold``: it came later, and digests of older files still hold.
        """
        written = {
            "bits": {group: list(pair) for group, pair in self.bits.items()},
            "exits": list(self.exits),
            "thresholds": list(self.thresholds),
        }
        return written if self.rule == "threshold" else {**written, "rule": self.rule}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of `to_dict`."""
        return digest(self.to_dict())

    @property
    def network_digest(self) -> str:
        """SHA-256 over bits and exits alone: what weights depend on, thresholds and rule left out."""
        return digest({key: value for key, value in self.to_dict().items() if key in ("bits", "exits")})
