"""A training's curves for TensorBoard."""

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
    """Raises UserError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "the package tensorboard is not installed", where="tensorboard",
            remedy="pip install 'usdn-nas[tensorboard]', or leave the setting out",
        ) from None  # fmt: skip


class Curves:
    """Where points go: an event file, or nowhere (``writer`` None)."""

    def __init__(self, writer: Any = None, folder: Path | None = None) -> None:
        self._writer = writer
        self._folder = folder

    @property
    def wanted(self) -> bool:
        """Whether anybody reads the points."""
        return self._writer is not None

    def add(self, group: str, figures: Mapping[str, float], step: int) -> None:
        """A point of each of the curves ``group/name``."""
        if self._writer is not None:
            with writing(self._folder):
                for name, value in figures.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Writes what is still in memory."""
        if self._writer is not None:
            with writing(self._folder):
                self._writer.flush()


@contextmanager
def open_curves(folder: Path | None, first: int) -> Iterator[Curves]:
    """Curves in an event file in ``folder`` (None: none are drawn), from step ``first`` on.

    Points of that step and later ones, which a training left there that was killed, count no more.
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
            with contextlib.suppress(OSError):  # the first failure says more
                writer.close()
            raise
        with writing(folder):
            writer.close()


@contextmanager
def _silent_threads() -> Iterator[None]:
    """Within this context, a thread that cannot write prints no traceback: the next call of its writer raises it."""
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
    """Path of each quantizer -> its step size."""
    return {
        name: abs(module.step.item()) for name, module in network.named_modules() if isinstance(module, LSQQuantizer)
    }
