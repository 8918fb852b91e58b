"""Two processes beside one that runs the same micro-batches; micro-batches beside the whole batch."""

from __future__ import annotations

import copy
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import nets
from tests.together import together
from usdn_nas._util.errors import RunError, UserError
from usdn_nas.config import TrainConfig
from usdn_nas.training import loop
from usdn_nas.training.distributed import mean_step, processes, rank
from usdn_nas.training.loop import CHECKPOINT, HISTORY, WEIGHTS, fit
from usdn_nas.training.losses import Step, cross_entropy_step, distillation_step, sandwich_step
from usdn_nas.training.shares import micro_batches

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SETTINGS = TrainConfig(epochs=2, batch_size=12, lr=0.05, warmup_epochs=1, weight_decay=0.01, clip_norm=5)
SPEC = nets.spec(nets.RESNET8 | {"input_shape": [1, 6, 6]}, {"choices": [[2, 2], [4, 4]]})
SPLIT = nets.split((1, 6, 6), 44, 5)  # 3 batches of 12 an epoch, 8 images left over
SPLIT.images = SPLIT.images.double()
STEPS = 6

Build = Callable[[int], tuple[nn.Module, Step]]


def pretraining(seed: int) -> tuple[nn.Module, Step]:
    network = nets.network(SPEC, seed)[1]
    return network, cross_entropy_step(network, [0.5, 0.5, 1.0])


def supernet(seed: int) -> tuple[nn.Module, Step]:
    network = nets.supernet(SPEC, seed)
    return network, sandwich_step(network, [0.5, 0.5, 1.0], 2)


def distillation(seed: int) -> tuple[nn.Module, Step]:
    network, teacher = nets.supernet(SPEC, seed), nets.network(SPEC, 7)[1]
    network.set_bits(network.space.choice_bits([0] * len(network.space.groups)))
    return network, distillation_step(
        network, teacher, weights=[0.5, 0.5, 1.0], temperature=2, alpha=0.3, alpha_weighs="kd", teacher_exit="same"
    )


def dropping(seed: int) -> tuple[nn.Module, Step]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.Dropout(), nn.ReLU(), nn.Linear(9, 5)).double()
    return network, cross_entropy_step(lambda images: [network(images)], [1.0])  # type: ignore[arg-type]


BUILDS = [pretraining, supernet, distillation, dropping]


def train(build: Build, folder: Path, accumulate: int = 1, seed: int = 0, kill_at: int | None = None) -> dict[str, Any]:
    """Trains; what came of it, with the paths drawn and the evaluations made in this process."""
    network, step = build(seed)
    seen: dict[str, Any] = {"drawn": [], "evaluations": 0, "losses": []}

    def watched(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        seen["drawn"].append((copy.deepcopy(generator).integers(2**30), labels.tolist()))
        if len(seen["drawn"]) - 1 == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen["losses"].append(step(images, labels, generator))
        return seen["losses"][-1]

    def evaluate() -> dict[str, float]:
        seen["evaluations"] += 1
        return {"accuracy_final": 0.5}

    settings = SETTINGS.model_copy(update={"accumulate": accumulate})
    fit(
        network, watched, SPLIT, settings, seed=(3, 1), folder=folder, fingerprint="f", device=torch.device("cpu"),
        evaluate=evaluate,
    )  # fmt: skip
    return seen | {"state": network.state_dict(), "history": history(folder) if rank() == 0 else None}


def fit_plainly(network: nn.Module, step: Step, split: nets.MemorySplit, folder: Path, accumulate: int = 1) -> None:
    settings = SETTINGS.model_copy(update={"accumulate": accumulate})
    fit(network, step, split, settings, seed=(3, 1), folder=folder, fingerprint="f", device=torch.device("cpu"))


def history(folder: Path) -> list[str]:
    return [line.rsplit(",", 3)[0] for line in (folder / HISTORY).read_text().splitlines()]


def same(states: list[dict[str, Tensor]], tolerance: float = 1e-11) -> bool:
    """Whether all states are equal to the first."""
    return all(
        torch.allclose(state[name], value, rtol=tolerance, atol=tolerance)
        for state in states[1:]
        for name, value in states[0].items()
    )


def losses(folder: Path) -> list[float]:
    return [float(line.split(",")[2]) for line in history(folder)[1:]]


@pytest.mark.parametrize("build", BUILDS)
def test_two_processes_equal_one_that_accumulates(build: Build, tmp_path: Path) -> None:
    one = train(build, tmp_path / "one", accumulate=2)
    # The second process starts from other weights: the first one's count.
    two, statuses = together(tmp_path, lambda rank: train(build, tmp_path / "two", seed=rank))
    assert statuses == [0, 0]
    assert same([one["state"], two[0]["state"]])
    assert same([two[0]["state"], two[1]["state"]], tolerance=0)
    assert not same([one["state"], build(0)[0].state_dict()], tolerance=1e-3)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-11)
    # Each has its own images, all draw the same paths.
    assert [d for pair in zip(two[0]["drawn"], two[1]["drawn"], strict=True) for d in pair] == one["drawn"]
    assert [two[0]["drawn"][i][0] == two[1]["drawn"][i][0] for i in range(STEPS)] == [True] * STEPS
    assert two[0]["drawn"][0][1] != two[1]["drawn"][0][1]
    assert (two[0]["evaluations"], two[1]["evaluations"]) == (2, 0)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {HISTORY, WEIGHTS}


def test_processes_share_more_micro_batches_than_they_are(tmp_path: Path) -> None:
    one = train(pretraining, tmp_path / "one", accumulate=4)
    two, _ = together(tmp_path, lambda rank: train(pretraining, tmp_path / "two", accumulate=4))
    assert same([one["state"], two[0]["state"], two[1]["state"]])
    assert [len(both["drawn"]) for both in two] == [2 * STEPS] * 2


@pytest.mark.parametrize("build", [supernet, dropping])
def test_killed_and_resumed_equals_uninterrupted(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are killed, then one alone, then neither."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    whole, _ = together(tmp_path, lambda rank: train(build, tmp_path / "whole"))
    folder = tmp_path / "killed"
    _, statuses = together(tmp_path, lambda rank: train(build, folder, kill_at=2))
    assert statuses == [-signal.SIGKILL] * 2 and (folder / CHECKPOINT).exists()
    _, statuses = together(tmp_path, lambda rank: train(build, folder, seed=5, kill_at=2 if rank else None))
    assert statuses == [99, -signal.SIGKILL]
    resumed, statuses = together(tmp_path, lambda rank: train(build, folder, seed=6 + rank))
    assert statuses == [0, 0]
    assert 0 < len(resumed[0]["drawn"]) <= STEPS - 3
    assert same([whole[0]["state"], resumed[0]["state"], resumed[1]["state"]], tolerance=0)
    assert resumed[0]["history"] == whole[0]["history"]


def test_a_process_that_ends_ends_the_others(tmp_path: Path) -> None:
    def work(rank: int) -> str:
        with pytest.raises(RunError) as caught:
            train(pretraining, tmp_path / "run", kill_at=1 if rank else None)
        return str(caught.value)

    (message, _), statuses = together(tmp_path, work)
    assert statuses == [0, -signal.SIGKILL]
    assert message.startswith("another process of this training ended; the same command goes on from here (")


def test_a_loss_that_is_not_finite_anywhere_stops_all(tmp_path: Path) -> None:
    def work(rank: int) -> str:
        network, step = pretraining(0)

        def failing(*batch: Any) -> float:
            return (step(*batch), math.nan if rank else 1.0)[1]

        with pytest.raises(RunError) as caught:
            fit_plainly(network, failing, SPLIT, tmp_path / "run")
        return str(caught.value)

    messages, _ = together(tmp_path, work)
    assert messages == ["training: loss is nan at step 0 of 6; take a lower learning rate (now 0.05)"] * 2


def test_a_checkpoint_that_not_all_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    train(pretraining, tmp_path / "0", accumulate=2)

    def work(rank: int) -> str:
        with pytest.raises(RunError) as caught:
            train(pretraining, tmp_path / str(rank))
        return str(caught.value)

    messages, _ = together(tmp_path, work)
    expected = (
        f"the processes stand at different steps ({STEPS}, 0): the run folder must be on a disk that all of them see"
    )
    assert messages == [expected] * 2 and not (tmp_path / "1").exists()


def test_batches_that_cannot_be_shared(tmp_path: Path) -> None:
    def work(rank: int) -> list[str]:
        messages = []
        for batch_size, accumulate in ((64, 3), (15, 1)):
            with pytest.raises(UserError) as caught:
                settings = SETTINGS.model_copy(update={"batch_size": batch_size, "accumulate": accumulate})
                micro_batches(settings, "supernet.qat")
            messages.append(str(caught.value))
        return messages

    first, second = together(tmp_path, work)[0]
    assert first == second == [
        "supernet.qat: 3 micro-batches a step cannot be shared evenly by 2 processes; 'accumulate' must be a multiple "
        "of their number",
        "supernet.qat: a batch of 15 cannot be cut into 2 micro-batches of one size; 'batch_size', of all processes "
        "together, must be a multiple of their number and of 'accumulate'",
    ]  # fmt: skip
    assert (rank(), processes()) == (0, 1)
    assert [micro_batches(SETTINGS.model_copy(update={"accumulate": n})) for n in (1, 3, 12)] == [1, 3, 12]


def test_micro_batches_equal_the_whole_batch_but_for_batch_norm() -> None:
    """Without BatchNorm, gradients are those of the whole batch; with it, statistics are means over micro-batches."""
    torch.manual_seed(0)
    images, labels = torch.randn(12, 1, 6, 6).double(), torch.arange(12) % 5
    generator = np.random.default_rng(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 5)).double()
    whole = copy.deepcopy(plain)
    expected = cross_entropy_step(lambda x: [whole(x)], [2.0])(images, labels, generator)  # type: ignore[arg-type]
    step = cross_entropy_step(lambda x: [plain(x)], [2.0])  # type: ignore[arg-type]
    runs = [lambda part=part: step(images[part], labels[part], generator) for part in np.split(np.arange(12), 3)]
    assert mean_step(plain, runs, 3) == pytest.approx(expected, rel=1e-12)
    for ours, theirs in zip(plain.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12)

    norm = nn.BatchNorm1d(36).double()
    nn.init.normal_(norm.running_mean)
    before = norm.running_mean.clone()
    flat = images.flatten(1)

    def backward(part: np.ndarray) -> float:
        norm(flat[part]).square().sum().backward()
        return 1.0

    mean_step(norm, [lambda part=part: backward(part) for part in np.split(np.arange(12), 3)], 3)
    variance = torch.stack([chunk.var(0) for chunk in flat.chunk(3)]).mean(0)
    assert torch.allclose(norm.running_mean, 0.9 * before + 0.1 * flat.mean(0), rtol=1e-12)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * variance, rtol=1e-12)
    assert int(norm.num_batches_tracked) == 1


def test_dropout_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    """Whatever else has drawn from torch's generator, which stays as it was."""
    networks = []
    for seed in (1, 2):
        network, step = dropping(0)
        networks.append(network)
        torch.manual_seed(seed)
        fit_plainly(network, step, SPLIT, tmp_path / str(seed))
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert same([network.state_dict() for network in networks], tolerance=0)


def test_a_split_smaller_than_a_batch_is_shared(tmp_path: Path) -> None:
    """Five images, batches of twelve, two micro-batches: two images each. One image cannot be shared."""
    sizes = []
    network, step = pretraining(0)

    def listening(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        sizes.append(len(images))
        return step(images, labels, generator)

    five, one = (nets.MemorySplit(SPLIT.images[:count], SPLIT.labels[:count]) for count in (5, 1))
    fit_plainly(network, listening, five, tmp_path, accumulate=2)
    assert sizes == [2] * 4
    with pytest.raises(UserError, match="1 training images cannot be shared by 2 micro-batches"):
        fit_plainly(network, listening, one, tmp_path, accumulate=2)
