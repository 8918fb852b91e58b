"""Augments whole batches: random crops of the zero-padded images, and a random half of the images mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CropFlip"]


@dataclass(frozen=True)
class CropFlip:
    """Pads by ``padding`` zero pixels and crops to the old size at a random place; with ``flip``, mirrors at random.

    This equals torchvision's ``RandomCrop(size, padding)`` and ``RandomHorizontalFlip()``, drawn for each image.
    """

    padding: int
    flip: bool

    def __call__(self, images: Tensor, generator: np.random.Generator) -> Tensor:
        """Returns augmented copies of the images (B, C, H, W), with the same type and shape."""
        batch, channels, height, width = images.shape
        p = self.padding
        offsets = torch.from_numpy(generator.integers(0, 2 * p + 1, (2, batch, 1)))
        rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
        if self.flip:
            mirrored = torch.from_numpy(generator.random(batch) < 0.5)
            columns[mirrored] = columns[mirrored].flip(1)
        # One gather over the flattened padded images is several times faster than cropping each image.
        index = (rows[:, :, None] * (width + 2 * p) + columns[:, None, :]).view(batch, 1, -1)
        padded = F.pad(images, (p, p, p, p)).view(batch, channels, -1)
        return padded.gather(2, index.expand(-1, channels, -1)).view_as(images)
