"""The training loop: resume bit for bit, schedule, refusals."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import nets
from usdn_nas._util.errors import RunError, UserError
from usdn_nas.config import TrainConfig
from usdn_nas.quant.supernet import Supernet
from usdn_nas.training import loop
from usdn_nas.training.loop import CHECKPOINT, HISTORY, WEIGHTS, fit, learning_rate
from usdn_nas.training.losses import Step, sandwich_step

SETTINGS = TrainConfig(epochs=3, batch_size=8, lr=0.05, warmup_epochs=1, weight_decay=0.01, clip_norm=5)
SPEC = nets.spec(nets.RESNET8 | {"input_shape": [1, 6, 6]}, {"choices": [[2, 2], [4, 4]]})
SPLIT = nets.split((1, 6, 6), 35, 5)  # 4 batches of 8 an epoch, 3 images left over
STEPS = 12


class StoppedError(Exception):
    pass


def stop_after(step: Step, count: int) -> Step:
    """Raises in place of step number ``count``, after its gradients: at the worst moment."""
    calls = iter(range(count + 1))

    def stopping(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        loss = step(images, labels, generator)
        if next(calls) == count:
            raise StoppedError
        return loss

    return stopping


def classifier(seed: int) -> tuple[nn.Module, Step]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))

    def step(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        noise = torch.from_numpy(generator.normal(0, 0.1, images.shape)).float()  # a random path, so to speak
        loss = nn.functional.cross_entropy(network(images + noise), labels)
        loss.backward()
        return float(loss.detach())

    return network, step


def supernet(seed: int) -> tuple[Supernet, Step]:
    net = nets.supernet(SPEC, seed).float()
    return net, sandwich_step(net, [0.5, 0.5, 1.0], 1)


def train(
    network: nn.Module, step: Step, folder: Path, *, fingerprint: str = "f", settings: TrainConfig = SETTINGS,
    evaluate: Callable[[], dict[str, float]] | None = None, split: nets.MemorySplit = SPLIT,
    set_epoch: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    fit(
        network, step, split, settings, seed=(3, 1), folder=folder, fingerprint=fingerprint,
        device=torch.device("cpu"), set_epoch=set_epoch, evaluate=evaluate,
    )  # fmt: skip


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY).open() as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("build", "stops"),
    [(classifier, [(0,), (1,), (3,), (4,), (7,), (11,), (2, 3, 1, 5), (1,) * 11]), (supernet, [(1, 5)])],
)
def test_resumed_equals_uninterrupted(
    build: Callable, stops: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stops``: how many steps each run takes before it is stopped; the last goes to the end."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    network, step = build(0)

    def figures(network: nn.Module) -> Callable[[], dict[str, float]]:
        return lambda: {"accuracy_final": sum(p.double().sum().item() for p in network.parameters())}

    train(network, step, tmp_path / "whole", evaluate=figures(network))
    expected = network.state_dict()
    assert len(history(tmp_path / "whole")) == 3
    for number, counts in enumerate(stops):
        folder = tmp_path / str(number)
        for run, count in enumerate(counts):
            again, step = build(0 if run == 0 else 10 + run)  # a resumed one may start from anything
            with pytest.raises(StoppedError):
                train(again, stop_after(step, count), folder, evaluate=figures(again))
            assert (folder / CHECKPOINT).exists() == (sum(counts[: run + 1]) > 0)
        again, step = build(0 if sum(counts) == 0 else 99)
        train(again, step, folder, evaluate=figures(again))
        assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items()), counts
        assert history(folder) == history(tmp_path / "whole")
        # The checkpoint stays, if one was written, until whoever started the training has recorded its end.
        assert {HISTORY, WEIGHTS} <= {path.name for path in folder.iterdir()} <= {CHECKPOINT, HISTORY, WEIGHTS}


def test_checkpoints_are_not_written_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda *arguments: written.append(arguments))
    train(*classifier(0), tmp_path)
    assert not written


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkpoint of a stopped training."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    network, step = classifier(0)
    with pytest.raises(StoppedError):
        train(network, stop_after(step, 5), tmp_path)
    return tmp_path


def test_a_damaged_checkpoint_is_one_line(stopped: Path) -> None:
    path = stopped / CHECKPOINT
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [whole[: int(share * len(whole))] for share in np.linspace(0, 0.999, 60)]
    damaged += [generator.bytes(n) for n in (1, 2, 9, 100)] + [b"M", b"PK\x03\x04", b"\x80\x02}q\x00.", b"no"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            train(*classifier(0), stopped)
        expected = "expected a whole checkpoint, got a damaged or foreign file; delete it to train this stage anew"
        assert str(caught.value) == f"{path}: {expected}"
        assert path.read_bytes() == content


def test_a_checkpoint_of_something_else_is_one_line(stopped: Path) -> None:
    path = stopped / CHECKPOINT
    with pytest.raises(UserError) as caught:
        train(*classifier(0), stopped, fingerprint="other")
    assert str(caught.value) == (
        f"{path}: checkpoint of other settings or data; delete it to train this stage anew"
    )  # fmt: skip
    with pytest.raises(UserError, match="cannot have left such a checkpoint: weights of another network"):
        train(*supernet(0), stopped)
    torch.save({"fingerprint": "f"}, path)
    with pytest.raises(UserError, match="damaged or foreign"):
        train(*classifier(0), stopped)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="damaged or foreign"):
        train(*classifier(0), stopped)


def test_a_checkpoint_executes_nothing(stopped: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return (Path.touch, (stopped / "touched",))

    torch.save({"fingerprint": "f", "network": Malicious()}, stopped / CHECKPOINT)
    with pytest.raises(UserError, match="damaged or foreign"):
        train(*classifier(0), stopped)
    assert not (stopped / "touched").exists()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops(loss: float, tmp_path: Path) -> None:
    network, step = classifier(0)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" not in name}
    with pytest.raises(RunError, match=f"training: loss is {loss} at step 0"):
        train(network, lambda *batch: (step(*batch), loss)[1], tmp_path)
    assert all(torch.equal(network.state_dict()[n], v) for n, v in before.items() if "num_batches" not in n)


def test_learning_rate_in_closed_form() -> None:
    settings = TrainConfig(epochs=10, lr=0.4, warmup_epochs=2)
    rates = [learning_rate(settings, step, 50, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 40)) for k in range(40)])
    plain = TrainConfig(epochs=10, lr=0.4)
    assert learning_rate(plain, 0, 50, 5) == 0.4
    assert learning_rate(plain, 25, 50, 5) == pytest.approx(0.2)
    assert learning_rate(plain, 50, 50, 5) == pytest.approx(0)
    fraction = TrainConfig(epochs=1, lr=1, warmup_epochs=0.5)
    assert [learning_rate(fraction, step, 4, 4) for step in range(4)] == pytest.approx([0.5, 1, 1, 0.5])


def test_learning_rate_in_steps() -> None:
    settings = TrainConfig(epochs=9, lr=0.4, warmup_epochs=1, schedule="step", milestones=(3, 6), decay=0.2)
    rates = [learning_rate(settings, step, 45, 5) for step in range(45)]
    assert rates[:5] == pytest.approx([0.08 * (step + 1) for step in range(5)])
    assert rates[5:] == pytest.approx([0.4] * 10 + [0.08] * 15 + [0.016] * 15)


@pytest.mark.parametrize("stops", [2, 4, 9])
def test_epochs_are_announced_also_where_a_training_goes_on(
    stops: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    network, step = classifier(0)
    epoch, seen = [-1], []

    def listening(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        loss = step(images, labels, generator)
        seen.append(epoch[0])
        return loss

    def announced(number: int) -> None:
        epoch[0] = number

    with pytest.raises(StoppedError):
        train(network, stop_after(listening, stops), tmp_path, set_epoch=announced)
    del seen[stops:]
    epoch[0] = -1
    train(network, listening, tmp_path, set_epoch=announced)
    assert seen == [0] * 4 + [1] * 4 + [2] * 4


def test_history_by_hand(tmp_path: Path) -> None:
    network, step = classifier(0)
    losses = []

    def listening(*batch) -> float:
        losses.append(step(*batch))
        return losses[-1]

    train(network, listening, tmp_path, evaluate=lambda: {"accuracy_final": 0.5})
    rows = history(tmp_path)
    assert [(row["epoch"], row["step"], row["accuracy_final"]) for row in rows] == [
        *(("1", "4", "0.5"), ("2", "8", "0.5"), ("3", "12", "0.5"))
    ]
    for i, row in enumerate(rows):
        assert float(row["loss"]) == pytest.approx(np.mean(losses[4 * i : 4 * i + 4]))
        assert float(row["lr"]) == learning_rate(SETTINGS, 4 * i + 3, STEPS, 4)


def test_batches_are_full_passes_in_a_new_order(tmp_path: Path) -> None:
    network, step = classifier(0)
    seen: list[Tensor] = []

    def listening(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        seen.append(labels)
        return step(images, labels, generator)

    train(network, listening, tmp_path)
    assert [len(labels) for labels in seen] == [8] * STEPS
    epochs = [torch.cat(seen[i : i + 4]) for i in (0, 4, 8)]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])


def test_a_split_smaller_than_a_batch_is_used_whole(tmp_path: Path) -> None:
    network, step = classifier(0)
    sizes = []

    def listening(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        sizes.append(len(images))
        return step(images, labels, generator)

    train(network, listening, tmp_path, split=nets.split((1, 6, 6), 5, 5))
    assert sizes == [5, 5, 5]


def test_max_steps(tmp_path: Path) -> None:
    network, step = classifier(0)
    calls = []
    train(
        network, lambda *batch: calls.append(0) or step(*batch), tmp_path,
        settings=SETTINGS.model_copy(update={"max_steps": 6}),
    )  # fmt: skip
    assert len(calls) == 6
    assert [(row["epoch"], row["step"]) for row in history(tmp_path)] == [("1", "4"), ("2", "6")]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_decay_and_vectors_do_not(momentum: float, tmp_path: Path) -> None:
    network, _ = supernet(0)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    def no_gradients(*batch) -> float:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return 0.0

    settings = TrainConfig(epochs=1, batch_size=35, lr=0.1, momentum=momentum, weight_decay=0.2)
    train(network, no_gradients, tmp_path, settings=settings)
    decayed = 1 - 0.1 * 0.2 * (1 + momentum)  # Nesterov: the gradient and its momentum at once
    shapes = set()
    for name, parameter in network.named_parameters():
        expected = before[name] * (decayed if parameter.ndim > 1 else 1)
        assert torch.allclose(parameter, expected, rtol=1e-6, atol=0), name
        shapes.add(parameter.ndim)
    assert shapes == {0, 1, 2, 4}


def test_step_sizes_have_a_rate_of_their_own(tmp_path: Path) -> None:
    network, _ = supernet(0)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    def ones(*batch) -> float:
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        return 0.0

    settings = TrainConfig(epochs=1, batch_size=35, lr=0.1, momentum=0, weight_decay=0, step_lr=0.25)
    train(network, ones, tmp_path, settings=settings)
    for name, parameter in network.named_parameters():
        rate = 0.1 * (0.25 if name.endswith((".step", ".offset")) else 1)
        assert torch.allclose(parameter, before[name] - rate, atol=1e-6), name


def test_gradients_are_clipped(tmp_path: Path) -> None:
    network = nn.Linear(3, 4)
    before = network.weight.detach().clone()

    def large(*batch) -> float:
        network.weight.grad, network.bias.grad = torch.full((4, 3), 6.0), torch.zeros(4)
        return 0.0

    settings = TrainConfig(epochs=1, batch_size=35, lr=1, momentum=0, weight_decay=0, clip_norm=2)
    train(network, large, tmp_path, settings=settings)
    assert float((network.weight.detach() - before).norm()) == pytest.approx(2, rel=1e-5)


def test_training_mode_returns_after_every_evaluation(tmp_path: Path) -> None:
    network, step = classifier(0)
    modes = []

    def listening(*batch) -> float:
        modes.append(network.training)
        return step(*batch)

    train(network.eval(), listening, tmp_path, evaluate=lambda: {"accuracy_final": float(network.eval().training)})
    assert modes == [True] * STEPS
