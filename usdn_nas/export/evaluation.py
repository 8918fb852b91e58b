"""Evaluates a network with early exits on a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from usdn_nas.config import EvaluateConfig
from usdn_nas.data.loaders import Loader, as_split
from usdn_nas.data.splits import Split
from usdn_nas.engine.outputs import Batches, run
from usdn_nas.exits.summary import Evaluated
from usdn_nas.export.runtime import EarlyExitNetwork
from usdn_nas.space.cost import exit_costs, reference_bops

__all__ = ["Evaluation", "evaluate"]

_BATCH_SIZE = 500
_COLUMNS = ("exit", "threshold", "exit_rate", "cumulative_bops", "cost_share_bops", "accuracy_leaving")
_OVERALL = ("accuracy", "error", "ece", "mce", "signed_gap", "auroc")


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate` on N images. ``print`` shows all of it.

    Attributes:
        accuracy: Fraction of the images that are answered correctly, each by the exit that answers it.
        average_bops: Average bit operations (BOPs) per image.
        relative_bops: ``average_bops`` divided by the cost of the reference: the network without early exits at 4/4
            bits, with 8 bits in its first and last layers.
        n: Number of images.
        exits: Table with one row an exit. Columns about the images that leave at the exit: ``threshold`` (NaN at the
            final exit), ``exit_rate`` (fraction of the images that leave there), ``cumulative_bops`` (cost of an image
            that leaves there), ``cost_share_bops`` (product of these two, "Cost" in the paper's Table I) and
            ``accuracy_leaving`` (accuracy on the images that leave there, NaN if there are none). Columns over all
            images: ``accuracy``, ``error``, ``ece`` and ``mce`` (expected and maximum calibration error, Table II),
            ``signed_gap`` (mean confidence - accuracy) and ``auroc`` (how well the confidence separates correct from
            wrong answers).
    """

    accuracy: float
    average_bops: float
    relative_bops: float
    n: int
    exits: pd.DataFrame

    def __str__(self) -> str:
        head = (
            f"accuracy {self.accuracy:.4f} at {self.average_bops / 1e6:.6g} MBOPs on average "
            f"({self.relative_bops:.3f} of the reference), n = {self.n:,}"
        )
        return f"{head}\n{self.exits.to_string(index=False, float_format='{:.4g}'.format)}"


def evaluate(
    network: EarlyExitNetwork, images_and_labels: Loader | Split, *, bins: int = EvaluateConfig().bins
) -> Evaluation:
    """Measures a network at its thresholds; the result holds the figures of Tables I and II of USDN.

    Args:
        network: A network from `extract` or `load`.
        images_and_labels: Batches of images that were not used for training, search or fitting.
        bins: Number of equal-width confidence bins for the calibration errors.

    Raises:
        UserError: The loader does not yield batches of images and labels.
    """
    architecture, space = network.architecture, network.space
    device = next(network.parameters()).device
    outputs = run(network, Batches(as_split(images_and_labels), _BATCH_SIZE, device), network.exit_names)
    costs = exit_costs(space, architecture.bits).placed(architecture.exits)
    evaluated = Evaluated(outputs, outputs, costs, reference_bops(space), architecture.rule)
    leaving = pd.DataFrame(evaluated.leaving(architecture.thresholds), columns=_COLUMNS)
    overall = pd.DataFrame(evaluated.calibrated(architecture.thresholds, bins), columns=_OVERALL)
    policy = evaluated.metrics(architecture.thresholds)
    exits = pd.concat([leaving, overall], axis=1)
    numbers = [column for column in exits.columns if column != "exit"]
    return Evaluation(
        accuracy=policy["accuracy"],
        average_bops=policy["average_bops"],
        relative_bops=policy["relative_bops"],
        n=policy["n"],
        exits=exits.astype(dict.fromkeys(numbers, float)),
    )
