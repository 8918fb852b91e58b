"""A training's checkpoint: everything that a resumed one needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from usdn_nas._util.errors import UserError
from usdn_nas._util.writing import atomic_path
from usdn_nas.training.checks import check_network, check_optimizer, check_progress
from usdn_nas.training.seal import is_sealed, seal

__all__ = ["Progress", "Watch", "load_checkpoint", "save_checkpoint"]

SCHEMA = "usdn-nas/checkpoint/2"
_KEYS = {"schema", "fingerprint", "network", "optimizer", "progress", "watch"}
_REMEDY = "delete it to train this stage anew"


class Progress:
    """Where a training stands: everything that a resumed one needs beside the weights."""

    def __init__(self) -> None:
        self.step = 0
        self.loss_sum = 0.0
        self.loss_count = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []


class Watch(Protocol):
    """Follows a training."""

    def after_step(self) -> None:
        """Looks at the network after a step of the optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state.

        Raises:
            ValueError: It cannot have left that state.
        """


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: Progress,
    fingerprint: str,
    watch: Watch | None = None,
) -> None:
    """Writes ``path``; ``fingerprint`` is that of the settings and inputs."""
    # Given a path, torch writes the file itself and does not say why that failed.
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            torch.save(
                {
                    "schema": SCHEMA,
                    "fingerprint": fingerprint,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "progress": vars(at),
                    "watch": None if watch is None else watch.state_dict(),
                },
                file,
            )
        seal(temporary)


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: Progress,
    fingerprint: str,
    watch: Watch | None = None,
    *,
    steps: int,
    per_epoch: int,
) -> None:
    """Puts ``network``, ``optimizer``, ``at`` and ``watch`` where they were.

    A checkpoint that cannot be used is refused and left where it is: whoever trains decides to start anew.

    Args:
        steps: Number of steps of the whole training.
        per_epoch: Number of steps of an epoch.

    Raises:
        UserError: The file is damaged in any bit, is foreign, has another fingerprint, or holds what this training
            cannot have left.
    """
    state = _read(path)
    if state["fingerprint"] != fingerprint:
        raise UserError("checkpoint of other settings or data", where=path, remedy=_REMEDY)
    try:
        check_network(network, state["network"])
        check_optimizer(optimizer, state["optimizer"])
        check_progress(state["progress"], steps, per_epoch)
        if (watch is None) != (state["watch"] is None):
            raise ValueError("figures of quantizers that are not watched, or none of those that are")
        if watch is not None:
            watch.load_state_dict(state["watch"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"this training cannot have left such a checkpoint: {error}", where=path, remedy=_REMEDY
        ) from None
    network.load_state_dict(state["network"])
    # Rates and decays are those of the settings, whatever the file says.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
    vars(at).update(state["progress"])


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that is whole."""
    try:
        whole = is_sealed(path)
        state = torch.load(path, weights_only=True, map_location="cpu") if whole else None
    except Exception:  # torch.load raises whatever the damage leads to, IndexError and OSError among others
        state = None
    if not isinstance(state, dict) or set(state) != _KEYS or state["schema"] != SCHEMA:
        raise UserError("expected a whole checkpoint, got a damaged or foreign file", where=path, remedy=_REMEDY)
    return state
