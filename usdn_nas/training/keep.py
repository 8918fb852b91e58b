"""A training of 0 epochs: the network stays unchanged, and the same files are written as by any training."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from torch import nn

from usdn_nas._util.files import write_text
from usdn_nas.networks.weights import save_weights
from usdn_nas.training.loop import HISTORY, WEIGHTS

__all__ = ["keep"]


def keep(network: nn.Module, folder: Path, figures: dict[str, float]) -> None:
    """Writes ``weights.safetensors``, and ``history.csv`` with one row for epoch 0: it has ``figures`` but no loss."""
    folder.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(("loss", "lr", "seconds", "images_per_second"), "")
    row = {"epoch": 0, "step": 0, **nothing, **figures}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row))
    writer.writeheader()
    writer.writerow(row)
    write_text(folder / HISTORY, text.getvalue())
    save_weights(network, folder / WEIGHTS)
