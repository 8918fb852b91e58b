"""A full-precision network that is only run forward: its parts compiled, BatchNorms folded in."""

from __future__ import annotations

import torch
from torch import Tensor

from usdn_nas.engine.parts import PartCompiler
from usdn_nas.networks.chain import MultiExitNetwork, State
from usdn_nas.quant.layers import FULL_PRECISION
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.search_space import SearchSpace

__all__ = ["FrozenNetwork"]


class FrozenNetwork:
    """``network`` as it is now, in evaluation mode: the same logits but for rounding, in less time.

    Args:
        network: A full-precision network with all candidate exits. It is copied.
        space: The search space resolved against it.
    """

    def __init__(self, network: MultiExitNetwork, space: SearchSpace) -> None:
        self._compiler = PartCompiler(Supernet(network, space), "float")
        bits = dict.fromkeys(self._compiler.supernet.layers, FULL_PRECISION)
        self._segments = [self._compiler.segment(index, bits) for index in range(len(network.segments))]
        self._heads = {segment: self._compiler.head(index, bits) for index, segment in enumerate(network.exit_segments)}

    @torch.no_grad()  # and no inference mode: losses keep what this returns for their gradients
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of all exits, E tensors (B, C)."""
        state: State = (self._compiler.prepared(images),)
        logits: list[Tensor] = []
        for index, segment in enumerate(self._segments):
            state = segment(state)
            if index in self._heads:
                logits.extend(self._heads[index](state))
        return tuple(logits)
