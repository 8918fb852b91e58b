"""Chooses how the engine runs a supernet: back end, batch size, memory layout and number of threads.

The rule measures no time. The same study on the same machine therefore always runs in the same way.
docs/performance.md compares the rule with the fastest measured settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from usdn_nas._util.errors import UserError
from usdn_nas.engine.backends import BACKENDS, BackendName
from usdn_nas.quant.supernet import Supernet

__all__ = ["EngineSettings", "check_backend", "choose_settings", "thread_limit"]

_FEWEST_IMAGES, _MOST_IMAGES = 8, 256
_MACS_OF_A_BATCH = 2**29
"""Multiply-accumulates (MACs) of a batch at which calling the operators costs little compared with running them."""
_MACS_OF_A_THREAD = 2**27
"""A thread with fewer MACs in a batch waits longer than it works."""


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the engine.

    Attributes:
        backend: "float" or "integer".
        images: Number of images in a batch.
        channels_last: Whether states are stored channels-last.
        threads: Number of torch's threads while the engine runs; None: unchanged.
    """

    backend: BackendName
    images: int
    channels_last: bool = True
    threads: int | None = None

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        threads = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.backend} back end, {self.images} images a batch, {layout}{threads}"


@contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Sets torch's number of threads inside the ``with`` block; None leaves it unchanged."""
    before = torch.get_num_threads()
    if threads in (None, before):
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_settings(
    supernet: Supernet, backend: Literal["auto", "float", "integer"] = "auto", threads: int | None = None
) -> EngineSettings:
    """Returns settings that suit ``supernet`` on its device.

    They depend on the device, on the size of the network, and on whether the processor adds products of bytes exactly.

    - Back end: "integer" if it can be used here, else "float".
    - Batch size: a power of two from 8 to 256 images, so that a batch has about 2^29 multiply-accumulates (MACs).
    - Layout: channels last, because convolutions are then fused with the operations that follow them.
    - Threads: one for each 2^27 MACs of a batch, at most ``threads``.

    Args:
        supernet: The supernet, on the device on which it will run.
        backend: "auto", or the back end to use.
        threads: Number of available threads; None: torch's own number.

    Raises:
        UserError: The integer back end is requested and cannot be used here.
    """
    device = next(supernet.parameters()).device
    if backend == "auto":
        backend = "float" if BACKENDS["integer"].unavailable(device) else "integer"
    check_backend(backend, device)
    macs = sum(layer.macs for layer in supernet.space.chain.layers())
    images = _FEWEST_IMAGES
    while images < _MOST_IMAGES and 2 * images * macs <= _MACS_OF_A_BATCH:
        images *= 2
    there = torch.get_num_threads() if threads is None else threads
    return EngineSettings(backend, images, threads=max(1, min(there, images * macs // _MACS_OF_A_THREAD)))


def check_backend(backend: BackendName, device: torch.device, *, stored: bool = False) -> None:
    """Raises an error if a back end cannot be used on ``device``.

    Args:
        backend: Name of the back end.
        device: The device to run on.
        stored: Whether an existing study was started with this back end. The message then suggests a new study.

    Raises:
        UserError: The back end cannot be used; the message says why and what to do.
    """
    why = BACKENDS[backend].unavailable(device)
    if why is not None:
        started = "the study was started with the integer back end, which" if stored else "the integer back end"
        remedy = "start a study of another name with search.backend = 'float'" if stored else "'auto' or 'float'"
        raise UserError(f"{started} cannot run here: {why}", where="search.backend", remedy=remedy)
