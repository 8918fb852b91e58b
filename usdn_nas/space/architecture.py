"""An architecture, which is the result of a search: bits of each group, placed exits, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from usdn_nas._util.files import digest

__all__ = ["Architecture", "Bits", "Rule"]

Bits = tuple[int, int]
"""(W, A): the bit-widths of a layer's weights and of its input."""

Rule = Literal["threshold", "most-confident"]
"""Which exit answers a sample that no placed exit is confident of.

``threshold``: the final exit. ``most-confident``: the most confident of all placed exits and the final one; if several
are equally confident, the first (SDN, Kaya et al. 2019).
"""


@dataclass(frozen=True)
class Architecture:
    """A point of a search space.

    Attributes:
        bits: Group name -> (W, A).
        exits: Names of the placed exits in the order of the chain, without the final one.
        thresholds: One for each of ``exits``, in [0, 1]. A sample leaves at an exit if its confidence there is at least
            the threshold. The final exit has no threshold, because it accepts every sample.
        rule: Which exit answers a sample that no placed exit is confident of, see `Rule`.
    """

    bits: Mapping[str, Bits]
    exits: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    rule: Rule = "threshold"

    def __post_init__(self) -> None:
        if len(self.exits) != len(self.thresholds):
            raise ValueError(f"{len(self.exits)} exits need as many thresholds, got {len(self.thresholds)}")

    def with_thresholds(self, thresholds: Sequence[float]) -> Architecture:
        """Returns an architecture with the same bits and exits, but other thresholds."""
        return replace(self, thresholds=tuple(float(t) for t in thresholds))

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON's own types: ``{"bits": {group: [W, A]}, "exits": [...], "thresholds": [...]}``.

        The key ``"rule"`` is present only if the rule is not ``threshold``. It was added later, and the digests of
        older files must still hold.
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
        """SHA-256 of bits and exits, which are all that the network's weights depend on."""
        return digest({key: value for key, value in self.to_dict().items() if key in ("bits", "exits")})
