"""Runs networks over a split. Keeps what exit policies need: confidence and correctness for each exit and sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from usdn_nas.exits.calibration import fit_temperature
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.overthinking import confusion
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits

if TYPE_CHECKING:
    from usdn_nas.data import Split

__all__ = ["Batches", "SupernetEvaluator", "accuracies", "fit_temperatures", "run", "run_with_confusion"]

HELD_BYTES = 2**31
"""A split whose images take fewer bytes is prepared once and held in memory."""


@dataclass
class Batches:
    """The batches of a split in its own order, without augmentation. A small split is held in memory.

    Args:
        split: The split.
        batch_size: Number of images in a batch.
        device: The device on which batches are placed.
    """

    split: Split
    batch_size: int
    device: torch.device
    _held: list[tuple[Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._held is not None:
            yield from self._held
            return
        held: list[tuple[Tensor, Tensor]] | None = []
        size = 0
        for images, labels in self.split.batches(self.batch_size):
            batch = (images.to(self.device), labels.to(self.device))
            size += images.numel() * images.element_size()
            if held is not None:
                held.append(batch)
                held = held if size < HELD_BYTES else None
            yield batch
        self._held = held

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return self.split.labels


@torch.inference_mode()
def run(
    network: nn.Module, batches: Batches, names: tuple[str, ...], temperatures: Sequence[float] | None = None
) -> ExitOutputs:
    """Returns confidence (softmax maximum) and correctness of every exit of ``network`` over a split.

    Args:
        network: Returns E tensors of logits (B, C).
        batches: The split.
        names: Names of the E exits.
        temperatures: E numbers. Each exit's logits are divided by its own. None: all are 1.

    Returns:
        (E, N) arrays in the order of the split.
    """
    return run_with_confusion(network, batches, names, temperatures, confused=False)[0]


@torch.inference_mode()
def run_with_confusion(
    network: nn.Module,
    batches: Batches,
    names: tuple[str, ...],
    temperatures: Sequence[float] | None = None,
    *,
    confused: bool = True,
) -> tuple[ExitOutputs, NDArray[np.float64]]:
    """Returns the outputs as `run` does, and the confusion of each sample: (N,), or (0,) if ``confused`` is False."""
    network.eval()
    confidences, corrects, confusions = [], [], [np.zeros(0)]
    for images, labels in batches:
        logits = torch.stack(network(images))
        if temperatures is not None:
            logits = logits / torch.tensor(temperatures, dtype=logits.dtype, device=logits.device)[:, None, None]
        probabilities = logits.softmax(dim=-1)
        confidence, predicted = probabilities.max(dim=-1)
        confidences.append(confidence.float().cpu().numpy())
        corrects.append((predicted == labels).cpu().numpy())
        if confused:
            confusions.append(confusion(probabilities.cpu().numpy()))
    outputs = ExitOutputs(
        confidence=np.concatenate(confidences, axis=1), correct=np.concatenate(corrects, axis=1), names=names
    )
    return outputs, np.concatenate(confusions)


@torch.inference_mode()
def fit_temperatures(network: nn.Module, batches: Batches) -> tuple[float, ...]:
    """Returns a temperature for each of the E exits, fitted to the split. All logits, (E, N, C), are held in memory."""
    network.eval()
    logits = [torch.stack(network(images)).float().cpu() for images, _ in batches]
    return tuple(fit_temperature(exit_, batches.labels) for exit_ in torch.cat(logits, dim=1).numpy())


def accuracies(outputs: ExitOutputs) -> dict[str, float]:
    """Returns the accuracy over all samples for each exit: exit name -> accuracy."""
    return dict(zip(outputs.names, outputs.correct.mean(axis=1).tolist(), strict=True))


class SupernetEvaluator:
    """Computes the outputs of all candidate exits for one bit configuration.

    Args:
        supernet: The trained supernet.
        batches: The split to run.
    """

    def __init__(self, supernet: Supernet, batches: Batches) -> None:
        self.supernet = supernet
        self.batches = batches
        self.names = tuple(exit_.name for exit_ in supernet.space.chain.exits)

    def __call__(self, bits: Mapping[str, Bits]) -> ExitOutputs:
        self.supernet.set_bits(bits)
        return run(self.supernet, self.batches, self.names)
