"""Modules of a cut network that run unchanged, at full precision. They are leaves whenever the network is traced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

__all__ = ["ByMode", "Kept"]


class Kept(nn.Module):
    """Wraps a module that tracing must not enter, because it cannot be traced or has more than one use."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.module(*args, **keywords)


class ByMode(Kept):
    """Calls a function with the current mode as an argument, such as ``training`` of `torch.nn.functional.dropout`.

    Args:
        function: The function.
        positions: Positions of the arguments that get this module's ``training`` flag.
        names: Names of the keyword arguments that get it.
    """

    def __init__(self, function: Callable[..., Any], positions: Sequence[int], names: Sequence[str]) -> None:
        super().__init__(nn.Identity())
        self.function, self.positions, self.names = function, tuple(positions), tuple(names)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        given = [self.training if i in self.positions else value for i, value in enumerate(args)]
        return self.function(*given, **{**keywords, **dict.fromkeys(self.names, self.training)})
