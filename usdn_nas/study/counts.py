"""Counters that a worker keeps between batches: the complete trials, and the size of the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from usdn_nas.config import SearchConfig
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.asking import Batch
from usdn_nas.study.parameters import Indices, indices_of

__all__ = ["Complete", "Sizes"]

_SECONDS_OF_A_BATCH = 20.0


class Complete:
    """Counts the complete trials. It remembers finished trials between calls, because they do not change."""

    def __init__(self, space: SearchSpace, distinct: bool) -> None:
        self._space = space
        self._counts_distinct = distinct
        self._keys: dict[int, Indices | None] = {}
        self._distinct: set[Indices | None] = set()
        self._settled = 0

    def look(self, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """Counts the trials among all ``trials`` that are newly complete.

        Returns:
            ``trials`` without the finished ones at its beginning.
        """
        for trial in trials[self._settled :]:
            if trial.state == TrialState.COMPLETE and trial.number not in self._keys:
                self.add(trial.number, trial.params)
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._settled += 1
        return trials[self._settled :]

    def add(self, number: int, params: dict[str, Any]) -> None:
        """Counts one complete trial."""
        self._keys[number] = indices_of(self._space, params)
        self._distinct.add(self._keys[number])

    @property
    def trials(self) -> int:
        """Number of complete trials."""
        return len(self._keys)

    @property
    def configurations(self) -> int:
        """Number of distinct bit configurations among them."""
        return len(self._distinct)

    @property
    def count(self) -> int:
        """Number that is compared with the goal of the search.

        If exits are solved exactly, it is the number of distinct configurations, because running one again brings
        nothing new. Otherwise it is the number of trials.
        """
        return self.configurations if self._counts_distinct else self.trials


class Sizes:
    """Chooses the sizes of the batches.

    The batches of an enumeration grow, because its proposals do not depend on their size. They double until one takes
    ten seconds or more, since a kill may lose the work of one batch, or until the outputs of the doubled batch would
    take more than a quarter of the memory.
    """

    def __init__(self, config: SearchConfig, grows: bool) -> None:
        self._grows = grows
        self._size = config.batch
        self._most_bytes = config.memory_gb * 1e9 / 4

    @property
    def batch(self) -> Batch:
        """The batch of the next trials."""
        return Batch(self._size, aligned=not self._grows)

    def took(self, trials: int, seconds: float, bytes_of_one: int) -> None:
        """Notes how long a batch of ``trials`` took, and the size of one configuration's outputs, in bytes."""
        full, short = trials >= self._size, seconds < _SECONDS_OF_A_BATCH / 2
        if self._grows and full and short and 2 * self._size * bytes_of_one <= self._most_bytes:
            self._size *= 2
