"""Runs one batch of images through a tree of prefixes, depth first. Each segment and head runs once."""

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
"""Key of one exit's outputs: the keys of the segments up to the exit, and the key of its head."""
_Judged = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Confidence and correctness of the images of a batch, (B,) each."""


@dataclass
class HeadOutputs:
    """Confidence (N,) and correctness (N,) of one exit at one `Place`."""

    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]


@dataclass
class _Left:
    """Cache entry of one segment on the last path: its state, and the outputs of heads that have read the state."""

    key: Key
    state: tuple[Tensor, ...]
    heads: dict[Key, _Judged] = field(default_factory=dict)


Trail = list[_Left]
"""Cached activations of the last path, first segment first. Later segments may be missing."""


@dataclass
class Walk:
    """Runs a tree of prefixes on one image batch.

    Attributes:
        trail: Activation cache of this image batch. States on the new path are reused; new states are stored.
        kept: Most segments whose states the cache may hold.
        rows: Position of the batch in the split.
        labels: Labels of the batch, (B,).
        images: Returns the images of the batch. Called only if the cache lacks the first state.
        segment, head: Return a compiled part, given its number, its key, and the layer bits that the key stands for.
        exits: Segment -> number of its exit.
        outputs: Results are written here.
        segment_runs: For each segment, the number of images that it has run on.
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
        """Runs the whole tree."""
        for key, node in roots.items():
            self._visit((key,), node, None)

    def _visit(self, prefix: tuple[Key, ...], node: Node, state: tuple[Tensor, ...] | None) -> None:
        """Runs the subtree of ``node``. ``state`` is the state before the node; None stands for the images."""
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
        # The softmax runs within each image. If it ran across images, the last bit would depend on how many images
        # share a batch and a thread.
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        return confidence.float().cpu().numpy(), (predicted == self.labels).cpu().numpy()
