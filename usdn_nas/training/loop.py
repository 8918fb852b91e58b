"""The training loop: SGD over a split. An interrupted training resumes from its checkpoint, bit for bit."""

from __future__ import annotations

import csv
import io
import math
import time
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from usdn_nas._util.errors import RunError
from usdn_nas._util.files import write_text
from usdn_nas._util.progress import Reporter
from usdn_nas.config import TrainConfig
from usdn_nas.data.loaders import Loader
from usdn_nas.data.splits import Split, generator_for
from usdn_nas.networks.weights import save_weights
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.training.checkpoint import Progress, Watch, load_checkpoint, save_checkpoint
from usdn_nas.training.curves import open_curves, step_sizes
from usdn_nas.training.distributed import mean_step, rank, same_state
from usdn_nas.training.losses import Step
from usdn_nas.training.shares import Plan, planned

__all__ = ["CHECKPOINT", "HISTORY", "WEIGHTS", "fit", "learning_rate"]

SECONDS_BETWEEN_CHECKPOINTS = 20.0
STEPS_BETWEEN_POINTS = 10
"""Steps between two points of the curves of loss and learning rate. All other curves have one point an epoch."""
CHECKPOINT = "checkpoint.pt"
"""Name of the checkpoint. It stays after the training; the caller deletes it once the end of training is recorded."""
HISTORY = "history.csv"
WEIGHTS = "weights.safetensors"


def learning_rate(settings: TrainConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """Returns the learning rate of ``step``.

    After a linear warm-up, the schedule is cosine annealing from ``lr`` to 0 (Loshchilov & Hutter, 2017), or, with
    ``schedule = "step"``, a multiplication by ``decay`` at each milestone.
    """
    warmup = int(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "step":
        return settings.lr * settings.decay ** bisect_right(settings.milestones, step // steps_per_epoch)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _parameter_groups(network: nn.Module, settings: TrainConfig) -> list[dict[str, Any]]:
    """Returns the parameter groups of the optimizer; each group's ``scale`` multiplies the learning rate.

    Weights have weight decay. BatchNorm and biases have none. Step sizes and offsets of quantizers have none either,
    and their learning rate is multiplied by ``step_lr``.
    """
    quantizers = [module for module in network.modules() if isinstance(module, LSQQuantizer)]
    steps = {id(p): p for module in quantizers for p in module.parameters()}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in steps]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay, "scale": 1.0},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "scale": 1.0},
        {"params": list(steps.values()), "weight_decay": 0.0, "scale": settings.step_lr},
    ]
    return [group for group in groups if group["params"]]


def fit(
    network: nn.Module,
    step: Step,
    data: Split | Loader,
    settings: TrainConfig,
    *,
    seed: tuple[int, ...],
    device: torch.device,
    folder: Path | None = None,
    fingerprint: str = "",
    augment: bool = True,
    set_epoch: Callable[[int], None] | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    finish: Callable[[], None] | None = None,
    watch: Watch | None = None,
    reporter: Reporter | None = None,
    title: str = "training",
    tensorboard: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Trains ``network`` in place. With a ``folder``, also writes ``weights.safetensors`` and ``history.csv`` there.

    ``seed`` and the number of the step determine every random path. If ``data`` is a split, they also determine every
    batch and augmentation. So an interrupted training resumes from ``folder/checkpoint.pt`` and ends with the same
    weights as an uninterrupted one. A loader decides about its order and augmentation itself; a training on a loader
    resumes at the same step, but not necessarily with the same images.

    If torch's default process group has several processes, all of them must call this function with the same arguments.
    All end with the same weights, equal to those of one process that runs all micro-batches. Only rank 0 evaluates and
    writes files.

    Args:
        step: Function that adds the gradients of one micro-batch and returns its loss. It is called once for each
            micro-batch of a step; the generators passed to these calls draw the same paths.
        fingerprint: Digest of settings and inputs. A checkpoint with another fingerprint is refused.
        set_epoch: Called before every step with the number of the epoch, from 0.
        evaluate: Called by rank 0 after every epoch. Its figures go into the history.
        finish: Called by rank 0 at the end. A training that is killed during this call resumes from its last
            checkpoint.
        watch: Observer that is called after every step. The checkpoint holds its state.
        tensorboard: Write curves for TensorBoard into ``folder``.
        on_epoch: Called by rank 0 after every epoch, with the epoch's row of the history.

    Returns:
        The history with one row an epoch: ``epoch``, ``step``, ``loss``, ``lr``, ``seconds``, ``images_per_second`` and
        the figures of ``evaluate``.

    Raises:
        UserError: The checkpoint is damaged or belongs to other settings, or a batch cannot be shared evenly.
        RunError: The loss is no longer finite, or another process has ended.
    """
    reporter = reporter or Reporter()
    plan, shares = planned(data, settings, seed, augment)
    leads = rank() == 0
    optimizer = torch.optim.SGD(
        _parameter_groups(network, settings), lr=settings.lr, momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
    )  # fmt: skip
    per_epoch, steps = plan.per_epoch, plan.steps
    at = Progress()
    checkpoint = None if folder is None else folder / CHECKPOINT
    if leads and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(
            checkpoint, network, optimizer, at, fingerprint, watch, steps=plan.steps, per_epoch=plan.per_epoch
        )
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
        for share in shares(at.step):
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
                raise RunError(
                    f"{title}: loss is {loss} at step {at.step} of {steps}; "
                    f"take a lower learning rate (now {settings.lr:g})"
                )
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            if watch is not None:
                watch.after_step()
            at.step += 1
            at.loss_sum += loss
            at.loss_count += 1
            at.seconds = before + time.monotonic() - resumed
            if at.step % STEPS_BETWEEN_POINTS == 0:
                curves.add("step", {"loss": loss, "lr": optimizer.param_groups[0]["lr"]}, at.step)
            if leads and (at.step % per_epoch == 0 or at.step == steps):
                _end_epoch(at, settings, plan, evaluate, folder)
                if on_epoch is not None:
                    on_epoch(dict(at.history[-1]))
                reporter.detail(f"{title}: {', '.join(f'{k} {v:.6g}' for k, v in at.history[-1].items())}")
                curves.add("epoch", {k: v for k, v in at.history[-1].items() if k not in ("epoch", "step")}, at.step)
                if curves.wanted:
                    curves.add("step_size", step_sizes(network), at.step)
                network.train()
            if leads and checkpoint is not None and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                curves.flush()
                save_checkpoint(checkpoint, network, optimizer, at, fingerprint, watch)
                saved = time.monotonic()
            task.advance(_note(at))
    if leads:
        if folder is not None:
            save_weights(network, folder / WEIGHTS)
        if finish is not None:
            finish()
    return at.history


def _run(step: Step, images: torch.Tensor, labels: torch.Tensor, seed: tuple[int, ...], number: int) -> float:
    """Runs micro-batch ``number`` of the step that ``seed`` identifies.

    All micro-batches of a step draw the same paths, but each has its own dropout.
    """
    torch.manual_seed(int(generator_for(seed, number).integers(2**63)))
    return step(images, labels, np.random.default_rng(seed))


def _end_epoch(
    at: Progress,
    settings: TrainConfig,
    plan: Plan,
    evaluate: Callable[[], dict[str, float]] | None,
    folder: Path | None,
) -> None:
    at.history.append(
        {
            "epoch": math.ceil(at.step / plan.per_epoch),
            "step": at.step,
            "loss": at.loss_sum / at.loss_count,
            "lr": learning_rate(settings, at.step - 1, plan.steps, plan.per_epoch),
            "seconds": round(at.seconds, 2),
            "images_per_second": round(at.step * plan.size * plan.micro_batches / max(at.seconds, 1e-9), 1),
            **(_evaluated(evaluate, at.step, plan.steps) if evaluate else {}),
        }
    )
    at.loss_sum, at.loss_count = 0.0, 0
    if folder is None:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(at.history[0]))
    writer.writeheader()
    writer.writerows(at.history)
    write_text(folder / HISTORY, text.getvalue())


def _evaluated(evaluate: Callable[[], dict[str, float]], step: int, steps: int) -> dict[str, float]:
    """Returns the figures of ``evaluate``; if it fails, the error names the step.

    Raises:
        RunError: The network has diverged.
    """
    try:
        return evaluate()
    except RunError as error:
        raise RunError(f"after step {step} of {steps}: {error}") from None


def _note(at: Progress) -> str:
    last = at.history[-1] if at.history else {}
    final = [f"{key.removeprefix('accuracy_')} {value:.3f}" for key, value in last.items() if "_final" in key]
    loss = at.loss_sum / at.loss_count if at.loss_count else last.get("loss", math.nan)
    return "  ".join([f"loss {loss:.3f}", *final])
