"""Checks that a checkpoint passes before a training resumes from it.

An undamaged file may still hold values that no training can have written. Each function raises a ValueError that names
the wrong value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from usdn_nas.networks.values import find_wrong_value

__all__ = ["check_network", "check_optimizer", "check_progress"]


def check_network(network: nn.Module, state: Any) -> None:
    """Checks that ``state`` has the names, shapes, types and possible values of ``network``'s parameters and buffers.

    Raises:
        ValueError: A name, shape, type or value is wrong.
    """
    expected = network.state_dict()
    if not isinstance(state, Mapping) or set(state) != set(expected):
        raise ValueError("weights of another network")
    for name, value in state.items():
        wanted = expected[name]
        if not isinstance(value, Tensor) or value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise ValueError(f"'{name}' has another shape or type")
    if wrong := find_wrong_value(network, state):
        raise ValueError(wrong)


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Checks that ``state`` belongs to ``optimizer``, which is an SGD, and that its values are possible.

    Raises:
        ValueError: It belongs to another optimizer or network, or a value is impossible.
    """
    if not isinstance(state, Mapping) or not {"state", "param_groups"} <= set(state):
        raise ValueError("no optimizer")
    own = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = state["param_groups"]
    if not isinstance(groups, list) or [dict(group).get("params") for group in groups] != own:
        raise ValueError("the optimizer of another network")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(state["state"], Mapping) or not set(state["state"]) <= set(range(len(parameters))):
        raise ValueError("momentum of another network")
    for number, held in state["state"].items():
        if set(held) - {"momentum_buffer"}:
            raise ValueError("the optimizer is not SGD")
        momentum, parameter = held.get("momentum_buffer"), parameters[number]
        if momentum is None:
            continue
        if not isinstance(momentum, Tensor) or momentum.shape != parameter.shape or momentum.dtype != parameter.dtype:
            raise ValueError(f"momentum of parameter {number} has another shape or type")
        if not bool(momentum.isfinite().all()):
            raise ValueError(f"momentum of parameter {number} is not finite")


def check_progress(progress: Any, steps: int, per_epoch: int) -> None:
    """Checks that a training of ``steps`` steps, with ``per_epoch`` steps an epoch, can have reached ``progress``.

    Raises:
        ValueError: A key is missing, or a value is impossible.
    """
    if not isinstance(progress, Mapping) or set(progress) != {"step", "loss_sum", "loss_count", "seconds", "history"}:
        raise ValueError("no progress")
    step = progress["step"]
    if type(step) is not int or not 0 < step <= steps:
        raise ValueError(f"step {step!r}, expected 1 to {steps}")
    ended = step == steps
    count = 0 if ended else step % per_epoch
    if type(progress["loss_count"]) is not int or progress["loss_count"] != count:
        raise ValueError(f"{progress['loss_count']!r} losses since the last epoch, expected {count}")
    if not _is_finite(progress["loss_sum"]) or (count == 0 and progress["loss_sum"] != 0):
        raise ValueError(f"a sum of losses of {progress['loss_sum']!r}")
    if not _is_finite(progress["seconds"]) or progress["seconds"] < 0:
        raise ValueError(f"{progress['seconds']!r} seconds")
    epochs = math.ceil(step / per_epoch) if ended else step // per_epoch
    _check_history(progress["history"], [min(epoch * per_epoch, steps) for epoch in range(1, epochs + 1)])


def _check_history(history: Any, ends: list[int]) -> None:
    """Checks a history. ``ends`` lists, for each finished epoch, the number of steps done at its end."""
    if not isinstance(history, list) or len(history) != len(ends):
        raise ValueError(f"a history that has not {len(ends)} epochs")
    for number, (row, end) in enumerate(zip(history, ends, strict=True), 1):
        if not isinstance(row, Mapping) or set(row) != set(history[0]):
            raise ValueError(f"another kind of history in epoch {number}")
        if row.get("epoch") != number or row.get("step") != end or not all(map(_is_finite, row.values())):
            raise ValueError(f"an impossible history of epoch {number}")


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
