"""The one training loop: SGD over a split, with a checkpoint from which it goes on bit for bit."""

from __future__ import annotations

import csv
import io
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from usdn_nas.config import TrainConfig
from usdn_nas.errors import RunError, UserError
from usdn_nas.files import atomic_path, write_text
from usdn_nas.networks.weights import save_weights
from usdn_nas.progress import Reporter
from usdn_nas.quant.quantizers import LearnedStep
from usdn_nas.training.losses import Step

if TYPE_CHECKING:
    from usdn_nas.data import Split

__all__ = ["HISTORY", "WEIGHTS", "fit", "learning_rate"]

SECONDS_BETWEEN_CHECKPOINTS = 20.0
CHECKPOINT = "checkpoint.pt"
"""Stays when the training is finished: who started it removes it once that is recorded."""
HISTORY = "history.csv"
WEIGHTS = "weights.safetensors"


def learning_rate(settings: TrainConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """Cosine annealing from ``lr`` to 0 (Loshchilov & Hutter, 2017), or steps down; after a linear warm-up."""
    warmup = int(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "step":
        return settings.lr * settings.decay ** bisect_right(settings.milestones, step // steps_per_epoch)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _parameter_groups(network: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Weights decay; BatchNorm and biases do not; step sizes and offsets do not and have a learning rate of their own.

    ``scale`` multiplies the learning rate of a group.
    """
    quantizers = [module for module in network.modules() if isinstance(module, LearnedStep)]
    steps = {id(p): p for module in quantizers for p in module.parameters()}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in steps]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay, "scale": 1.0},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "scale": 1.0},
        {"params": list(steps.values()), "weight_decay": 0.0, "scale": settings.step_lr},
    ]
    return [group for group in groups if group["params"]]


class _Progress:
    """Where a training stands: everything that a resumed one needs beside the weights."""

    def __init__(self) -> None:
        self.step = 0
        self.loss_sum = 0.0
        self.loss_count = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []


def _save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, at: _Progress, fingerprint: str) -> None:
    with atomic_path(path) as temporary:
        torch.save(
            {
                "schema": "usdn-nas/checkpoint/1",
                "fingerprint": fingerprint,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": vars(at),
            },
            temporary,
        )


def _load(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, at: _Progress, fingerprint: str) -> None:
    remedy = "delete it to train this stage anew"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state.get("fingerprint") != fingerprint:
            raise UserError("checkpoint of other settings or data", where=path, remedy=remedy)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        vars(at).update(state["progress"])
    except UserError:
        raise
    except Exception:  # torch.load raises whatever the damage leads to, IndexError and OSError among others
        raise UserError(
            "expected a whole checkpoint, got a truncated or foreign file", where=path, remedy=remedy
        ) from None


def fit(
    network: nn.Module,
    step: Step,
    split: Split,
    settings: TrainConfig,
    *,
    seed: tuple[int, ...],
    folder: Path,
    fingerprint: str,
    device: torch.device,
    augment: bool = True,
    set_epoch: Callable[[int], None] | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    finish: Callable[[], None] | None = None,
    reporter: Reporter | None = None,
    title: str = "training",
) -> None:
    """Trains ``network`` in place and writes ``weights.safetensors`` and ``history.csv`` into ``folder``.

    Every batch, augmentation and random path is a function of ``seed`` and the number of the step, so that a
    training that was killed goes on from ``folder/checkpoint.pt`` and ends with the weights of an uninterrupted one.

    Args:
        step: Adds the gradients of one batch and returns its loss.
        fingerprint: Digest of settings and inputs; a checkpoint with another one is refused.
        set_epoch: Told the number of the epoch, from 0, before every step.
        evaluate: Called after every epoch; its figures go into the history.
        finish: Called at the end; killed in it, a training goes on from its last checkpoint, not from its start.

    Raises:
        UserError: The checkpoint is truncated or belongs to other settings.
        RunError: The loss is no longer finite.
    """
    reporter = reporter or Reporter()
    optimizer = torch.optim.SGD(
        _parameter_groups(network, settings), lr=settings.lr, momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
    )  # fmt: skip
    per_epoch = max(split.num_batches(settings.batch_size, drop_last=True), 1)
    steps = min(settings.epochs * per_epoch, settings.max_steps or math.inf)
    steps = int(steps)
    at = _Progress()
    checkpoint = folder / CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        _load(checkpoint, network, optimizer, at, fingerprint)
        reporter.say(f"{title}: goes on from step {at.step} of {steps}")
    saved = resumed = time.monotonic()
    before = at.seconds
    network.train()
    with reporter.task(title, steps, at.step) as task:
        for images, labels in _batches(split, settings.batch_size, seed, at.step, steps, per_epoch, augment):
            if set_epoch is not None:
                set_epoch(at.step // per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * learning_rate(settings, at.step, steps, per_epoch)
            optimizer.zero_grad(set_to_none=True)
            generator = np.random.default_rng([*seed, at.step])
            loss = step(images.to(device), labels.to(device), generator)
            if not math.isfinite(loss):
                raise RunError(f"{title}: loss is {loss} at step {at.step}; a lower learning rate may help")
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            at.step += 1
            at.loss_sum += loss
            at.loss_count += 1
            at.seconds = before + time.monotonic() - resumed
            if at.step % per_epoch == 0 or at.step == steps:
                _end_epoch(at, settings, steps, per_epoch, evaluate, folder)
                network.train()
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(checkpoint, network, optimizer, at, fingerprint)
                saved = time.monotonic()
            task.advance(_note(at))
    save_weights(network, folder / WEIGHTS)
    if finish is not None:
        finish()


def _batches(
    split: Split, batch_size: int, seed: tuple[int, ...], first: int, steps: int, per_epoch: int, augment: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of steps ``first`` to ``steps`` - 1, in an order drawn anew each epoch."""
    drop_last = len(split) >= batch_size
    at = first
    while at < steps:
        epoch, start = divmod(at, per_epoch)
        for batch in split.batches(
            batch_size, shuffle_seed=(*seed, epoch), augment=augment, start=start, drop_last=drop_last
        ):
            yield batch
            at += 1
            if at == steps:
                return


def _end_epoch(
    at: _Progress,
    settings: TrainConfig,
    steps: int,
    per_epoch: int,
    evaluate: Callable[[], dict[str, float]] | None,
    folder: Path,
) -> None:
    at.history.append(
        {
            "epoch": math.ceil(at.step / per_epoch),
            "step": at.step,
            "loss": at.loss_sum / at.loss_count,
            "lr": learning_rate(settings, at.step - 1, steps, per_epoch),
            "seconds": round(at.seconds, 2),
            "images_per_second": round(at.step * settings.batch_size / max(at.seconds, 1e-9), 1),
            **(evaluate() if evaluate else {}),
        }
    )
    at.loss_sum, at.loss_count = 0.0, 0
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(at.history[0]))
    writer.writeheader()
    writer.writerows(at.history)
    write_text(folder / HISTORY, text.getvalue())


def _note(at: _Progress) -> str:
    last = at.history[-1] if at.history else {}
    final = [f"{key.removeprefix('accuracy_')} {value:.3f}" for key, value in last.items() if "_final" in key]
    loss = at.loss_sum / at.loss_count if at.loss_count else last.get("loss", math.nan)
    return "  ".join([f"loss {loss:.3f}", *final])
