"""A training's checkpoint: everything that a resumed one needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from usdn_nas.errors import UserError
from usdn_nas.writing import atomic_path

__all__ = ["Progress", "Watch", "load_checkpoint", "save_checkpoint"]


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
        """Goes on from a state."""


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
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(
            {
                "schema": "usdn-nas/checkpoint/1",
                "fingerprint": fingerprint,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": vars(at),
                "watch": None if watch is None else watch.state_dict(),
            },
            file,
        )


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: Progress,
    fingerprint: str,
    watch: Watch | None = None,
) -> None:
    """Puts ``network``, ``optimizer``, ``at`` and ``watch`` where they were.

    Raises:
        UserError: The file is truncated, foreign, or has another fingerprint.
    """
    remedy = "delete it to train this stage anew"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state.get("fingerprint") != fingerprint:
            raise UserError("checkpoint of other settings or data", where=path, remedy=remedy)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        vars(at).update(state["progress"])
        if watch is not None:
            watch.load_state_dict(state["watch"])
    except UserError:
        raise
    except Exception:  # torch.load raises whatever the damage leads to, IndexError and OSError among others
        raise UserError(
            "expected a whole checkpoint, got a truncated or foreign file", where=path, remedy=remedy
        ) from None
