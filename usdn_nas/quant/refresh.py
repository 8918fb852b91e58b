"""BatchNorm statistics of a trained supernet taken anew, every copy over the same images and on as many paths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from usdn_nas.architecture import Bits
from usdn_nas.quant.supernet import Supernet

__all__ = ["refresh_norms"]


@torch.no_grad()
def refresh_norms(supernet: Supernet, batches: Iterable[Tensor], draw: Callable[[], list[dict[str, Bits]]]) -> None:
    """Replaces the running statistics by means over ``batches``; copies for bits that did not come up stay.

    In training a copy's statistics are those of the last few paths that had its bits. Here every batch runs on several
    configurations, and all count alike.

    Args:
        batches: Images (B, C, H, W) of the training split.
        draw: Draws the configurations of a batch.
    """
    norms = [norm for norm in supernet.modules() if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats]
    before = [(norm.momentum, copy.deepcopy(dict(norm.named_buffers()))) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
    supernet.train()
    for images in batches:
        for bits in draw():
            supernet.set_bits(bits)
            supernet(images)
    for norm, (momentum, buffers) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if not norm.num_batches_tracked:
            norm.load_state_dict(buffers, strict=False)
        norm.num_batches_tracked = buffers["num_batches_tracked"]
