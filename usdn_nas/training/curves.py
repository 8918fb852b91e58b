"""Writes the curves of a training for TensorBoard."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from usdn_nas._util.errors import UserError
from usdn_nas._util.writing import writing
from usdn_nas.quant.quantizers import LSQQuantizer

__all__ = ["Curves", "check_tensorboard", "open_curves", "step_sizes"]


def check_tensorboard() -> None:
    """Raises UserError if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "the package tensorboard is not installed", where="tensorboard",
            remedy="pip install 'usdn-nas[tensorboard]', or leave the setting out",
        ) from None  # fmt: skip


class Curves:
    """Collects the points of curves and writes them to an event file; with ``writer`` None it drops them."""

    def __init__(self, writer: Any = None, folder: Path | None = None) -> None:
        self._writer = writer
        self._folder = folder

    @property
    def wanted(self) -> bool:
        """True if the points are written to a file."""
        return self._writer is not None

    def add(self, group: str, figures: Mapping[str, float], step: int) -> None:
        """Adds one point at ``step`` to each curve ``group/name``, where ``figures`` maps name to value."""
        if self._writer is not None:
            with writing(self._folder):
                for name, value in figures.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Writes the points that are still in memory."""
        if self._writer is not None:
            with writing(self._folder):
                self._writer.flush()


@contextmanager
def open_curves(folder: Path | None, first: int) -> Iterator[Curves]:
    """Opens curves that start at step ``first`` in an event file in ``folder``; None: no file is written.

    TensorBoard ignores older points of that step and of later steps, which an interrupted training may have left.
    """
    if folder is None:
        yield Curves()
        return
    from torch.utils.tensorboard import SummaryWriter

    with _silent_threads():
        with writing(folder):
            writer = SummaryWriter(str(folder), purge_step=first)
        try:
            yield Curves(writer, folder)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is more informative
                writer.close()
            raise
        with writing(folder):
            writer.close()


@contextmanager
def _silent_threads() -> Iterator[None]:
    """Keeps threads from printing the traceback of an OSError; the next call of the writer raises that error anyway."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def step_sizes(network: nn.Module) -> dict[str, float]:
    """Returns the step size of each quantizer, keyed by the quantizer's path in the network."""
    return {
        name: abs(module.step.item()) for name, module in network.named_modules() if isinstance(module, LSQQuantizer)
    }
