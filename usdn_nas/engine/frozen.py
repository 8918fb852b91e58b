"""A full-precision network that is only run forward. Its parts are compiled, with BatchNorms folded in."""

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
    """A faster copy of ``network`` in evaluation mode. Its logits are the same up to rounding.

    Args:
        network: A full-precision network with all candidate exits. It is copied; later changes have no effect.
        space: The search space that was resolved against the network.
    """

    def __init__(self, network: MultiExitNetwork, space: SearchSpace) -> None:
        self._compiler = PartCompiler(Supernet(network, space), "float")
        bits = dict.fromkeys(self._compiler.supernet.layers, FULL_PRECISION)
        self._segments = [self._compiler.segment(index, bits) for index in range(len(network.segments))]
        self._heads = {segment: self._compiler.head(index, bits) for index, segment in enumerate(network.exit_segments)}

    @torch.no_grad()  # not inference mode, because losses save the returned tensors for their gradients
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of all E exits, one tensor (B, C) each."""
        state: State = (self._compiler.prepared(images),)
        logits: list[Tensor] = []
        for index, segment in enumerate(self._segments):
            state = segment(state)
            if index in self._heads:
                logits.extend(self._heads[index](state))
        return tuple(logits)
