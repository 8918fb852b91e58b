"""One batch of images through a tree of prefixes, depth first, each segment and head once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from usdn_nas.engine.memory import HEADS_KEPT
from usdn_nas.engine.prefixes import Key, Node
from usdn_nas.engine.program import CompiledPart
from usdn_nas.space.architecture import Bits

__all__ = ["HeadOutputs", "Place", "Trail", "Walk"]

Place = tuple[tuple[Key, ...], Key]
"""Where outputs belong: the keys of the segments up to there, and the key of the head."""
_Judged = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Confidence and correctness of a batch's images, (B,) each."""


@dataclass
class HeadOutputs:
    """Confidence (N,) and correctness (N,) at one place."""

    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]


@dataclass
class _Left:
    """What the last path left of a segment: its state, and what heads made of it."""

    key: Key
    state: tuple[Tensor, ...]
    heads: dict[Key, _Judged] = field(default_factory=dict)


Trail = list[_Left]
"""Of the segments of the last path, from the first on, as far as kept."""


@dataclass
class Walk:
    """One image batch.

    Attributes:
        trail: Of this image batch; what fits is taken up, and what this walk leaves is put there.
        kept: How many segments the trail may have.
        rows: The batch's place in the split.
        labels: (B,).
        images: Gives the batch, where the trail does not have the first state.
        segment, head: Compiled parts by number, key, and the layer bits that the key stands for.
        exits: Segment -> number of its exit.
        outputs: Where results go.
        segment_runs: Segments that were run, by number.
    """

    trail: Trail
    kept: int
    rows: slice
    labels: Tensor
    images: Callable[[], Tensor]
    segment: Callable[[int, Key, Mapping[str, Bits]], CompiledPart]
    head: Callable[[int, Key, Mapping[str, Bits]], CompiledPart]
    exits: Mapping[int, int]
    outputs: Mapping[Place, HeadOutputs]
    segment_runs: list[int]

    def roots(self, roots: Mapping[Key, Node]) -> None:
        """Walks the whole tree."""
        for key, node in roots.items():
            self._visit((key,), node, None)

    def _visit(self, prefix: tuple[Key, ...], node: Node, state: tuple[Tensor, ...] | None) -> None:
        """``state`` is the one before the node; None: the images."""
        left = self._arrive(prefix, node, state)
        del state
        self._judge(prefix, node, left)
        for key, child in node.children.items():
            self._visit((*prefix, key), child, left.state)

    def _arrive(self, prefix: tuple[Key, ...], node: Node, state: tuple[Tensor, ...] | None) -> _Left:
        level, trail = node.segment, self.trail
        if level < len(trail) and trail[level].key == prefix[-1]:
            return trail[level]
        del trail[level:]
        state = (self.images(),) if state is None else state
        left = _Left(prefix[-1], self.segment(level, prefix[-1], node.bits)(state))
        self.segment_runs[level] += len(self.labels)
        if level < self.kept and level == len(trail):
            trail.append(left)
        return left

    def _judge(self, prefix: tuple[Key, ...], node: Node, left: _Left) -> None:
        for key, bits in node.heads.items():
            if key not in left.heads:
                if len(left.heads) == HEADS_KEPT:
                    del left.heads[next(iter(left.heads))]
                (logits,) = self.head(self.exits[node.segment], key, bits)(left.state)
                left.heads[key] = self._judged(logits)
            outputs = self.outputs[prefix, key]
            outputs.confidence[self.rows], outputs.correct[self.rows] = left.heads[key]

    def _judged(self, logits: Tensor) -> _Judged:
        # Image by image: across the images, the last bit would depend on how many share a batch and a thread.
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        return confidence.float().cpu().numpy(), (predicted == self.labels).cpu().numpy()
