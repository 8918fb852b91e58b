"""Modules of a cut network that run as they stand, at full precision: leaves wherever it is traced again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

__all__ = ["ByMode", "Kept"]


class Kept(nn.Module):
    """A module that is not looked into: it cannot be traced, or is called more than once."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.module(*args, **keywords)


class ByMode(Kept):
    """A function that is told whether it is called in training, such as `torch.nn.functional.dropout`.

    Args:
        function: The function.
        positions: Of its arguments that are the module's ``training``.
        names: Of its keywords that are.
    """

    def __init__(self, function: Callable[..., Any], positions: Sequence[int], names: Sequence[str]) -> None:
        super().__init__(nn.Identity())
        self.function, self.positions, self.names = function, tuple(positions), tuple(names)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        given = [self.training if i in self.positions else value for i, value in enumerate(args)]
        return self.function(*given, **{**keywords, **dict.fromkeys(self.names, self.training)})
