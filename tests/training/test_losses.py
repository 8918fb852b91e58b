"""Training objectives next to NumPy and to gradients computed one by one."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import nets
from usdn_nas.quant.supernet import Supernet
from usdn_nas.training.losses import (
    ExitWeights,
    cross_entropy,
    cross_entropy_step,
    distillation_loss,
    distillation_step,
    divergence,
    sandwich_step,
)


def softmax(z: np.ndarray) -> np.ndarray:
    raised = np.exp(z - z.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def eq_10(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    weights: list[float],
    temperature: float,
    kd_share: float,
    ce_share: float,
) -> float:
    """Sum over exits of w [ce_share CE + kd_share T^2 KL(teacher || student)], (E, B, C) logits."""
    total = 0.0
    for w, z, t in zip(weights, student, teacher, strict=True):
        ce = -np.log(softmax(z)[np.arange(len(labels)), labels]).mean()
        p, q = softmax(t / temperature), softmax(z / temperature)
        kl = (p * np.log(p / q)).sum(axis=1).mean()
        total += w * (ce_share * ce + kd_share * temperature**2 * kl)
    return total


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(0, 3, (3, 8, 5)), generator.normal(0, 3, (3, 8, 5)), generator.integers(5, size=8)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighs", ["kd", "ce"])
def test_distillation_loss_is_eq_10(logits, temperature: float, alpha: float, weighs: str) -> None:
    student, teacher, labels = logits
    weights = [0.5, 0.25, 1.0]
    kd_share, ce_share = (alpha, 1 - alpha) if weighs == "kd" else (1 - alpha, alpha)
    ours = distillation_loss(
        list(torch.from_numpy(student)),
        list(torch.from_numpy(teacher)),
        torch.from_numpy(labels),
        weights=weights,
        temperature=temperature,
        alpha=alpha,
        alpha_weighs=weighs,
    )
    expected = eq_10(student, teacher, labels, weights, temperature, kd_share, ce_share)
    assert math.isclose(float(ours), expected, rel_tol=1e-12)


def test_divergence_is_zero_for_equals_and_positive_else(logits) -> None:
    student, teacher = (torch.from_numpy(z[0]) for z in logits[:2])
    assert abs(float(divergence(student, student, 2.0))) < 1e-12
    assert float(divergence(student, student + 7, 2.0)) == pytest.approx(0, abs=1e-12)  # a shift changes no softmax
    assert float(divergence(student, teacher, 2.0)) > 0


def test_cross_entropy_adds_up_weighted_exits(logits) -> None:
    student, _, labels = logits
    expected = eq_10(student, student, labels, [0.5, 0.5, 1.0], 1.0, 0, 1)
    ours = cross_entropy(list(torch.from_numpy(student)), torch.from_numpy(labels), ExitWeights(3, 0.5))
    assert math.isclose(float(ours), expected, rel_tol=1e-12)
    assert list(ExitWeights(1, 0.5)) == [1.0]


def test_ramp_of_sdn_as_its_code_has_it() -> None:
    weights, epochs = ExitWeights(7, 1.0, "sdn", 100), 100
    most = np.array([0.15, 0.3, 0.45, 0.6, 0.75, 0.9])
    for epoch in range(1, epochs + 1):
        weights.set_epoch(epoch - 1)
        assert weights[:] == pytest.approx([*np.minimum(most, 0.01 + epoch * (most / epochs)), 1.0])
    weights.set_epoch(0)
    assert list(weights) == pytest.approx([0.01 + m / 100 for m in most] + [1.0])
    half = ExitWeights(3, 0.5, "sdn", 4)
    assert list(half) == pytest.approx([0.5 * (0.01 + 0.15 / 4), 0.5 * (0.01 + 0.9 / 4), 1.0])
    assert list(ExitWeights(1, 1.0, "sdn", 4)) == [1.0]


class Heads(nn.Module):
    """Two linear exits."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(x) for head in self.heads)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}


def test_cross_entropy_step_adds_its_gradients() -> None:
    torch.manual_seed(0)
    network, images, labels = Heads(), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    step = cross_entropy_step(network, [0.5, 1.0])
    loss = step(images, labels, np.random.default_rng(0))
    assert loss == pytest.approx(cross_entropy(network(images), labels, [0.5, 1.0]).item())
    once = gradients(network)
    step(images, labels, np.random.default_rng(0))
    assert all(torch.allclose(value, 2 * once[name]) for name, value in gradients(network).items())


@pytest.mark.parametrize("teacher_exit", ["same", "final"])
def test_distillation_step(teacher_exit: str) -> None:
    torch.manual_seed(0)
    student, teacher, images, labels = Heads(), Heads().train(), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    step = distillation_step(
        student, teacher, weights=[0.5, 1.0], temperature=2.0, alpha=0.3, alpha_weighs="kd", teacher_exit=teacher_exit
    )
    assert not teacher.training
    loss = step(images, labels, np.random.default_rng(0))
    soft = np.stack([z.detach().numpy().astype(float) for z in teacher(images)])
    if teacher_exit == "final":
        soft[0] = soft[1]
    hard = np.stack([z.detach().numpy().astype(float) for z in student(images)])
    assert loss == pytest.approx(eq_10(hard, soft, labels.numpy(), [0.5, 1.0], 2.0, 0.3, 0.7), rel=1e-5)
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return nets.supernet(nets.spec(nets.RESNET8, nets.APART, {"head": "conv", "head_bits": "search"})).train()


@pytest.mark.parametrize(
    ("smallest", "stratified", "taught"),
    [(False, False, False), (True, False, False), (False, True, False), (False, False, True), (True, True, True)],
)
def test_sandwich_gradients_are_the_sum_of_separate_ones(
    supernet: Supernet, smallest: bool, stratified: bool, taught: bool
) -> None:
    space, weights = supernet.space, [0.5, 0.5, 1.0]
    images, labels = nets.images_for(space, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    teacher = nets.network(space.spec)[1] if taught else None
    mine = copy.deepcopy(supernet)
    step = sandwich_step(mine, weights, 2, teacher=teacher, stratified=stratified, smallest=smallest)
    loss = step(images, labels, np.random.default_rng(5))

    def one_path(bits: dict, soft: list[Tensor] | None) -> tuple[dict[str, Tensor], list[Tensor], float]:
        alone = copy.deepcopy(supernet)
        alone.set_bits(bits)
        logits = alone(images)
        terms = []
        for i, z in enumerate(logits):
            hard = -z.log_softmax(1)[torch.arange(6), labels].mean()
            if soft is None:
                terms.append(weights[i] * hard)
            else:
                target = soft[i].softmax(1)
                kl = (target * (target.log() - z.log_softmax(1))).sum(1).mean()
                terms.append(weights[i] * (hard + kl) / 2)
        total = sum(terms)
        total.backward()
        return gradients(alone), [z.detach() for z in logits], float(total.detach())

    from_teacher = None
    if teacher is not None:
        from_teacher = [z.detach() for z in teacher(images)]
    largest = {group.name: (5, 4) for group in space.groups}
    expected, of_largest, largest_loss = one_path(largest, from_teacher)
    generator = np.random.default_rng(5)
    drawn = [space.sample(generator), space.sample(generator)]
    if stratified:
        drawn = space.stratified(np.random.default_rng(5), 2)
    drawn += [{group.name: (2, 2) for group in space.groups}] * smallest
    for bits in drawn:
        more, _, _ = one_path(bits, from_teacher or of_largest)
        expected = {name: value + more[name] for name, value in expected.items()}
    assert loss == pytest.approx(largest_loss)
    for name, value in gradients(mine).items():
        assert torch.allclose(value, expected[name], rtol=1e-9, atol=1e-11), name
    assert teacher is None or all(p.grad is None for p in teacher.parameters())


def test_the_largest_path_learns_from_labels_alone(supernet: Supernet) -> None:
    """With one choice a group there is one configuration, and nothing to learn from another."""
    spec = nets.spec(nets.RESNET8, {"choices": [[3, 3]]})
    net = nets.supernet(spec).train()
    images, labels = nets.images_for(net.space, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    other = copy.deepcopy(net)
    teacher = nets.network(spec)[1]
    sandwich_step(net, [1.0, 1.0, 1.0], 2, teacher=teacher)(images, labels, np.random.default_rng(0))
    other.set_bits(net.space.choice_bits([0] * len(net.space.groups)))
    loss = sum(F.cross_entropy(z, labels) for z in other(images))
    loss.backward()
    for name, value in gradients(net).items():
        assert torch.allclose(value, gradients(other)[name], rtol=1e-9, atol=1e-11), name


def test_batchnorm_statistics_move_on_the_paths_taken(supernet: Supernet) -> None:
    net = copy.deepcopy(supernet)
    images, labels = nets.images_for(net.space, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    before = copy.deepcopy(net.state_dict())
    sandwich_step(net, [1.0, 1.0, 1.0], 0, smallest=True)(images, labels, np.random.default_rng(0))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(".w2a2." in name or ".w5a4." in name or ".w8a8." in name for name in moved), moved
