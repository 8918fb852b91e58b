"""How the engine runs a supernet: back end, images a batch, layout and threads, chosen by a rule that reads no clock.

The same study on the same machine is therefore always run in the same way. docs/performance.md compares the rule with
the fastest settings of a measurement.
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
"""A batch of about so many multiply-accumulates is large beside the cost of calling its operators."""
_MACS_OF_A_THREAD = 2**27
"""A thread with fewer of them in a batch waits longer than it works."""


@dataclass(frozen=True)
class EngineSettings:
    """How to run.

    Attributes:
        backend: "float" or "integer".
        images: Images a batch.
        channels_last: Layout of the states.
        threads: Of torch while the engine runs; None: as they are.
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
    """Inside it, torch has ``threads`` threads; None: as many as before."""
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
    """The settings that suit ``supernet`` on its device: they follow from the device, from whether the processor adds
    up bytes exactly, and from the network's size.

    - Back end: "integer" if it can be used here, else "float".
    - Images a batch: a power of two such that a batch has about 2^29 multiply-accumulates (MACs), from 8 to 256.
    - Layout: channels last, in which convolutions are fused with what follows them.
    - Threads: one for each 2^27 MACs of a batch, at most ``threads``.

    Args:
        supernet: Where it is.
        backend: "auto" or the one to use.
        threads: Threads that there are; None: torch's number.

    Raises:
        UserError: The integer back end is asked for and cannot be used here.
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
    """Refuses a back end that cannot be used on ``device``. ``stored``: a study was started with it.

    Raises:
        UserError: It cannot be used; the message says why and what to do.
    """
    why = BACKENDS[backend].unavailable(device)
    if why is not None:
        started = "the study was started with the integer back end, which" if stored else "the integer back end"
        remedy = "start a study of another name with search.backend = 'float'" if stored else "'auto' or 'float'"
        raise UserError(f"{started} cannot run here: {why}", where="search.backend", remedy=remedy)
