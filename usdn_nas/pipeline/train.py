"""The stages that train: full-precision pre-training, supernet training, and the retraining of one architecture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from usdn_nas._util.seeds import derive
from usdn_nas.config import RetrainConfig, SupernetConfig, TrainConfig
from usdn_nas.documents import LadderDocument, write_document
from usdn_nas.engine.frozen import FrozenNetwork
from usdn_nas.engine.outputs import SupernetEvaluator, accuracies, run
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.weights import load_weights, save_weights
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.diagnostics import warn, write_diagnostics
from usdn_nas.pipeline.ranks import on_all_ranks
from usdn_nas.quant.diagnostics import QuantizerWatch
from usdn_nas.quant.refresh import recalibrate_bn
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.cost import full_bops
from usdn_nas.training.checkpoint import Watch
from usdn_nas.training.distributed import rank
from usdn_nas.training.keep import keep
from usdn_nas.training.loop import WEIGHTS, fit
from usdn_nas.training.losses import ExitWeights, Step, cross_entropy_step, distillation_step, sandwich_step

__all__ = [
    "ladder_rows",
    "pretrain",
    "refresh_batches",
    "refresh_paths",
    "train_retrained",
    "train_supernet",
    "train_teacher",
    "untrained_supernet",
]


def _fit(
    context: Context,
    network: nn.Module,
    step: Step,
    settings: TrainConfig,
    folder: Path,
    fingerprint: str,
    title: str,
    evaluate: Callable[[], dict[str, float]],
    weights: ExitWeights,
    finish: Callable[[], None] | None = None,
    watch: Watch | None = None,
) -> None:
    if settings.epochs == 0:
        if rank() == 0:
            keep(network, folder, evaluate())
            if finish is not None:
                finish()
        return
    fit(
        network,
        step,
        context.data.train,
        settings,
        # The seed uses the first word only, so that "retrain (KD)" and "retrain (CE)" see the same batches in order.
        seed=(derive(context.study.seed, title.split()[0]),),
        folder=folder,
        fingerprint=fingerprint,
        device=context.device,
        augment=context.study.data.augment,
        set_epoch=weights.set_epoch,
        evaluate=evaluate,
        finish=finish,
        watch=watch,
        reporter=context.reporter,
        title=title,
        tensorboard=context.study.tensorboard,
    )


def _weights(settings: SupernetConfig | RetrainConfig, train: TrainConfig, exits: int) -> ExitWeights:
    return ExitWeights(exits, settings.exit_weight, settings.exit_loss, train.epochs)


def _columns(outputs: ExitOutputs, suffix: str = "") -> dict[str, float]:
    return {f"accuracy_{name}{suffix}": round(value, 5) for name, value in accuracies(outputs).items()}


def _on_search(context: Context, network: MultiExitNetwork) -> Callable[[], dict[str, float]]:
    return lambda: _columns(run(network, context.search_batches, network.exit_names))


@on_all_ranks
def pretrain(context: Context, fingerprint: str) -> None:
    """Pre-trains the full-precision network by cross-entropy at all candidate exits."""
    settings = context.study.supernet
    network = context.starting_network()
    weights = _weights(settings, settings.pretrain, len(network.exit_names))
    step = cross_entropy_step(network, weights)
    folder, on_search = context.folder / "pretrain", _on_search(context, network)
    _fit(context, network, step, settings.pretrain, folder, fingerprint, "pretrain", on_search, weights)


def _calibration_images(context: Context) -> Iterator[Tensor]:
    """Yields random images of the training split, without augmentation, for calibration."""
    left = context.study.supernet.calibration_images
    order = (derive(context.study.seed, "calibration"),)
    for images, _ in context.data.train.batches(min(left, context.study.batch_size), shuffle_seed=order):
        yield images[:left].to(context.device)
        left -= len(images)
        if left <= 0:
            return


def refresh_batches(context: Context) -> Iterator[Tensor]:
    """Yields at least one batch of random images of the training split, without augmentation.

    Batches are full, unless the split is smaller than one batch.
    """
    settings, train = context.study.supernet, context.data.train
    size = settings.qat.batch_size
    order = (derive(context.study.seed, "refresh"),)
    batches = train.batches(size, shuffle_seed=order, drop_last=len(train) >= size)
    for images, _ in itertools.islice(batches, max(settings.refresh_images // size, 1)):
        yield images.to(context.device)


def refresh_paths(context: Context) -> Callable[[], list[dict[str, Bits]]]:
    """Returns a function that draws the configurations whose BatchNorm statistics are measured; call it for each batch.

    Together, the configurations give every group each of its choices. If training draws stratified paths, it adds as
    many stratified configurations as the largest group has choices.
    """
    space = context.space
    generator = np.random.default_rng(derive(context.study.seed, "refreshed paths"))
    if context.study.supernet.paths == "uniform":
        return lambda: space.covering(generator)
    count = max(len(group.choices) for group in space.groups)
    return lambda: space.stratified(generator, count) + space.covering(generator)


def untrained_supernet(context: Context, network: MultiExitNetwork) -> Supernet:
    """Returns a supernet with the weights of ``network``. Its step sizes are initialized on calibration images."""
    supernet = Supernet(network, context.space)
    supernet.initialize_steps(_calibration_images(context))
    return context.to_device(supernet)


@on_all_ranks
def train_supernet(context: Context, fingerprint: str) -> None:
    """Trains the supernet by the sandwich rule, with quantization, and then evaluates uniform configurations."""
    settings = context.study.supernet
    supernet = untrained_supernet(context, context.pretrained())
    space = context.space
    ends = {"@min": [0] * len(space.groups), "@max": [len(group.choices) - 1 for group in space.groups]}
    evaluator = SupernetEvaluator(supernet, context.search_batches)

    watch = QuantizerWatch(supernet)

    def evaluate() -> dict[str, float]:
        watch.end_epoch()
        write_diagnostics(context, watch, folder / "diagnostics.json")
        columns: dict[str, float] = {}
        for suffix, indices in ends.items():
            columns |= _columns(evaluator(space.choice_bits(indices)), suffix)
        return columns

    def finish() -> None:
        warn(context, watch)
        if settings.refresh_images and settings.qat.epochs and space.bit_configurations > 1:
            recalibrate_bn(supernet, refresh_batches(context), refresh_paths(context))
            save_weights(supernet, folder / WEIGHTS)
        _write_ladder(context, evaluator, folder / "ladder.json")

    if settings.teacher == "pretrained" and settings.pretrain.epochs == 0 and settings.weights is None:
        context.reporter.say(
            "supernet: learns from a network that was not pre-trained, exits included (supernet.pretrain.epochs = 0 "
            "and no supernet.weights); supernet.teacher = 'largest' does without"
        )
    weights = _weights(settings, settings.qat, len(space.chain.exits))
    step = sandwich_step(
        supernet, weights, settings.random_paths,
        teacher=FrozenNetwork(context.pretrained(), space) if settings.teacher == "pretrained" else None,
        stratified=settings.paths == "stratified", smallest=settings.smallest,
    )  # fmt: skip
    folder = context.folder / "supernet"
    _fit(context, supernet, step, settings.qat, folder, fingerprint, "supernet", evaluate, weights, finish, watch)


def _write_ladder(context: Context, evaluator: SupernetEvaluator, path: Path) -> None:
    rows = ladder_rows(evaluator)
    rising = all(row["difference"] is None or row["difference"] >= -2 * row["standard_error"] for row in rows)
    payload = {"split": "search", "n": len(context.data.search), "rows": rows, "monotone": rising}
    write_document(path, LadderDocument, {**payload, "provenance": context.provenance()})
    if not rising:
        context.reporter.say(
            "supernet: accuracy falls by more than 2 standard errors somewhere along the uniform bit-widths "
            "(supernet/ladder.json); more supernet.qat.epochs may help"
        )


def ladder_rows(evaluator: SupernetEvaluator) -> list[dict[str, Any]]:
    """Returns a row for each uniform configuration, cheapest first, with its accuracy at the final exit.

    ``difference`` is the difference in accuracy to the row before, paired sample by sample, and ``standard_error`` its
    standard error.
    """
    space = evaluator.supernet.space
    rows: list[dict[str, Any]] = []
    before: np.ndarray[Any, Any] | None = None
    for bits in space.ladder():
        outputs = evaluator(bits)
        correct = outputs.correct[-1].astype(np.float64)
        paired = None if before is None else correct - before
        rows.append(
            {
                "bits": list(next(iter(bits.values()))),
                "bops": full_bops(space, bits),
                "accuracy": float(correct.mean()),
                "accuracy_exits": accuracies(outputs),
                "difference": None if paired is None else float(paired.mean()),
                "standard_error": None if paired is None else float(paired.std(ddof=1) / np.sqrt(len(paired))),
            }
        )
        before = correct
    return rows


@on_all_ranks
def train_teacher(context: Context, architecture: Architecture, folder: Path, fingerprint: str) -> None:
    """Trains the full-precision teacher, which has the same placed exits, by cross-entropy."""
    settings = context.study.retrain
    network = context.fresh_network() if settings.teacher_init == "scratch" else context.pretrained()
    teacher = network.place(architecture.exits)
    weights = _weights(settings, settings.teacher, len(teacher.exit_names))
    step, on_search = cross_entropy_step(teacher, weights), _on_search(context, teacher)
    _fit(context, teacher, step, settings.teacher, folder, fingerprint, "teacher", on_search, weights)


def load_teacher(context: Context, architecture: Architecture, folder: Path) -> MultiExitNetwork:
    """Returns the teacher that `train_teacher` wrote to ``folder``."""
    teacher = context.fresh_network().place(architecture.exits)
    load_weights(teacher, folder / WEIGHTS)
    return teacher


def _start(context: Context, architecture: Architecture, teacher: Path) -> MultiExitNetwork:
    """Returns the quantized network with its weights before retraining, chosen by ``retrain.init``."""
    init = context.study.retrain.init
    if init == "supernet":
        return extract_chain(context.supernet(), architecture)
    network = context.fresh_network()
    if init == "teacher":
        load_weights(network.place(architecture.exits), teacher / WEIGHTS)
    return extract_chain(untrained_supernet(context, network), architecture)


@on_all_ranks
def train_retrained(
    context: Context,
    architecture: Architecture,
    folder: Path,
    teacher_folder: Path,
    fingerprint: str,
    loss: Literal["kd", "ce"],
) -> None:
    """Retrains the architecture's standalone network with distillation (Eq. (10)) or with cross-entropy alone."""
    settings = context.study.retrain
    network = _start(context, architecture, teacher_folder)
    context.to_device(network)
    weights = _weights(settings, settings.train, len(network.exit_names))
    if loss == "ce":
        step = cross_entropy_step(network, weights)
    else:
        step = distillation_step(
            network,
            load_teacher(context, architecture, teacher_folder),
            weights=weights,
            temperature=settings.temperature,
            alpha=settings.alpha,
            alpha_weighs=settings.alpha_weighs,
            teacher_exit=settings.teacher_exit,
        )
    title = f"retrain ({loss.upper()})"
    _fit(context, network, step, settings.train, folder, fingerprint, title, _on_search(context, network), weights)
