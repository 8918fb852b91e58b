"""Checkpoints: a file holds everything that a training needs to resume."""

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
    """How far a training has come: everything besides weights and optimizer that it needs to resume."""

    def __init__(self) -> None:
        self.step = 0
        self.loss_sum = 0.0
        self.loss_count = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []


class Watch(Protocol):
    """An observer that looks at the network after every step of a training."""

    def after_step(self) -> None:
        """Looks at the network; called after every step of the optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the observer needs to continue after an interruption."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state_dict` returned.

        Raises:
            ValueError: This observer cannot have returned that state.
        """


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: Progress,
    fingerprint: str,
    watch: Watch | None = None,
) -> None:
    """Writes a checkpoint to ``path``; ``fingerprint`` is a digest of the settings and inputs."""
    # torch gets an open file, because its own error for a path does not say why writing failed.
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
    """Restores ``network``, ``optimizer``, ``at`` and ``watch`` from a checkpoint.

    A checkpoint that cannot be used is refused but not deleted, because the user decides whether to start again.

    Args:
        steps: Number of steps of the whole training.
        per_epoch: Number of steps of an epoch.

    Raises:
        UserError: Any bit of the file is damaged, another program wrote it, its fingerprint differs, or it holds
            values that this training cannot have written.
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
    # Learning rates and weight decays come from the settings; those in the file are ignored.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
    vars(at).update(state["progress"])


def _read(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint, and refuses a damaged or foreign file."""
    try:
        whole = is_sealed(path)
        state = torch.load(path, weights_only=True, map_location="cpu") if whole else None
    except Exception:  # damage can make torch.load raise almost anything, such as IndexError or OSError
        state = None
    if not isinstance(state, dict) or set(state) != _KEYS or state["schema"] != SCHEMA:
        raise UserError("expected a whole checkpoint, got a damaged or foreign file", where=path, remedy=_REMEDY)
    return state
