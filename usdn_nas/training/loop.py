"""The one training loop: SGD over a split, with a checkpoint from which it goes on bit for bit."""

from __future__ import annotations

import csv
import io
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from usdn_nas.config import TrainConfig
from usdn_nas.data.splits import Split, generator_for
from usdn_nas.errors import RunError, UserError
from usdn_nas.files import atomic_path, write_text
from usdn_nas.networks.weights import save_weights
from usdn_nas.progress import Reporter
from usdn_nas.quant.quantizers import LearnedStep
from usdn_nas.training.curves import open_curves, step_sizes
from usdn_nas.training.distributed import mean_step, micro_batches, processes, rank, same_state
from usdn_nas.training.losses import Step

__all__ = ["HISTORY", "WEIGHTS", "fit", "learning_rate"]

SECONDS_BETWEEN_CHECKPOINTS = 20.0
STEPS_BETWEEN_POINTS = 10
"""Of the curves of loss and learning rate; all others have a point an epoch."""
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
    tensorboard: bool = False,
) -> None:
    """Trains ``network`` in place and writes ``weights.safetensors`` and ``history.csv`` into ``folder``.

    Every batch, augmentation and random path is a function of ``seed`` and the number of the step, so that a
    training that was killed goes on from ``folder/checkpoint.pt`` and ends with the weights of an uninterrupted one.

    Where torch's default process group has several processes, all of them call this with the same arguments, and end
    with the same weights: those of one process that runs all micro-batches. Rank 0 alone evaluates and writes files.

    Args:
        step: Adds the gradients of one micro-batch and returns its loss; called for each of a step's, with generators
            that draw the same paths.
        fingerprint: Digest of settings and inputs; a checkpoint with another one is refused.
        set_epoch: Told the number of the epoch, from 0, before every step.
        evaluate: Called after every epoch, by rank 0; its figures go into the history.
        finish: Called at the end, by rank 0; killed in it, a training goes on from its last checkpoint, not from its
            start.
        tensorboard: Write curves into ``folder``, as TensorBoard reads them.

    Raises:
        UserError: The checkpoint is truncated or belongs to other settings, or a batch cannot be shared evenly.
        RunError: The loss is no longer finite, or another process is gone.
    """
    reporter = reporter or Reporter()
    plan = _Plan.of(split, settings)
    leads = rank() == 0
    optimizer = torch.optim.SGD(
        _parameter_groups(network, settings), lr=settings.lr, momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
    )  # fmt: skip
    per_epoch, steps = plan.per_epoch, plan.steps
    at = _Progress()
    checkpoint = folder / CHECKPOINT
    if leads:
        folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        _load(checkpoint, network, optimizer, at, fingerprint)
        reporter.say(f"{title}: goes on from step {at.step} of {steps}")
    same_state(network, at.step)
    saved = resumed = time.monotonic()
    before = at.seconds
    network.train()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        open_curves(folder if tensorboard and leads else None, at.step + 1) as curves,
        reporter.task(title, steps, at.step) as task,
    ):
        for share in _shares(split, plan, seed, at.step, augment):
            if set_epoch is not None:
                set_epoch(at.step // per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * learning_rate(settings, at.step, steps, per_epoch)
            optimizer.zero_grad(set_to_none=True)
            runs = (
                partial(_run, step, images.to(device), labels.to(device), (*seed, at.step), number)
                for number, (images, labels) in share
            )
            loss = mean_step(network, runs, plan.micro_batches)
            if not math.isfinite(loss):
                raise RunError(f"{title}: loss is {loss} at step {at.step}; a lower learning rate may help")
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            at.step += 1
            at.loss_sum += loss
            at.loss_count += 1
            at.seconds = before + time.monotonic() - resumed
            if at.step % STEPS_BETWEEN_POINTS == 0:
                curves.add("step", {"loss": loss, "lr": optimizer.param_groups[0]["lr"]}, at.step)
            if leads and (at.step % per_epoch == 0 or at.step == steps):
                _end_epoch(at, settings, plan, evaluate, folder)
                reporter.detail(f"{title}: {', '.join(f'{k} {v:.6g}' for k, v in at.history[-1].items())}")
                curves.add("epoch", {k: v for k, v in at.history[-1].items() if k not in ("epoch", "step")}, at.step)
                if curves.wanted:
                    curves.add("step_size", step_sizes(network), at.step)
                network.train()
            if leads and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                curves.flush()
                _save(checkpoint, network, optimizer, at, fingerprint)
                saved = time.monotonic()
            task.advance(_note(at))
    if leads:
        save_weights(network, folder / WEIGHTS)
        if finish is not None:
            finish()


@dataclass(frozen=True)
class _Plan:
    """How images come to steps.

    Attributes:
        micro_batches: Of a step, over all processes.
        size: Images in each.
        per_epoch: Steps.
        steps: Of the whole training.
    """

    micro_batches: int
    size: int
    per_epoch: int
    steps: int

    @classmethod
    def of(cls, split: Split, settings: TrainConfig) -> _Plan:
        """A split smaller than a batch is used whole, or as much of it as can be shared evenly.

        Raises:
            UserError: It has fewer images than a step has micro-batches, or these cannot be shared evenly.
        """
        count = micro_batches(settings)
        size = min(settings.batch_size, len(split)) // count
        if size == 0:
            raise UserError(f"{len(split)} training images cannot be shared by {count} micro-batches")
        per_epoch = len(split) // (size * count)
        steps = settings.epochs * per_epoch
        return cls(count, size, per_epoch, min(steps, settings.max_steps or steps))


Share = Iterator[tuple[int, tuple[torch.Tensor, torch.Tensor]]]
"""The micro-batches of a step that fall to this process, each with its number in the step."""


def _shares(split: Split, plan: _Plan, seed: tuple[int, ...], first: int, augment: bool) -> Iterator[Share]:
    """The shares of steps ``first`` and later, each to be used up before the next; the order is drawn anew each epoch.

    Micro-batches are numbered through an epoch, so that it makes no difference to a micro-batch who runs it.
    """
    numbers = range(rank(), plan.micro_batches, processes())
    at = first
    while at < plan.steps:
        epoch, start = divmod(at, plan.per_epoch)
        batches = split.batches(
            plan.size, shuffle_seed=(*seed, epoch), augment=augment, start=start * plan.micro_batches + rank(),
            stride=processes(), drop_last=True,
        )  # fmt: skip
        count = min(plan.per_epoch - start, plan.steps - at)
        for _ in range(count):
            yield zip(numbers, batches, strict=False)  # takes no batch more than there are numbers
        at += count


def _run(step: Step, images: torch.Tensor, labels: torch.Tensor, seed: tuple[int, ...], number: int) -> float:
    """Micro-batch ``number`` of the step that ``seed`` tells: the paths of all are the same, dropout is not."""
    torch.manual_seed(int(generator_for(seed, number).integers(2**63)))
    return step(images, labels, np.random.default_rng(seed))


def _end_epoch(
    at: _Progress,
    settings: TrainConfig,
    plan: _Plan,
    evaluate: Callable[[], dict[str, float]] | None,
    folder: Path,
) -> None:
    at.history.append(
        {
            "epoch": math.ceil(at.step / plan.per_epoch),
            "step": at.step,
            "loss": at.loss_sum / at.loss_count,
            "lr": learning_rate(settings, at.step - 1, plan.steps, plan.per_epoch),
            "seconds": round(at.seconds, 2),
            "images_per_second": round(at.step * plan.size * plan.micro_batches / max(at.seconds, 1e-9), 1),
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
