"""Checkpoints that are damaged in any bit, or that no training can have left, are refused; nothing starts over."""

from __future__ import annotations

import copy
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.quant.diagnostics import QuantizerWatch
from usdn_nas.training.checkpoint import Progress, Watch, load_checkpoint, save_checkpoint
from usdn_nas.training.seal import is_sealed, seal

STEPS, PER_EPOCH = 10, 4
State = dict[str, Any]


class Counter:
    """A watch that knows how many steps it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def after_step(self) -> None:
        self.seen += 1

    def state_dict(self) -> State:
        return {"seen": self.seen}

    def load_state_dict(self, state: State) -> None:
        self.seen = state["seen"]


def made() -> tuple[nn.Module, torch.optim.Optimizer, Progress, Counter]:
    """A network, its optimizer, and a training at its start."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), Progress(), Counter()


def row(epoch: int, step: int) -> dict[str, float]:
    return {"epoch": epoch, "step": step, "loss": 0.5, "lr": 0.1, "seconds": 1.0, "accuracy_final": 0.25}


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A checkpoint after six of ten steps, in the second of three epochs."""
    network, optimizer, at, watch = made()
    for _ in range(6):
        optimizer.zero_grad()
        network(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        watch.after_step()
    at.step, at.loss_sum, at.loss_count, at.seconds, at.history = 6, 1.5, 2, 3.25, [row(1, 4)]
    save_checkpoint(tmp_path / "checkpoint.pt", network, optimizer, at, "f", watch)
    return tmp_path / "checkpoint.pt"


def load(
    path: Path, watch: Watch | None = None, steps: int = STEPS
) -> tuple[nn.Module, torch.optim.Optimizer, Progress]:
    network, optimizer, at, counter = made()
    load_checkpoint(path, network, optimizer, at, "f", watch or counter, steps=steps, per_epoch=PER_EPOCH)
    return network, optimizer, at


def rewrite(path: Path, change: Callable[[State], Any]) -> None:
    """Changes the content of a checkpoint and writes it as `save_checkpoint` would, digest and all."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    seal(path)


def test_everything_comes_back(stopped: Path) -> None:
    network, optimizer, at = load(stopped)
    state = torch.load(stopped, weights_only=True)  # the digest is the archive's comment, torch reads it all the same
    assert all(torch.equal(value, state["network"][name]) for name, value in network.state_dict().items())
    momentum = [held["momentum_buffer"] for held in optimizer.state_dict()["state"].values()]
    assert len(momentum) == 6 and all(
        map(torch.equal, momentum, (s["momentum_buffer"] for s in state["optimizer"]["state"].values()))
    )
    assert vars(at) == {"step": 6, "loss_sum": 1.5, "loss_count": 2, "seconds": 3.25, "history": [row(1, 4)]}
    rewrite(stopped, lambda state: None)
    load(stopped)


def test_rates_are_those_of_the_settings(stopped: Path) -> None:
    rewrite(stopped, lambda state: state["optimizer"]["param_groups"][0].update(momentum=0.0, weight_decay=7.0))
    _, optimizer, _ = load(stopped)
    assert optimizer.param_groups[0]["momentum"] == 0.9 and optimizer.param_groups[0]["weight_decay"] == 0


def test_every_flipped_bit_is_found(stopped: Path) -> None:
    """Among them those that the archive's own checksums do not cover."""
    whole = stopped.read_bytes()
    generator = np.random.default_rng(5)
    silent = 0
    for position in [*generator.integers(0, len(whole), 200), 0, len(whole) - 1, len(whole) - 64, len(whole) - 65]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        stopped.write_bytes(damaged)
        assert not is_sealed(stopped)
        if silent < 3:  # each try takes a while
            with pytest.raises(
                UserError, match="expected a whole checkpoint, got a damaged or foreign file; delete it"
            ):
                load(stopped)
            assert stopped.read_bytes() == damaged
        try:
            silent += zipfile.ZipFile(stopped).testzip() is None and bool(torch.load(stopped, weights_only=True))
        except Exception:
            continue
    assert silent > 3, "torch accepts some of them: the digest is needed"


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 63, b"x" * 64, b"x" * 65])
def test_short_files_are_refused(content: bytes, stopped: Path) -> None:
    stopped.write_bytes(content)
    with pytest.raises(UserError, match="damaged or foreign"):
        load(stopped)


def set_progress(**values: Any) -> Callable[[State], None]:
    return lambda state: state["progress"].update(values)


def set_tensor(name: str, value: Any) -> Callable[[State], None]:
    return lambda state: state["network"].update({name: value})


def set_momentum(value: Any) -> Callable[[State], None]:
    return lambda state: state["optimizer"]["state"][0].update(momentum_buffer=value)


IMPOSSIBLE: dict[str, tuple[Callable[[State], Any], str]] = {
    "step below 1": (set_progress(step=0), "step 0, expected 1 to 10"),
    "negative step": (set_progress(step=-2), "step -2"),
    "step beyond the end": (set_progress(step=11), "step 11"),
    "step as a float": (set_progress(step=6.0), "step 6.0"),
    "step as a bool": (set_progress(step=True), "step True"),
    "step as a text": (set_progress(step="6"), "step '6'"),
    "another step of the epoch": (set_progress(step=7), "2 losses since the last epoch, expected 3"),
    "negative count": (set_progress(loss_count=-2), "-2 losses"),
    "sum that is NaN": (set_progress(loss_sum=math.nan), "a sum of losses of nan"),
    "sum that is infinite": (set_progress(loss_sum=math.inf), "a sum of losses of inf"),
    "negative time": (set_progress(seconds=-1.0), "-1.0 seconds"),
    "time that is NaN": (set_progress(seconds=math.nan), "nan seconds"),
    "no history": (set_progress(history=[]), "a history that has not 1 epochs"),
    "too much history": (set_progress(history=[row(1, 4), row(2, 8)]), "a history that has not 1 epochs"),
    "history of another step": (set_progress(history=[row(1, 5)]), "an impossible history of epoch 1"),
    "history with NaN": (set_progress(history=[{**row(1, 4), "loss": math.nan}]), "an impossible history"),
    "history with texts": (set_progress(history=[{**row(1, 4), "loss": "1"}]), "an impossible history"),
    "history of texts": (set_progress(history=["1"]), "another kind of history in epoch 1"),
    "history that is none": (set_progress(history=4), "a history that has not 1 epochs"),
    "progress with more": (set_progress(more=1), "no progress"),
    "progress that is none": (lambda state: state.update(progress=[6]), "no progress"),
    "weights that are NaN": (set_tensor("0.weight", torch.full((4, 3), math.nan)), "'0.weight' holds NaN or infinity"),
    "weights that are infinite": (
        set_tensor("2.bias", torch.tensor([0.0, math.inf])),
        "'2.bias' holds NaN or infinity",
    ),
    "a negative variance": (set_tensor("1.running_var", torch.tensor([1.0, 1, 1, -1])), "a negative variance"),
    "weights of another shape": (set_tensor("0.weight", torch.zeros(3, 4)), "'0.weight' has another shape or type"),
    "weights of another type": (set_tensor("0.weight", torch.zeros(4, 3).double()), "another shape or type"),
    "weights that are none": (set_tensor("0.weight", 3), "another shape or type"),
    "a weight missing": (lambda state: state["network"].pop("0.weight"), "weights of another network"),
    "a weight more": (set_tensor("3.weight", torch.zeros(1)), "weights of another network"),
    "no weights": (lambda state: state.update(network=None), "weights of another network"),
    "momentum that is NaN": (set_momentum(torch.full((4, 3), math.nan)), "momentum of parameter 0 is not finite"),
    "momentum of another shape": (set_momentum(torch.zeros(12)), "momentum of parameter 0 has another shape"),
    "momentum that is none": (set_momentum(3), "momentum of parameter 0 has another shape"),
    "momentum of nothing": (lambda state: state["optimizer"]["state"].update({9: {}}), "momentum of another network"),
    "another optimizer": (lambda state: state["optimizer"]["state"][0].update(exp_avg=1), "is not SGD"),
    "groups of other parameters": (
        lambda state: state["optimizer"]["param_groups"][0].update(params=[1, 0]),
        "another",
    ),
    "groups that are none": (lambda state: state["optimizer"].update(param_groups=[3]), "cannot have left"),
    "no optimizer": (lambda state: state.update(optimizer=[]), "no optimizer"),
    "no watch": (lambda state: state.update(watch=None), "quantizers that are not watched"),
    "another watch": (lambda state: state.update(watch={}), "seen"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_training_leaves_is_refused(name: str, stopped: Path) -> None:
    change, message = IMPOSSIBLE[name]
    rewrite(stopped, change)
    content = stopped.read_bytes()
    with pytest.raises(UserError) as caught:
        load(stopped)
    line = str(caught.value)
    assert line.startswith(f"{stopped}: this training cannot have left such a checkpoint: ") and message in line
    assert line.endswith("; delete it to train this stage anew") and "\n" not in line
    assert stopped.read_bytes() == content


@pytest.mark.parametrize("change", [{"more": 1}, {"schema": "usdn-nas/checkpoint/1"}])
def test_another_layout_is_refused(change: State, stopped: Path) -> None:
    rewrite(stopped, lambda state: state.update(change))
    with pytest.raises(UserError, match="damaged or foreign"):
        load(stopped)


def test_the_end_of_a_training_that_ends_within_an_epoch(stopped: Path) -> None:
    ended = {"step": 10, "loss_sum": 0.0, "loss_count": 0, "history": [row(1, 4), row(2, 8), row(3, 10)]}
    rewrite(stopped, set_progress(**ended))
    load(stopped)
    with pytest.raises(UserError, match="0 losses since the last epoch, expected 2"):
        load(stopped, steps=12)


def test_figures_of_quantizers_are_checked() -> None:
    spec = nets.spec(nets.RESNET8 | {"input_shape": [1, 6, 6]}, {"choices": [[2, 2], [4, 4]]})
    watch = QuantizerWatch(nets.supernet(spec, 0).float())
    watch.after_step()
    watch.end_epoch()
    whole = watch.state_dict()
    watch.load_state_dict(copy.deepcopy(whole))
    records, width = "quantizers", next(iter(whole["oscillations"]))
    changes: list[Callable[[State], Any]] = [
        lambda s: s[records].pop(),
        lambda s: s[records][0].update(step=[]),
        lambda s: s[records][0].update(step=[math.nan]),
        lambda s: s[records][0].update(step=["1"]),
        lambda s: s[records][0].update(layer="another"),
        lambda s: s[records][0].update(start=-1.0),
        lambda s: s["oscillations"].pop(width),
        lambda s: s["oscillations"][width].pop("codes"),
        lambda s: s["oscillations"][width].update(codes=torch.zeros(3, dtype=torch.int16)),
        lambda s: s["oscillations"][width].update(direction=None),
        lambda s: s["oscillations"][width]["frequency"].fill_(math.nan),
        lambda s: s["oscillations"][width]["frequency"].fill_(2),
    ]
    for number, change in enumerate(changes):
        state = copy.deepcopy(whole)
        change(state)
        with pytest.raises(ValueError, match="."):
            watch.load_state_dict(state)
            raise AssertionError(f"change {number} was accepted")
