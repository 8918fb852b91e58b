"""Training objectives over all exits: cross-entropy, distillation (Eq. (10) of USDN) and the sandwich rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from usdn_nas.networks.chain import State
from usdn_nas.quant.supernet import Supernet

__all__ = [
    "ExitWeights",
    "Step",
    "Teacher",
    "cross_entropy_step",
    "distillation_loss",
    "distillation_step",
    "sandwich",
    "sandwich_step",
    "soft_labels",
]

Teacher = Callable[[Tensor], Sequence[Tensor]]
"""Function that maps images to the logits of all exits: E tensors (B, C), treated as constants."""

Step = Callable[[Tensor, Tensor, np.random.Generator], float]
"""Function of (images, labels, generator) that adds the gradients of the loss and returns the loss."""


class ExitWeights(Sequence[float]):
    """Weights of the losses of ``count`` exits in the current epoch.

    Each internal classifier has weight ``weight``; the final exit has weight 1.

    Args:
        ramp: With ``"sdn"``, the weight of internal classifier i is multiplied by SDN's tau_i = min(m_i,
            0.01 + e m_i / ``epochs``). Here e = 1, 2 ... is the epoch, and the m_i are evenly spaced from 0.15 to 0.9.
            This follows Kaya et al. (2019) and their code, which places six classifiers after about 15, 30 ... 90% of
            the cost.
        epochs: Number of epochs over which the factor rises.
    """

    def __init__(
        self, count: int, weight: float, ramp: Literal["constant", "sdn"] = "constant", epochs: int = 1
    ) -> None:
        self.most = [weight] * (count - 1)
        self.tau = np.linspace(0.15, 0.9, count - 1) if ramp == "sdn" else None
        self.epochs = max(epochs, 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the weights for epoch number ``epoch``, counted from 0."""
        now = self.most
        if self.tau is not None:
            tau = np.minimum(self.tau, 0.01 + (epoch + 1) * self.tau / self.epochs)
            now = [w * t for w, t in zip(self.most, tau.tolist(), strict=True)]
        self.now = [*now, 1.0]

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        return self.now[index]

    def __len__(self) -> int:
        return len(self.now)


def cross_entropy(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Returns the weighted cross-entropy over all exits, sum_i w_i CE(z_i, y)."""
    return torch.stack([w * F.cross_entropy(z, labels) for w, z in zip(weights, logits, strict=True)]).sum()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns T^2 KL(softmax(t / T) || softmax(z / T)), averaged over the batch, for logits (B, C)."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def distillation_loss(
    logits: Sequence[Tensor],
    teacher: Sequence[Tensor],
    labels: Tensor,
    *,
    weights: Sequence[float],
    temperature: float,
    alpha: float,
    alpha_weighs: Literal["kd", "ce"] = "kd",
) -> Tensor:
    """Returns the loss of level-wise knowledge distillation, Eq. (10) of USDN.

    The loss is sum_i w_i [(1 - alpha) CE(z_i, y) + alpha T^2 KL(softmax(t_i / T) || softmax(z_i / T))]. This is our
    reading of the equation; the supplement gives T = 2 and alpha = 0.3.

    Args:
        logits: Student logits of the E exits, (B, C) each.
        teacher: Teacher logits of the E exits, (B, C) each, treated as constants.
        labels: True classes (B,).
        alpha_weighs: Which of the two terms alpha multiplies; the other term has weight 1 - alpha.
    """
    kd = alpha if alpha_weighs == "kd" else 1 - alpha
    terms = [
        w * ((1 - kd) * F.cross_entropy(z, labels) + kd * divergence(z, t, temperature))
        for w, z, t in zip(weights, logits, teacher, strict=True)
    ]
    return torch.stack(terms).sum()


def cross_entropy_step(network: nn.Module, weights: Sequence[float]) -> Step:
    """Returns a step that adds the gradients of `cross_entropy`."""

    def step(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        loss = cross_entropy(network(images), labels, weights)
        loss.backward()
        return float(loss.detach())

    return step


def distillation_step(
    network: nn.Module,
    teacher: nn.Module,
    *,
    weights: Sequence[float],
    temperature: float,
    alpha: float,
    alpha_weighs: Literal["kd", "ce"],
    teacher_exit: Literal["same", "final"],
) -> Step:
    """Returns a step that adds the gradients of `distillation_loss`.

    The teacher is put into evaluation mode. A teacher with one output teaches all exits.
    """
    teacher.eval()

    def step(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        logits = network(images)
        soft = soft_labels(teacher, images, len(logits))
        if teacher_exit == "final":
            soft = [soft[-1]] * len(soft)
        loss = distillation_loss(
            logits, soft, labels, weights=weights, temperature=temperature, alpha=alpha,
            alpha_weighs=alpha_weighs,
        )  # fmt: skip
        loss.backward()
        return float(loss.detach())

    return step


def sandwich(
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    *,
    weights: Sequence[float] | None = None,
    teacher: Teacher | nn.Module | None = None,
    random_paths: int = 3,
    stratified: bool = True,
    smallest: bool = False,
    generator: np.random.Generator | None = None,
    forward: Callable[[], Sequence[Tensor]] | None = None,
) -> Iterator[Tensor]:
    """Yields the losses of one step by the sandwich rule (Yu & Huang, 2019), one for each bit configuration.

    The configurations are the largest, ``random_paths`` random ones and, with ``smallest``, the smallest. The supernet
    is switched before each loss, so call ``backward()`` on each loss before taking the next. The gradients add up:

        for loss in sandwich(supernet, images, labels, teacher=teacher):
            loss.backward()

    At each exit, every configuration learns half from the labels and half from the teacher's soft labels. Without a
    teacher, the largest configuration learns from the labels alone and teaches the others (in-place distillation). If
    the space has one configuration only, it learns from the labels alone.

    Args:
        supernet: The supernet, in training mode.
        images: Normalized images (B, C, H, W).
        labels: True classes (B,).
        weights: Weight of each exit's loss; None: 1 each.
        teacher: Returns the logits of all exits, or of the final exit alone, which then teaches all exits. It is called
            without gradients; a module should be in evaluation mode.
        random_paths: Number of random configurations.
        stratified: Draw the random configurations by `SearchSpace.stratified`, which favours neither cheap nor
            expensive ones. Otherwise draw the bits of every group independently.
        smallest: Add the smallest configuration.
        generator: Random generator for the configurations; None: a new one.
        forward: Returns the logits of all exits at the current bits; None: the supernet is run on ``images``.
    """
    space = supernet.space
    weights = [1.0] * len(space.chain.exits) if weights is None else weights
    run: Callable[[], Sequence[Tensor]] = (lambda: supernet(images)) if forward is None else forward
    least = space.choice_bits([0] * len(space.groups))
    largest = space.choice_bits([len(group.choices) - 1 for group in space.groups])
    supernet.set_bits(largest)
    logits = run()
    if teacher is None or least == largest:
        soft = [z.detach() for z in logits]
        yield cross_entropy(logits, labels, weights)
    else:
        soft = soft_labels(teacher, images, len(logits))
        yield _half_distilled(logits, soft, labels, weights)
    if least == largest:
        return
    generator = np.random.default_rng() if generator is None else generator
    drawn = (
        space.stratified(generator, random_paths)
        if stratified
        else [space.sample(generator) for _ in range(random_paths)]
    )
    for bits in [least] * smallest + drawn:
        supernet.set_bits(bits)
        yield _half_distilled(run(), soft, labels, weights)


def _half_distilled(
    logits: Sequence[Tensor], soft: Sequence[Tensor], labels: Tensor, weights: Sequence[float]
) -> Tensor:
    return distillation_loss(logits, soft, labels, weights=weights, temperature=1.0, alpha=0.5)


def soft_labels(teacher: Teacher | nn.Module, images: Tensor, exits: int) -> list[Tensor]:
    """Returns a teacher's logits for each of ``exits`` exits, (B, C) each, without gradients.

    A teacher with one output, such as a plain classifier, gives all exits the same logits.

    Raises:
        ValueError: The teacher has neither 1 nor ``exits`` outputs.
    """
    with torch.no_grad():
        found = teacher(images)
    logits = [found] if isinstance(found, Tensor) else list(found)
    if len(logits) == 1:
        return logits * exits
    if len(logits) != exits:
        raise ValueError(f"expected a teacher with 1 or {exits} outputs, got {len(logits)}")
    return logits


def sandwich_step(
    supernet: Supernet,
    weights: Sequence[float],
    random_paths: int,
    *,
    teacher: Teacher | nn.Module | None = None,
    stratified: bool = False,
    smallest: bool = False,
) -> Step:
    """Returns a step that adds up the gradients of all losses of `sandwich`.

    Segments that all configurations share run only once. The step returns the loss of the largest configuration, or NaN
    if any loss is not finite.
    """

    def step(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        beginning = _Beginning(supernet, images)
        losses = sandwich(
            supernet, images, labels, weights=weights, teacher=teacher, random_paths=random_paths,
            stratified=stratified, smallest=smallest, generator=generator, forward=beginning.go_on,
        )  # fmt: skip
        values = []
        for loss in losses:
            loss.backward()
            values.append(loss.item())
        beginning.backward()
        return values[0] if all(map(math.isfinite, values)) else math.nan

    return step


class _Beginning:
    """Runs the first segments, which all configurations share, once for all paths.

    The gradients of all paths add up at the end of these segments; `backward` then passes them through the segments.
    """

    def __init__(self, supernet: Supernet, images: Tensor) -> None:
        space = supernet.space
        # Any choice of bits will do here, because the shared segments have fixed bits.
        supernet.set_bits(space.choice_bits([0] * len(space.groups)))
        self.chain, self.length = supernet.chain, supernet.shared_segments
        self.end: State = (images,)
        for index in range(self.length):
            self.end = self.chain.run_segment(index, self.end)
        self.starts = tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.end)

    def go_on(self) -> tuple[Tensor, ...]:
        """Returns the logits of all exits at the current bits of the supernet."""
        # The tensors are copied because a segment may change its inputs in place.
        return self.chain.run_from(self.length, tuple(tensor.clone() for tensor in self.starts))

    def backward(self) -> None:
        """Adds the gradients of the parameters of the shared segments."""
        pairs = [(end, start.grad) for end, start in zip(self.end, self.starts, strict=True) if start.grad is not None]
        if pairs:
            torch.autograd.backward([end for end, _ in pairs], [gradient for _, gradient in pairs])
