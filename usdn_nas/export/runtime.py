"""The early-exit runtime: a standalone network that stops computing for each sample at the exit that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from usdn_nas._util.errors import UserError
from usdn_nas._util.provenance import provenance
from usdn_nas.data.loaders import Loader, as_split
from usdn_nas.data.splits import Split
from usdn_nas.engine.outputs import Batches, run
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.thresholds import fit_thresholds
from usdn_nas.export.document import read_architecture, without_weights, write_architecture
from usdn_nas.networks.build import build_network
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.weights import load_weights, save_weights
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.space.search_space import SearchSpace

__all__ = ["EarlyExitNetwork", "Prediction", "extract", "load", "load_model"]

ARCHITECTURE_NAME = "architecture.json"
WEIGHTS_NAME = "weights.safetensors"
_BATCH_SIZE = 500
"""Number of images that are run at once when a whole split is evaluated."""


@dataclass(frozen=True)
class Prediction:
    """The predictions for B samples.

    Attributes:
        labels: (B,) int64, the predicted classes.
        confidence: (B,) float32, the largest softmax probability at the exit that answers.
        exit_index: (B,) int64, the exit where computation stopped, as an index into the placed exits followed by the
            final exit. This exit answers, with one exception: under the rule ``most-confident``, the most confident
            exit answers samples that reached the final exit.
        bops: (B,) int64, the cost of each sample in bit operations (BOPs).
        logits: (B, C), the logits of the exit that answers.
    """

    labels: Tensor
    confidence: Tensor
    exit_index: Tensor
    bops: Tensor
    logits: Tensor


class EarlyExitNetwork(nn.Module):
    """A network with fixed bits, placed exits, thresholds and a rule for early exits.

    Args:
        network: The extracted network.
        architecture: Its architecture, with thresholds and rule.
        space: The search space that the architecture belongs to.
        data: ``mean`` and ``std`` of each channel and ``class_names``, in the form of ``architecture.json``.
    """

    def __init__(
        self,
        network: MultiExitNetwork,
        architecture: Architecture,
        space: SearchSpace,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.network = network
        self.architecture = architecture
        self.space = space
        self.cumulative_bops = exit_costs(space, architecture.bits).placed(architecture.exits).cumulative

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Names of the placed exits and of the final exit, in order."""
        return self.network.exit_names

    def fit_thresholds(
        self,
        images_and_labels: Loader | Split,
        *,
        tr: float | None = None,
        max_bops: float | None = None,
        accuracy: float | None = None,
    ) -> EarlyExitNetwork:
        """Fits a threshold for each placed exit on these images; see `exits.thresholds.fit_thresholds`.

        Give exactly one of the three goals.

        Args:
            images_and_labels: Batches of images that were not used for training.
            tr: Maximize accuracy - ``tr`` x average BOPs / reference BOPs.
            max_bops: Maximize the accuracy with at most this many average bit operations (BOPs) per sample.
            accuracy: Minimize the average BOPs at this accuracy, a fraction.

        Returns:
            The network itself.

        Raises:
            UserError: No thresholds meet the budget.
            ValueError: Not exactly one goal is given.
        """
        outputs = self._outputs(images_and_labels)
        costs = exit_costs(self.space, self.architecture.bits).placed(self.architecture.exits)
        fitted = fit_thresholds(
            outputs,
            costs,
            tr=tr,
            budget_bops=max_bops,
            accuracy=accuracy,
            reference_bops=reference_bops(self.space),
            rule=self.architecture.rule,
        )
        self.architecture = self.architecture.with_thresholds(fitted.thresholds)
        return self

    def _outputs(self, images_and_labels: Loader | Split) -> ExitOutputs:
        device = next(self.parameters()).device
        return run(self, Batches(as_split(images_and_labels), _BATCH_SIZE, device), self.exit_names)

    def save(self, folder: Path | str) -> Path:
        """Writes ``architecture.json`` and ``weights.safetensors`` into ``folder``, which `load` reads.

        Returns:
            The folder.
        """
        folder = Path(folder)
        save_weights(self.network, folder / WEIGHTS_NAME)
        write_architecture(
            folder / ARCHITECTURE_NAME,
            self.space,
            self.architecture,
            objective=None,
            metrics=None,
            source=None,
            provenance=provenance(
                seed=None, device=str(next(self.parameters()).device), threads=torch.get_num_threads()
            ),
            data=self.data,
        )
        return folder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of all E exits, (B, C) each, for images (B, C_in, H, W). No sample leaves early."""
        return cast(tuple[Tensor, ...], self.network(images))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Returns (pixels - mean) / std for each channel, the normalization of the training.

        Args:
            pixels: (B, C, H, W), in the range in which the data set stores them.

        Raises:
            UserError: The architecture file does not describe its data.
        """
        if self.data is None:
            raise UserError("this architecture.json says nothing of its data", remedy="normalize as in training")
        mean, std = (
            pixels.new_tensor(self.data[key], dtype=torch.float32).view(1, -1, 1, 1) for key in ("mean", "std")
        )
        return (pixels.float() - mean) / std

    @torch.inference_mode()
    def predict(self, images: Tensor, *, max_batch: int | None = None) -> Prediction:
        """Answers each sample at the first exit that is confident enough. Later segments run only on the other samples.

        Args:
            images: (B, C_in, H, W), normalized as in training.
            max_batch: Largest number of samples run at once; None: all.

        Raises:
            UserError: The shape of the images differs from the network's input shape.
        """
        expected = tuple(self.space.spec.network.input_shape)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UserError(f"expected images of shape (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        self.eval()
        parts = [self._predict(part) for part in images.split(max_batch or max(len(images), 1))]
        return Prediction(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _predict(self, images: Tensor) -> tuple[Tensor, ...]:
        count, classes = len(images), self.space.spec.network.num_classes
        logits = images.new_zeros(count, classes)
        confidence = images.new_zeros(count, dtype=torch.float32)
        exit_index = torch.zeros(count, dtype=torch.int64, device=images.device)
        left = torch.arange(count, device=images.device)
        thresholds = self.architecture.thresholds
        last = len(thresholds)
        exits = {segment: number for number, segment in enumerate(self.network.exit_segments)}
        state: tuple[Tensor, ...] = (images,)
        for index in range(len(self.network.segments)):
            if not len(left):
                break
            state = self.network.run_segment(index, state)
            if index not in exits:
                continue
            number = exits[index]
            answer = self.network.heads[number](*state)
            sure = answer.softmax(dim=1).amax(dim=1)
            # The final exit takes all remaining samples, also those whose confidence is NaN.
            leaving = sure.double() >= thresholds[number] if number < last else torch.ones_like(sure, dtype=torch.bool)
            exit_index[left[leaving]] = number
            answers = self._answers(number, leaving, sure.float(), confidence[left])
            logits[left[answers]], confidence[left[answers]] = answer[answers], sure[answers].float()
            staying = ~leaving
            left, state = left[staying], tuple(tensor[staying] for tensor in state)
        bops = torch.as_tensor(self.cumulative_bops, device=images.device)[exit_index]
        return logits.argmax(dim=1), confidence, exit_index, bops, logits

    def _answers(self, number: int, leaving: Tensor, sure: Tensor, before: Tensor) -> Tensor:
        """Returns a mask (B,) of the samples whose answer becomes that of exit ``number``.

        Args:
            number: Index of the exit.
            leaving: (B,) mask of the samples that leave at this exit.
            sure: (B,) float32, confidence of this exit. NaN counts as greater than any number.
            before: (B,) float32, confidence of the answer so far.
        """
        if self.architecture.rule == "threshold":
            return leaving
        surer = ~(sure <= before)
        return surer if number == len(self.architecture.thresholds) else leaving | surer


def _provenance(network: nn.Module) -> dict[str, Any]:
    return provenance(seed=None, device=str(next(network.parameters()).device), threads=torch.get_num_threads())


def extract(supernet: Supernet, architecture: Architecture) -> EarlyExitNetwork:
    """Returns the network of one architecture, with plain quantized layers and only the placed exits.

    Args:
        supernet: The supernet whose weights are copied.
        architecture: An architecture of the supernet's search space.

    Raises:
        UserError: The architecture is not in that search space.
    """
    supernet.space.check(architecture, where="extract")
    device = next(supernet.parameters()).device
    return EarlyExitNetwork(extract_chain(supernet, architecture), architecture, supernet.space).to(device)


def load(folder: Path | str, *, model: nn.Module | None = None, device: str = "cpu") -> EarlyExitNetwork:
    """Returns the network that `EarlyExitNetwork.save` wrote into ``folder``, in evaluation mode.

    Args:
        folder: Holds ``architecture.json`` and ``weights.safetensors``.
        model: The model that the search space was made for, with any weights. It is needed if the model was passed in
            Python, because the files hold no code.
        device: Where to put the network.

    Raises:
        UserError: A file is missing or malformed, ``model`` is missing, or the files and ``model`` do not belong
            together.
    """
    folder = Path(folder)
    file = read_architecture(folder / ARCHITECTURE_NAME, model=model)
    network = extract_chain(
        Supernet(build_network(without_weights(file.space.spec), model), file.space), file.architecture
    )
    load_weights(network, folder / WEIGHTS_NAME)
    return EarlyExitNetwork(network, file.architecture, file.space, file.data).to(device).eval()


def load_model(
    architecture: Path | str, weights: Path | str, *, device: str = "cpu", trust_code: bool = False
) -> EarlyExitNetwork:
    """Loads a retrained network from its two files, ready for `EarlyExitNetwork.predict`.

    Args:
        architecture: Path of ``architecture.json``.
        weights: Path of the ``weights.safetensors`` of a network retrained for this architecture.
        device: Where to put the network.
        trust_code: Accept a network given as user code (``package.module:function``), and run that code. If the network
            is built in or comes from torchvision, no code from the files is run.

    Raises:
        ConsentError: The network is user code, and ``trust_code`` is False.
        UserError: A file is missing or malformed, the weights hold impossible values such as NaN, or the files do not
            belong together.
    """
    file = read_architecture(Path(architecture), trust_code=trust_code)
    full_precision = build_network(without_weights(file.space.spec))
    network = extract_chain(Supernet(full_precision, file.space), file.architecture)
    load_weights(network, Path(weights))
    return EarlyExitNetwork(network, file.architecture, file.space, file.data).to(device).eval()
