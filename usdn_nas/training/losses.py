"""Training objectives over all exits: cross-entropy, Eq. (10), the sandwich rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from usdn_nas.architecture import Bits
from usdn_nas.networks.chain import State
from usdn_nas.quant.supernet import Supernet

__all__ = [
    "ExitWeights",
    "Step",
    "Teacher",
    "cross_entropy_step",
    "distillation_loss",
    "distillation_step",
    "sandwich_step",
]

Teacher = Callable[[Tensor], Sequence[Tensor]]
"""Images -> logits of all exits, E tensors (B, C), constants."""

Step = Callable[[Tensor, Tensor, np.random.Generator], float]
"""(images, labels, generator) -> loss, having added its gradients."""


class ExitWeights(Sequence[float]):
    """Weights of ``count`` exits' losses in this epoch: ``weight`` for each internal classifier, 1 for the final exit.

    Args:
        ramp: ``"sdn"``: an internal classifier's is multiplied by SDN's tau_i = min(m_i, .01 + e m_i / ``epochs``),
            e = 1, 2 ... the epoch and m_i evenly spaced from .15 to .9 (Kaya et al., 2019, and their code, where there
            are six of them, after about 15, 30 ... 90% of the cost).
        epochs: Over which it rises.
    """

    def __init__(
        self, count: int, weight: float, ramp: Literal["constant", "sdn"] = "constant", epochs: int = 1
    ) -> None:
        self.most = [weight] * (count - 1)
        self.tau = np.linspace(0.15, 0.9, count - 1) if ramp == "sdn" else None
        self.epochs = max(epochs, 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the weights of epoch number ``epoch``, from 0."""
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
    """sum_i w_i CE(z_i, y)."""
    return torch.stack([w * F.cross_entropy(z, labels) for w, z in zip(weights, logits, strict=True)]).sum()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(z / T)), mean over the batch; logits (B, C)."""
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
    """Level-wise knowledge distillation, Eq. (10) of USDN (our reading; the supplement gives T = 2, alpha = 0.3).

    sum_i w_i [(1 - alpha) CE(z_i, y) + alpha T^2 KL(softmax(t_i / T) || softmax(z_i / T))].

    Args:
        logits: E student logits (B, C).
        teacher: E teacher logits (B, C), constants.
        labels: (B,).
        alpha_weighs: Which of the two terms alpha multiplies; the other has 1 - alpha.
    """
    kd = alpha if alpha_weighs == "kd" else 1 - alpha
    terms = [
        w * ((1 - kd) * F.cross_entropy(z, labels) + kd * divergence(z, t, temperature))
        for w, z, t in zip(weights, logits, teacher, strict=True)
    ]
    return torch.stack(terms).sum()


def cross_entropy_step(network: nn.Module, weights: Sequence[float]) -> Step:
    """A step on `cross_entropy`."""

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
    """A step on `distillation_loss`; the teacher stays in evaluation mode."""
    teacher.eval()

    def step(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        with torch.no_grad():
            soft = teacher(images)
        if teacher_exit == "final":
            soft = [soft[-1]] * len(soft)
        loss = distillation_loss(
            network(images), soft, labels, weights=weights, temperature=temperature, alpha=alpha,
            alpha_weighs=alpha_weighs,
        )  # fmt: skip
        loss.backward()
        return float(loss.detach())

    return step


def sandwich_step(
    supernet: Supernet,
    weights: Sequence[float],
    random_paths: int,
    *,
    teacher: Teacher | None = None,
    stratified: bool = False,
    smallest: bool = False,
) -> Step:
    """A step by the sandwich rule (Yu & Huang, 2019) on bit-widths: several configurations, whose gradients add up.

    These are the largest, ``random_paths`` random ones and, if asked for, the smallest. Each learns, exit by exit, half
    from the labels and half from the soft labels of ``teacher``, a `FrozenNetwork` for example. Without one the
    largest learns from the labels alone and is the teacher of the others, step by step (in-place distillation). A space
    with one configuration learns from the labels alone. The loss returned is that of the largest, NaN where any is not
    finite. Segments that all configurations have in common run once.

    Args:
        stratified: Random paths are `SearchSpace.stratified`; else `SearchSpace.sample`.
    """
    space = supernet.space
    least = space.choice_bits([0] * len(space.groups))
    largest = space.choice_bits([len(group.choices) - 1 for group in space.groups])

    def others(generator: np.random.Generator) -> list[dict[str, Bits]]:
        if least == largest:
            return []
        if stratified:
            drawn = space.stratified(generator, random_paths)
        else:
            drawn = [space.sample(generator) for _ in range(random_paths)]
        return [least] * smallest + drawn

    def distilled(logits: Sequence[Tensor], soft: Sequence[Tensor], labels: Tensor) -> Tensor:
        return distillation_loss(logits, soft, labels, weights=weights, temperature=1.0, alpha=0.5)

    def step(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        supernet.set_bits(largest)
        beginning = _Beginning(supernet, images)
        logits = beginning.go_on()
        soft: Sequence[Tensor]
        if teacher is None or least == largest:
            soft = [z.detach() for z in logits]
            loss = cross_entropy(logits, labels, weights)
        else:
            with torch.no_grad():
                soft = teacher(images)
            loss = distilled(logits, soft, labels)
        loss.backward()
        finite = True
        for bits in others(generator):
            supernet.set_bits(bits)
            path_loss = distilled(beginning.go_on(), soft, labels)
            path_loss.backward()
            finite = finite and math.isfinite(path_loss.item())
        beginning.backward()
        return loss.item() if finite else math.nan

    return step


class _Beginning:
    """The segments that all configurations share, run once; the gradients that the paths leave at their end add up."""

    def __init__(self, supernet: Supernet, images: Tensor) -> None:
        self.chain, self.length = supernet.chain, supernet.shared_segments
        self.end: State = (images,)
        for index in range(self.length):
            self.end = self.chain.run_segment(index, self.end)
        self.starts = tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.end)

    def go_on(self) -> tuple[Tensor, ...]:
        """Logits of all exits at the bits set now."""
        # Copies: a segment may change what it is given.
        return self.chain.run_from(self.length, tuple(tensor.clone() for tensor in self.starts))

    def backward(self) -> None:
        """Adds the gradients of the shared segments."""
        pairs = [(end, start.grad) for end, start in zip(self.end, self.starts, strict=True) if start.grad is not None]
        if pairs:
            torch.autograd.backward([end for end, _ in pairs], [gradient for _, gradient in pairs])
