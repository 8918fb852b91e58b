"""Functions that train a supernet by the sandwich rule, or one network with or without a teacher."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from torch import nn

from usdn_nas._util.progress import Reporter
from usdn_nas._util.seeds import derive
from usdn_nas._util.validation import validate
from usdn_nas.config import RetrainConfig, SupernetConfig, TrainConfig
from usdn_nas.data.loaders import Loader, loader_batches
from usdn_nas.data.splits import Split
from usdn_nas.quant.refresh import recalibrate_bn
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits
from usdn_nas.training.loop import fit
from usdn_nas.training.losses import ExitWeights, Step, Teacher, cross_entropy_step, distillation_step, sandwich_step

__all__ = ["distill", "train", "train_supernet"]

_SUPERNET = SupernetConfig()
_RETRAIN = RetrainConfig()
OnEpoch = Callable[[dict[str, float]], None]


def train_supernet(
    supernet: Supernet,
    images_and_labels: Loader | Split,
    *,
    teacher: nn.Module | Teacher | None = None,
    epochs: int = _SUPERNET.qat.epochs,
    lr: float = _SUPERNET.qat.lr,
    momentum: float = _SUPERNET.qat.momentum,
    weight_decay: float = _SUPERNET.qat.weight_decay,
    warmup_epochs: float = _SUPERNET.qat.warmup_epochs,
    clip_norm: float | None = _SUPERNET.qat.clip_norm,
    max_steps: int | None = None,
    random_paths: int = _SUPERNET.random_paths,
    paths: Literal["uniform", "stratified"] = _SUPERNET.paths,
    smallest: bool = _SUPERNET.smallest,
    exit_weight: float = _SUPERNET.exit_weight,
    refresh_images: int = _SUPERNET.refresh_images,
    seed: int = 0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    on_epoch: OnEpoch | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains all bit configurations of a supernet together, by the sandwich rule (see `sandwich`).

    The optimizer is SGD with Nesterov momentum and cosine annealing. At the end, the statistics of all BatchNorm copies
    are measured again, over the same images for every copy.

    Args:
        supernet: A calibrated supernet (`Supernet.calibrate`). It is trained in place, on its current device.
        images_and_labels: Batches of training images and labels. They are read again every epoch.
        teacher: A module that returns logits (B, C), or the logits of all exits. All configurations learn from its soft
            labels as well as from the true labels. None: the largest configuration teaches the others.
        epochs: Passes over the training images.
        lr: Learning rate at the start.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD. BatchNorm, biases and scales do not decay.
        warmup_epochs: Length of the linear warm-up, in epochs.
        clip_norm: Largest norm of a step's gradient; None: gradients are not clipped.
        max_steps: Stop after this many steps; None: after the last epoch.
        random_paths: Number of random configurations in each step, besides the largest.
        paths: How the random configurations are drawn; see `sandwich`.
        smallest: Also train the smallest configuration in every step.
        exit_weight: Weight of the loss of each internal classifier; the final exit has weight 1.
        refresh_images: Approximate number of images over which BatchNorm statistics are measured at the end; 0: the
            statistics of the training stay.
        seed: Seed of the random configurations.
        evaluate: Called after every epoch. The figures that it returns go into the history.
        on_epoch: Called after every epoch with its row of the history.
        folder: Folder for the weights, the history and ``checkpoint.pt``, from which an interrupted training resumes.
            None: nothing is written.
        progress: Show a progress bar on stderr.

    Returns:
        The history with one row an epoch: ``epoch``, ``step``, ``loss`` (of the largest configuration), ``lr``,
        ``seconds``, ``images_per_second`` and the figures of ``evaluate``.

    Raises:
        UserError: An argument is out of range, or the loader yields no batches.
        RunError: The loss is no longer finite.
    """
    settings = _settings(epochs, lr, momentum, weight_decay, warmup_epochs, clip_norm, max_steps)
    if isinstance(teacher, nn.Module):
        teacher.eval()
    weights = ExitWeights(len(supernet.space.chain.exits), exit_weight)
    step = sandwich_step(
        supernet, weights, random_paths, teacher=teacher, stratified=paths == "stratified", smallest=smallest
    )

    def finish() -> None:
        if refresh_images and epochs and supernet.space.bit_configurations > 1:
            _refresh(supernet, images_and_labels, refresh_images, paths, seed)

    return _fit(supernet, step, images_and_labels, settings, seed, evaluate, on_epoch, folder, progress, finish)


def _refresh(
    supernet: Supernet, images_and_labels: Loader | Split, count: int, paths: str, seed: int, batch_size: int = 64
) -> None:
    """Measures the BatchNorm statistics again, over about ``count`` images."""
    space, device = supernet.space, next(supernet.parameters()).device
    generator = np.random.default_rng(derive(seed, "refreshed paths"))
    longest = max(len(group.choices) for group in space.groups)

    def draw() -> list[dict[str, Bits]]:
        extra = [] if paths == "uniform" else space.stratified(generator, longest)
        return extra + space.covering(generator)

    if isinstance(images_and_labels, Split):
        batches = images_and_labels.batches(batch_size, shuffle_seed=(derive(seed, "refresh"),))
    else:
        batches = loader_batches(images_and_labels)
    first = next(batches)
    wanted = max(count // len(first[0]), 1)
    chosen = itertools.islice(itertools.chain([first], batches), wanted)
    recalibrate_bn(supernet, (images.to(device) for images, _ in chosen), draw)


def distill(
    network: nn.Module,
    images_and_labels: Loader | Split,
    *,
    teacher: nn.Module,
    temperature: float = _RETRAIN.temperature,
    alpha: float = _RETRAIN.alpha,
    epochs: int = _RETRAIN.train.epochs,
    lr: float = _RETRAIN.train.lr,
    momentum: float = _RETRAIN.train.momentum,
    weight_decay: float = _RETRAIN.train.weight_decay,
    warmup_epochs: float = _RETRAIN.train.warmup_epochs,
    clip_norm: float | None = _RETRAIN.train.clip_norm,
    max_steps: int | None = None,
    exit_weight: float = _RETRAIN.exit_weight,
    seed: int = 0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    on_epoch: OnEpoch | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Retrains a network by level-wise knowledge distillation, Eq. (10) of USDN; see `distillation_loss`.

    The arguments that are not listed here are those of `train_supernet`.

    Args:
        network: A module that returns the logits of all its exits, such as a network from `extract`. It is trained in
            place.
        images_and_labels: Batches of training images and labels. They are read again every epoch.
        teacher: A module that returns either logits (B, C), which teach all exits, or the logits of as many exits as
            ``network`` has.
        temperature: T of Eq. (10).
        alpha: Weight of the teacher's term; the term of the labels has weight 1 - alpha.

    Returns:
        The history, with the same columns as that of `train_supernet`.

    Raises:
        UserError, RunError: For the same reasons as in `train_supernet`.
    """
    settings = _settings(epochs, lr, momentum, weight_decay, warmup_epochs, clip_norm, max_steps)
    step = distillation_step(
        network, teacher, weights=_weights(network, exit_weight), temperature=temperature, alpha=alpha,
        alpha_weighs="kd", teacher_exit="same",
    )  # fmt: skip
    return _fit(network, step, images_and_labels, settings, seed, evaluate, on_epoch, folder, progress)


def train(
    network: nn.Module,
    images_and_labels: Loader | Split,
    *,
    epochs: int = _RETRAIN.train.epochs,
    lr: float = _RETRAIN.train.lr,
    momentum: float = _RETRAIN.train.momentum,
    weight_decay: float = _RETRAIN.train.weight_decay,
    warmup_epochs: float = _RETRAIN.train.warmup_epochs,
    clip_norm: float | None = _RETRAIN.train.clip_norm,
    max_steps: int | None = None,
    exit_weight: float = _RETRAIN.exit_weight,
    seed: int = 0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    on_epoch: OnEpoch | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains a network with several exits by cross-entropy alone.

    Arguments and result are those of `distill`, without the teacher, ``temperature`` and ``alpha``.
    """
    settings = _settings(epochs, lr, momentum, weight_decay, warmup_epochs, clip_norm, max_steps)
    step = cross_entropy_step(network, _weights(network, exit_weight))
    return _fit(network, step, images_and_labels, settings, seed, evaluate, on_epoch, folder, progress)


def _settings(
    epochs: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    warmup_epochs: float,
    clip_norm: float | None,
    max_steps: int | None,
) -> TrainConfig:
    given = {
        **{"epochs": epochs, "lr": lr, "momentum": momentum, "weight_decay": weight_decay},
        **{"warmup_epochs": warmup_epochs, "clip_norm": clip_norm, "max_steps": max_steps},
    }
    return validate(TrainConfig, given, where="training")


def _weights(network: nn.Module, exit_weight: float) -> ExitWeights:
    return ExitWeights(len(network.exit_names), exit_weight)  # type: ignore[arg-type]


def _fit(
    network: nn.Module,
    step: Step,
    images_and_labels: Loader | Split,
    settings: TrainConfig,
    seed: int,
    evaluate: Callable[[], dict[str, float]] | None,
    on_epoch: OnEpoch | None,
    folder: Path | str | None,
    progress: bool,
    finish: Callable[[], None] | None = None,
) -> pd.DataFrame:
    from rich.console import Console

    history = fit(
        network,
        step,
        images_and_labels,
        settings,
        seed=(seed,),
        device=next(network.parameters()).device,
        folder=None if folder is None else Path(folder),
        evaluate=evaluate,
        finish=finish,
        on_epoch=on_epoch,
        reporter=Reporter(Console(stderr=True)) if progress else Reporter(),
    )
    return pd.DataFrame(history)
