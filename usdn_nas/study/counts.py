"""What a worker keeps from batch to batch: which trials are complete, and how many it asks for next."""

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
    """Which trials are complete: kept from look to look, for finished trials do not change."""

    def __init__(self, space: SearchSpace, distinct: bool) -> None:
        self._space = space
        self._counts_distinct = distinct
        self._keys: dict[int, Indices | None] = {}
        self._distinct: set[Indices | None] = set()
        self._settled = 0

    def look(self, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """Adds those of all ``trials`` that are new; gives those behind the finished ones at the front."""
        for trial in trials[self._settled :]:
            if trial.state == TrialState.COMPLETE and trial.number not in self._keys:
                self.add(trial.number, trial.params)
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._settled += 1
        return trials[self._settled :]

    def add(self, number: int, params: dict[str, Any]) -> None:
        """Adds one."""
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
        """What counts for the goal: where exits are solved exactly, a configuration run again brings nothing new."""
        return self.configurations if self._counts_distinct else self.trials


class Sizes:
    """Sizes of the batches. An enumeration's grow: its proposals do not depend on them.

    They grow up to some seconds' work, which a kill may cost, and till their outputs take a quarter of the memory.
    """

    def __init__(self, config: SearchConfig, grows: bool) -> None:
        self._grows = grows
        self._size = config.batch
        self._most_bytes = config.memory_gb * 1e9 / 4

    @property
    def batch(self) -> Batch:
        """Of the next trials."""
        return Batch(self._size, aligned=not self._grows)

    def took(self, trials: int, seconds: float, bytes_of_one: int) -> None:
        """Notes how long a batch took, and the size of one configuration's outputs."""
        full, short = trials >= self._size, seconds < _SECONDS_OF_A_BATCH / 2
        if self._grows and full and short and 2 * self._size * bytes_of_one <= self._most_bytes:
            self._size *= 2
