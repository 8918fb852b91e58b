"""The figures of a network with early exits on a set of images."""

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
    """What `evaluate` measured on N images. ``print`` shows all of it.

    Attributes:
        accuracy: Share of the images that are answered right, each by the exit where it leaves.
        average_bops: Average bit operations of an image.
        relative_bops: The same, relative to the network without early exits at 4/4 with 8-bit ends.
        n: Number of images.
        exits: One row an exit. ``threshold`` (NaN at the final exit), ``exit_rate`` (share of the images that leave
            there), ``cumulative_bops`` (cost of an image that leaves there), ``cost_share_bops`` (their product, "Cost"
            in the paper's Table I) and ``accuracy_leaving`` (of the images that leave there, NaN if none does). Over
            all images: ``accuracy``, ``error``, ``ece`` and ``mce`` (expected and maximum calibration error, Table
            II), ``signed_gap`` (mean confidence - accuracy) and ``auroc`` (how well confidence tells right from wrong).
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
    """Measures a network with its thresholds: Tables I and II of USDN.

    Args:
        network: From `extract` or `load`.
        images_and_labels: Images that no choice was made on, as batches.
        bins: Equal-width bins of the calibration errors.

    Raises:
        UserError: The loader yields something else than batches of images and labels.
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
