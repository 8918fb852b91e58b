"""Event files read back as TensorBoard reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.config import TrainConfig
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.training import loop
from usdn_nas.training.curves import check_tensorboard
from usdn_nas.training.loop import fit, learning_rate
from usdn_nas.training.losses import sandwich_step

SPEC = nets.spec(nets.RESNET8 | {"input_shape": [1, 6, 6]}, {"choices": [[2, 2], [4, 4]]})
SPLIT = nets.split((1, 6, 6), 24, 5)  # 6 steps an epoch
SETTINGS = TrainConfig(epochs=3, batch_size=4, lr=0.05)


class StoppedError(Exception):
    pass


def train(folder: Path, stop_at: int | None = None, tensorboard: bool = True) -> tuple[nets.Supernet, list[float]]:
    """Trains; the supernet, and the losses of the steps made."""
    supernet = nets.supernet(SPEC).float()
    step = sandwich_step(supernet, [0.5, 0.5, 1.0], 1)
    losses: list[float] = []

    def watched(*batch) -> float:
        if stop_at is not None and len(losses) == stop_at:
            raise StoppedError
        losses.append(step(*batch))
        return losses[-1]

    fit(
        supernet, watched, SPLIT, SETTINGS, seed=(3,), folder=folder, fingerprint="f", device=torch.device("cpu"),
        evaluate=lambda: {"accuracy_final": len(losses) / 100}, tensorboard=tensorboard,
    )  # fmt: skip
    return supernet, losses


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of each point."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS_BETWEEN_POINTS", 4)
    supernet, losses = train(tmp_path)
    found = curves(tmp_path)
    assert found["step/loss"] == [(step, pytest.approx(losses[step - 1])) for step in (4, 8, 12, 16)]
    assert found["step/lr"] == [
        (step, pytest.approx(learning_rate(SETTINGS, step - 1, 18, 6))) for step in (4, 8, 12, 16)
    ]
    means = [sum(losses[i : i + 6]) / 6 for i in (0, 6, 12)]
    assert found["epoch/loss"] == [(step, pytest.approx(mean)) for step, mean in zip((6, 12, 18), means, strict=True)]
    assert found["epoch/accuracy_final"] == [
        (6, pytest.approx(0.06)),
        (12, pytest.approx(0.12)),
        (18, pytest.approx(0.18)),
    ]
    sizes = {name: m.step.item() for name, m in supernet.named_modules() if isinstance(m, LSQQuantizer)}
    assert {tag.removeprefix("step_size/") for tag in found if tag.startswith("step_size/")} == set(sizes)
    for name, size in sizes.items():
        points = found[f"step_size/{name}"]
        assert [step for step, _ in points] == [6, 12, 18] and points[-1][1] == pytest.approx(abs(size))


@pytest.mark.parametrize("stop_at", [5, 13])
def test_a_resumed_training_doubles_no_point(stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint is older than the last points, as it is after a kill."""
    monkeypatch.setattr(loop, "STEPS_BETWEEN_POINTS", 1)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    saved = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: saved(*args) if args[3].step in (3, 11) else None)
    train(tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(tmp_path / "resumed", stop_at)
    assert len(train(tmp_path / "resumed")[1]) == 18 - (3 if stop_at < 11 else 11)
    whole, resumed = curves(tmp_path / "whole"), curves(tmp_path / "resumed")
    exact = [tag for tag in whole if tag not in ("epoch/accuracy_final", "epoch/seconds", "epoch/images_per_second")]
    assert {tag: resumed[tag] for tag in exact} == {tag: whole[tag] for tag in exact}
    assert [step for step, _ in resumed["epoch/accuracy_final"]] == [6, 12, 18]


def test_none_unless_wanted(tmp_path: Path) -> None:
    train(tmp_path, tensorboard=False)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "weights.safetensors"}


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tensorboard()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError) as caught:
        check_tensorboard()
    assert str(caught.value) == (
        "tensorboard: the package tensorboard is not installed; pip install 'usdn-nas[tensorboard]', or leave the "
        "setting out"
    )
