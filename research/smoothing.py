"""Would an exponential moving average of the weights, or label smoothing, pay?

For each seed: the full-precision network with all candidate exits, labels as they are and smoothed; then the
network at the bits in the middle of the ladder, retrained from the former by Eq. (10), its cross-entropy terms with and
without smoothing. The moving averages (weights and BatchNorm statistics, after every step) are of the same trainings.
Figures on the search split. Recorded as they come; what is recorded is not run again.

python research/smoothing.py digits --results research/results/smoothing_digits.json
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from usdn_nas._util.files import read_json, write_json
from usdn_nas.config import TrainConfig, find_toml
from usdn_nas.engine.outputs import run
from usdn_nas.exits.calibration import calibration
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.train import _calibration_images
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture
from usdn_nas.training.loop import fit
from usdn_nas.training.losses import Step, cross_entropy_step, distillation_step

SCHEMA = "usdn-nas/smoothing/1"
SMOOTHING = 0.1
DECAYS = (0.99, 0.998)


def figures(context: Context, network: nn.Module, names: tuple[str, ...]) -> dict[str, float]:
    """Accuracy of the final exit, mean accuracy and mean ECE of all exits."""
    outputs = run(network, context.search_batches, names)
    ece = [calibration(c, r).ece for c, r in zip(outputs.confidence, outputs.correct, strict=True)]
    accuracy = outputs.correct.mean(axis=1)
    return {"final": float(accuracy[-1]), "mean": float(accuracy.mean()), "ece": float(np.mean(ece))}


def train(
    context: Context, network: MultiExitNetwork, step: Step, settings: TrainConfig, smoothing: float
) -> dict[str, dict[str, float]]:
    """Trains in place; figures of the weights as they end, and of their moving averages."""
    averages = {d: AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(d), use_buffers=True) for d in DECAYS}

    def averaging(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        for average in averages.values():  # of the step before
            average.update_parameters(network)
        return step(images, labels, generator)

    smoothed = functools.partial(F.cross_entropy, label_smoothing=smoothing)
    with tempfile.TemporaryDirectory() as folder, patch.object(F, "cross_entropy", smoothed):
        fit(
            network, averaging, context.data.train, settings, seed=(context.study.seed, 1), folder=Path(folder),
            fingerprint="", device=context.device,
        )  # fmt: skip
    found = {"last": figures(context, network, network.exit_names)}
    for decay, average in averages.items():
        average.update_parameters(network)
        found[f"average {decay}"] = figures(context, average, network.exit_names)
    return found


def of_seed(context: Context) -> dict[str, Any]:
    """Name of a training -> kind of weights -> figures."""
    study, space, found = context.study, context.space, {}
    weights = [*[study.supernet.exit_weight] * len(space.candidates), 1.0]
    teacher: MultiExitNetwork | None = None
    for smoothing in (0.0, SMOOTHING):
        network = context.fresh_network()
        step = cross_entropy_step(network, weights)
        found[f"full precision, {smoothing}"] = train(context, network, step, study.supernet.pretrain, smoothing)
        teacher = teacher or network
    assert teacher is not None
    bits = space.ladder()[len(space.ladder()) // 2]
    for smoothing in (0.0, SMOOTHING):
        supernet = Supernet(teacher, space)
        supernet.initialize_steps(_calibration_images(context))
        exits = space.candidates
        network = context.to_device(extract_chain(supernet, Architecture(bits, exits, (1.1,) * len(exits))))
        step = distillation_step(
            network, teacher, weights=weights, temperature=2.0, alpha=0.3, alpha_weighs="kd", teacher_exit="same"
        )
        found[f"Eq. (10), {smoothing}"] = train(context, network, step, study.retrain.train, smoothing)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", default="digits", nargs="?")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"schema": SCHEMA, "study": options.study, "set": options.set, "seeds": {}}
    if options.results.exists():
        results = read_json(options.results, SCHEMA)
    for seed in range(options.seeds):
        if str(seed) not in results["seeds"]:
            context = open_run(find_toml(options.study, "studies"), (*options.set, f"seed={seed}"))
            results["seeds"][str(seed)] = of_seed(context)
            results |= {"n": len(context.data.search), "provenance": context.provenance()}
            write_json(options.results, results)
    rows = list(results["seeds"].values())
    for training, kinds in rows[0].items():
        for kind, names in kinds.items():
            line = {name: [row[training][kind][name] for row in rows] for name in names}
            means = {k: f"{np.mean(v):.4f} ±{np.std(v, ddof=1):.4f}" for k, v in line.items()}
            print(f"{training:24} {kind:14} {means}")


if __name__ == "__main__":
    main()
