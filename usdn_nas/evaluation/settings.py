"""How the engine runs a supernet here: back end, layout, batch size and threads, chosen by a short measurement."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from usdn_nas.errors import UserError
from usdn_nas.evaluation.outputs import Batches
from usdn_nas.quant.backends import BACKENDS, BackendName
from usdn_nas.quant.parts import PartCompiler
from usdn_nas.quant.supernet import Supernet

__all__ = ["EngineSettings", "choose_settings", "thread_limit"]

_IMAGES = (8, 16, 32, 64, 128, 256)
_SECONDS = 0.25
"""A forward pass that takes longer than this is not tried with more images."""
_REPEATS = 3
_HOPELESS = 4
"""What takes this many times as long as the fastest is not tried again: threads on a busy machine may take minutes."""
_CLEARLY = 0.95
"""More threads, or another back end than the float one, must take less than this share of the time."""


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


@contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Torch with ``threads`` threads; None: as they are."""
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
    supernet: Supernet, batches: Batches, backend: Literal["auto", "float", "integer"] = "auto"
) -> EngineSettings:
    """The fastest settings for ``supernet`` on this machine, found in seconds.

    First the back end, the layout and the threads (one, or as many as torch has now) with a few images, then how many
    images. The middle choice of every group stands for all.

    Raises:
        UserError: The integer back end is asked for and cannot be used here.
    """
    names = _backends(backend, next(supernet.parameters()).device)
    images = _first_images(batches, _IMAGES[-1])
    threads = sorted({1, torch.get_num_threads()})
    tried = [
        EngineSettings(name, _IMAGES[0], layout, count)
        for name, layout, count in itertools.product(names, (True, False), threads)
        if layout or name == "float"
    ]
    trials = {settings: _Trial(supernet, settings) for settings in tried}
    best = _fastest(trials, images)
    return replace(best, images=_image_count(trials[best], images))


def _backends(wanted: str, device: torch.device) -> list[BackendName]:
    """The back ends to try."""
    if wanted == "float" or "integer" not in BACKENDS:
        return ["float"]
    why = BACKENDS["integer"].unavailable(device)
    if wanted == "integer":
        if why is not None:
            raise UserError(
                f"the integer back end cannot run here: {why}", where="search.backend", remedy="'auto' or 'float'"
            )
        return ["integer"]
    return ["float", "integer"] if why is None else ["float"]


def _first_images(batches: Batches, count: int) -> Tensor:
    """The first images of a split, (at most ``count``, C, H, W)."""
    found: list[Tensor] = []
    for images, _ in batches:
        found.append(images)
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


class _Trial:
    """A forward pass with one setting."""

    def __init__(self, supernet: Supernet, settings: EngineSettings) -> None:
        self.settings = settings
        space = supernet.space
        bits = space.layer_bits(space.choice_bits([len(group.choices) // 2 for group in space.groups]))
        compiler = PartCompiler(supernet, settings.backend, channels_last=settings.channels_last)
        self.compiler = compiler
        self.segments = [compiler.segment(i, bits) for i in range(len(supernet.chain.segments))]
        self.heads = [compiler.head(i, bits) for i in range(len(supernet.chain.heads))]
        self.exits = {segment: number for number, segment in enumerate(supernet.chain.exit_segments)}

    @torch.inference_mode()
    def seconds(self, images: Tensor) -> float:
        """Of one pass."""
        with thread_limit(self.settings.threads):
            state: tuple[Tensor, ...] = (self.compiler.prepared(images),)
            start = time.perf_counter()
            for index, segment in enumerate(self.segments):
                state = segment(state)
                if index in self.exits:
                    self.heads[self.exits[index]](state)
            if images.is_cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - start


def _fastest(trials: dict[EngineSettings, _Trial], images: Tensor) -> EngineSettings:
    """The settings whose pass is fastest, taken in turn; the simpler ones unless others are clearly faster."""
    few = images[: _IMAGES[0]]
    first = {settings: trial.seconds(few) for settings, trial in trials.items()}  # warms up
    trials = {
        settings: trial for settings, trial in trials.items() if first[settings] < _HOPELESS * min(first.values())
    }
    count = min(len(images), max(_IMAGES[0], int(len(few) * 0.1 / min(first.values()))))
    seconds = dict.fromkeys(trials, float("inf"))
    for _, (settings, trial) in itertools.product(range(_REPEATS), trials.items()):
        seconds[settings] = min(seconds[settings], trial.seconds(images[:count]))
    best = next(iter(trials))
    for settings in trials:
        if seconds[settings] < _CLEARLY * seconds[best]:
            best = settings
    return best


def _image_count(trial: _Trial, images: Tensor) -> int:
    """The number of images a batch that takes least time an image; the smaller unless more are clearly faster."""
    best, least = min(_IMAGES[0], len(images)), float("inf")
    for count in _IMAGES:
        if count > len(images):
            break
        each = min(trial.seconds(images[:count]) for _ in range(_REPEATS)) / count
        if each < _CLEARLY * least:
            best, least = count, each
        if each * count > _SECONDS:
            break
    return best
