"""Cached outputs of one forward pass over a split: confidence and correctness of every exit for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import RunError
from usdn_nas.space.architecture import Rule
from usdn_nas.space.records import FINAL_EXIT

__all__ = ["ExitOutputs"]


@dataclass(frozen=True)
class ExitOutputs:
    """Cached outputs of one bit configuration with E exits over N samples.

    Attributes:
        confidence: (E, N) float32, the maximum of the softmax, in [0, 1].
        correct: (E, N) bool, True if the most probable class is the label.
        names: E exit names in the order of the chain; the final exit is the last.

    Raises:
        ValueError: The shapes do not fit together, or there are no samples.
        RunError: A confidence is NaN: the network has diverged.
    """

    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.confidence.shape
        if len(shape) != 2 or shape != self.correct.shape or shape[0] != len(self.names) or 0 in shape:
            raise ValueError(
                f"expected (E, N) twice and E names, got {shape}, {self.correct.shape} and {len(self.names)} names"
            )
        if self.correct.dtype != np.bool_:
            raise ValueError(f"expected 'correct' as bool, got {self.correct.dtype}")
        undefined = np.isnan(self.confidence).any(axis=1)
        if undefined.any():
            name = self.names[int(undefined.argmax())]
            raise RunError(
                f"exit '{name}' gives NaN confidences: the network has diverged; train it with a lower learning rate"
            )

    @property
    def candidates(self) -> tuple[str, ...]:
        """All exit names but that of the final exit."""
        return self.names[:-1]

    @property
    def samples(self) -> int:
        """The number of samples N."""
        return int(self.confidence.shape[1])

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(E,) accuracy of each exit over all samples, a fraction."""
        return np.asarray(self.correct.mean(axis=1), dtype=np.float64)

    def answering(self, rule: Rule) -> NDArray[np.intp]:
        """Returns (N,) the index of the exit that answers each sample if no placed exit is confident of it."""
        if rule == "threshold":
            return np.full(self.samples, len(self.names) - 1, dtype=np.intp)
        return self.confidence.argmax(axis=0)

    def under(self, rule: Rule) -> ExitOutputs:
        """Returns the outputs with ``correct`` of the final exit changed to what ``rule`` makes of it.

        It then says whether a sample that no placed exit is confident of is answered right. The outputs must contain
        the placed exits only, because any exit in them may answer.
        """
        if rule == "threshold":
            return self
        correct = self.correct.copy()
        correct[-1] = self.correct[self.answering(rule), np.arange(self.samples)]
        return ExitOutputs(self.confidence, correct, self.names)

    def placed(self, exits: Sequence[str]) -> ExitOutputs:
        """Returns the outputs of ``exits`` and the final exit only: len(exits) + 1 exits."""
        keep = [i for i, name in enumerate(self.names) if name in exits or name == FINAL_EXIT]
        return ExitOutputs(self.confidence[keep], self.correct[keep], tuple(self.names[i] for i in keep))
